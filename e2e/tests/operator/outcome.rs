//! What is stored once nothing goes on any more, without what another way to the same end may change.

use std::collections::BTreeMap;

use anyhow::Result;
use jiff::Timestamp;
use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DynamicObject, ListParams},
};
use serde_json::Value;
use sluice_crds::{Assignment, DataplaneNode, Revision, Rollout, Unit};

/// Objects by kind and name.
pub(crate) type Outcome = BTreeMap<String, Value>;

/// What a gate measured on its way. An operator that begins anew counts anew, so that the numbers differ; what follows
/// from them must not.
const MEASURED: [&str; 9] = [
    "samples",
    "requests",
    "errors",
    "watched",
    "watchedUntil",
    "lastSampleAt",
    "consecutiveFailures",
    "behindSince",
    "heldSince",
];

/// Generations count the changes of all groups in the order in which they were written, and two groups that change at
/// the same time may do so in either.
const NUMBERED: [&str; 3] = ["generation", "appliedGeneration", "since"];

/// The same, in the lines of entries.
const NUMBERED_WORD: &str = "since=";

/// Fields that may hold such numbers among words.
const SENTENCES: [&str; 3] = ["message", "reason", "waitingFor"];

/// All that a rollout leaves behind.
pub(crate) async fn read(client: &Client) -> Result<Outcome> {
    let (mut outcome, mut told, mut run) = (Outcome::new(), BTreeMap::new(), Vec::new());
    for resource in [
        ApiResource::erase::<Assignment>(&()),
        ApiResource::erase::<Unit>(&()),
        ApiResource::erase::<Rollout>(&()),
        ApiResource::erase::<Revision>(&()),
        ApiResource::erase::<DataplaneNode>(&()),
    ] {
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
        for object in api.list(&ListParams::default()).await? {
            let name = object.name_any();
            let DynamicObject { types: _, metadata: _, data } = object;
            match resource.kind.as_str() {
                "Assignment" => drop(told.insert(name.clone(), data["spec"]["generation"].clone())),
                "DataplaneNode" => run.push((name.clone(), data.clone())),
                _ => {}
            }
            outcome.insert(format!("{} {name}", resource.kind), essence(data));
        }
    }
    for (node, data) in run {
        let group = data["spec"]["group"].as_str().unwrap_or_default();
        let follows = told.get(group) == Some(&data["status"]["appliedGeneration"]);
        outcome.insert(format!("{node} runs what it is told"), follows.into());
    }
    Ok(outcome)
}

/// Times are told apart from their absence only, and numbers in sentences and entries are left out.
fn essence(value: Value) -> Value {
    match value {
        Value::String(text) if text.parse::<Timestamp>().is_ok() => "a time".into(),
        Value::Object(fields) => {
            let varies = |name: &str| MEASURED.contains(&name) || NUMBERED.contains(&name);
            let fields = fields.into_iter().filter(|(name, _)| !varies(name));
            let fields =
                fields.map(|(name, value)| match value.as_str().filter(|_| SENTENCES.contains(&name.as_str())) {
                    Some(text) => (name, wording(text).into()),
                    None => (name, essence(value)),
                });
            fields.collect()
        }
        Value::String(text) if text.contains(NUMBERED_WORD) => {
            let words = text.split(' ').filter(|word| !word.starts_with(NUMBERED_WORD));
            words.collect::<Vec<_>>().join(" ").into()
        }
        Value::Array(items) => items.into_iter().map(essence).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value,
    }
}

/// A sentence without its numbers.
fn wording(text: &str) -> String {
    let is_number = |c: char| c.is_ascii_digit() || c == '.';
    let mut words = String::new();
    for c in text.chars() {
        match c {
            c if !is_number(c) => words.push(c),
            _ if words.ends_with('#') => {}
            _ => words.push('#'),
        }
    }
    words
}

/// What differs, path by path.
pub(crate) fn differences(expected: &Outcome, found: &Outcome) -> Vec<String> {
    let all = |outcome: &Outcome| Value::Object(outcome.clone().into_iter().collect());
    let mut differences = Vec::new();
    compare("", &all(expected), &all(found), &mut differences);
    differences
}

fn compare(path: &str, expected: &Value, found: &Value, differences: &mut Vec<String>) {
    match (expected, found) {
        (Value::Object(expected), Value::Object(found)) => {
            let names = expected.keys().chain(found.keys().filter(|name| !expected.contains_key(*name)));
            for name in names {
                let field = |of: &serde_json::Map<String, Value>| of.get(name).cloned().unwrap_or_default();
                compare(&format!("{path}.{name}"), &field(expected), &field(found), differences);
            }
        }
        (Value::Array(expected), Value::Array(found)) if expected.len() == found.len() => {
            for (index, (expected, found)) in expected.iter().zip(found).enumerate() {
                compare(&format!("{path}[{index}]"), expected, found, differences);
            }
        }
        (expected, found) if expected == found => {}
        (expected, found) => differences.push(format!("{path}: {found}, not {expected}")),
    }
}

#[test]
fn only_numbers_and_times_of_measuring_are_left_out() {
    let found = |percent: &str, attempt: u32| {
        let gate = serde_json::json!({"name": "errors", "verdict": "Fail", "requests": attempt,
            "startedAt": "2026-11-24T00:00:00.000000Z", "message": format!("{percent}% > 1% on node-m")});
        essence(serde_json::json!({"attempt": attempt, "gates": [gate]}))
    };
    assert_eq!(found("9.97", 1), found("10", 1));
    let outcome = |value: Value| Outcome::from([("Rollout x".to_owned(), value)]);
    let differences = differences(&outcome(found("10", 1)), &outcome(found("10", 2)));
    assert_eq!(differences, [".Rollout x.attempt: 2, not 1"]);
    let entries = |entry: &str| essence(serde_json::json!({"entries": format!("{entry}\n{entry}\n")}));
    assert_eq!(
        entries("Routes/team/shop since=16 revision=a stable=b"),
        entries("Routes/team/shop since=14 revision=a stable=b")
    );
    assert_ne!(
        entries("Routes/team/shop since=16 revision=a stable=b"),
        entries("Routes/team/shop since=16 revision=a stable=a")
    );
}
