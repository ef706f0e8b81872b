//! The document as it is in each environment: `spec.environments.<name>` merged over `spec`.

use sluice_config::Environment;

use super::{
    fault::{Fault, clip},
    node::{Key, Node, Value},
};

/// What is the same in both environments: the checks between groups, and the bytes that run.
const FIXED: [(&str, &str); 3] = [
    ("gates", "gates are the same in both: write them under spec"),
    ("together", "what goes together does so in both: write it under spec"),
    ("wasm", "the digest is the same in both: write it under spec"),
];

/// The document in one environment.
pub(super) fn document_in(document: &Node, environment: Environment) -> Result<Node, Fault> {
    let Value::Map(entries) = &document.value else { return Ok(document.clone()) };
    let mut merged = Vec::with_capacity(entries.len());
    for (key, node) in entries {
        let node = if key.name == "spec" { spec_in(node, environment)? } else { node.clone() };
        merged.push((key.clone(), node));
    }
    Ok(Node { place: document.place, value: Value::Map(merged) })
}

fn spec_in(spec: &Node, environment: Environment) -> Result<Node, Fault> {
    let Value::Map(entries) = &spec.value else { return Ok(spec.clone()) };
    let base = entries.iter().filter(|(k, _)| k.name != "environments").cloned().collect();
    let base = Node { place: spec.place, value: Value::Map(base) };
    let Some((_, environments)) = spec.get("environments") else { return Ok(base) };
    check(environments).map_err(|fault| fault.under("environments"))?;
    Ok(match environments.get(environment.as_str()) {
        None => base,
        Some((_, overlay)) if matches!(overlay.value, Value::Null) => base,
        Some((_, overlay)) => over(&base, overlay),
    })
}

/// Both overlays are checked whichever is asked for, so that both environments tell the same.
fn check(environments: &Node) -> Result<(), Fault> {
    let Value::Map(entries) = &environments.value else {
        if matches!(environments.value, Value::Null) {
            return Ok(());
        }
        let reason = format!("is {}", environments.value.what());
        return Err(Fault::new(reason, "write staging: or production: below it").at(environments.place));
    };
    for (key, overlay) in entries {
        if !Environment::ALL.iter().any(|e| e.as_str() == key.name) {
            let fault =
                Fault::new(format!("there is no environment `{}`", clip(&key.name)), "write staging or production");
            return Err(fault.at(key.place));
        }
        check_overlay(overlay).map_err(|fault| fault.under(&key.name))?;
    }
    Ok(())
}

fn check_overlay(overlay: &Node) -> Result<(), Fault> {
    if !matches!(overlay.value, Value::Map(_) | Value::Null) {
        let fault = Fault::new(format!("is {}", overlay.value.what()), "write the fields of spec that differ");
        return Err(fault.at(overlay.place));
    }
    for (name, remedy) in FIXED {
        if let Some((key, _)) = overlay.get(name) {
            return Err(Fault::new("may not differ by environment", remedy).at(key.place).under(name));
        }
    }
    Ok(())
}

/// Maps are merged, all else is replaced. What comes from the overlay keeps its own line.
fn over(base: &Node, overlay: &Node) -> Node {
    let (Value::Map(below), Value::Map(above)) = (&base.value, &overlay.value) else {
        return overlay.clone();
    };
    let mut merged: Vec<(Key, Node)> = Vec::with_capacity(below.len() + above.len());
    for (key, node) in below {
        match above.iter().find(|(k, _)| k.name == key.name) {
            Some((k, n)) => merged.push((k.clone(), over(node, n))),
            None => merged.push((key.clone(), node.clone())),
        }
    }
    let new = above.iter().filter(|(k, _)| !below.iter().any(|(b, _)| b.name == k.name));
    merged.extend(new.cloned());
    Node { place: base.place, value: Value::Map(merged) }
}
