//! Where in a document the value stands that a wire value's own check refused.

use sluice_config::{Environment, Invalid};

use super::{
    fault::{Fault, clip},
    node::{Node, Place, Value},
};

/// The environment whose content a refusal is about, if it names one.
pub(super) fn environment_of(invalid: &Invalid) -> Option<Environment> {
    Environment::ALL.into_iter().find(|e| invalid.field.split('.').next() == Some(e.as_str()))
}

/// The refusal as a fault of the document in that environment.
pub(super) fn fault_of(document: &Node, invalid: &Invalid) -> Fault {
    let names: Vec<&str> = invalid.field.split('.').map(|s| s.split('[').next().unwrap_or(s)).collect();
    let names = if environment_of(invalid).is_some() { &names[1..] } else { &names[..] };
    let path: Vec<&str> = match names {
        ["artifact", ..] => vec!["spec", "wasm"],
        ["name"] => vec!["metadata", "name"],
        other => std::iter::once("spec").chain(other.iter().copied()).collect(),
    };
    // The refusal quotes the value where it is one of many.
    let quoted = invalid.problem.split('`').nth(1);
    let place = find(document, &path, quoted)
        .or_else(|| find(document, &path, None))
        .unwrap_or_else(|| document.get("spec").map_or(document.place, |(key, _)| key.place));
    let mut fault = Fault::sentence(&invalid.problem).at(place);
    for name in path.iter().rev() {
        fault = fault.under(name);
    }
    fault
}

/// The first value at this path, through every item of lists on the way, that reads as `quoted`.
fn find(node: &Node, path: &[&str], quoted: Option<&str>) -> Option<Place> {
    match (&node.value, path) {
        (Value::List(items), _) if !items.is_empty() && (quoted.is_some() || !path.is_empty()) => {
            items.iter().find_map(|item| find(item, path, quoted))
        }
        (Value::Map(entries), [name, rest @ ..]) => match node.get(name) {
            Some((_, child)) => find(child, rest, quoted),
            // A binding's wire form is flat, its manifest has one more level.
            None => entries
                .iter()
                .filter(|(_, child)| matches!(child.value, Value::Map(_)))
                .find_map(|(_, child)| find(child, path, quoted)),
        },
        (Value::Map(entries), []) if quoted.is_some() => {
            let key = entries.iter().find(|(k, _)| quoted == Some(clip(&k.name).as_str())).map(|(k, _)| k.place);
            key.or_else(|| entries.iter().find_map(|(_, child)| find(child, path, quoted)))
        }
        (Value::Text(text), []) if quoted.is_some_and(|q| q != clip(text)) => None,
        (_, []) if quoted.is_none() || matches!(node.value, Value::Text(_)) => Some(node.place),
        _ => None,
    }
}
