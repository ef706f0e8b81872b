//! The fields of a kind, as its schema in the cluster says, and what may be written into them.

use serde_json::{Value, json};

/// What a string without a limit is filled with.
const LONG: usize = 2000;
/// What an array without a limit is filled with.
const MANY: usize = 65;

/// One step towards a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A field by its name.
    Name(String),
    /// An item of a list.
    Item,
    /// A value of a map.
    Entry,
}

/// One field, at whatever depth, with the schema of each step on the way to it.
#[derive(Clone, Debug)]
pub(crate) struct Field {
    path: Vec<(Step, Value)>,
}

/// All fields of a schema.
pub(crate) fn fields(schema: &Value) -> Vec<Field> {
    let mut all = Vec::new();
    walk(schema, &[], &mut all);
    all
}

fn walk(schema: &Value, path: &[(Step, Value)], all: &mut Vec<Field>) {
    let mut into = |step: Step, schema: &Value| {
        let path: Vec<_> = path.iter().cloned().chain([(step, schema.clone())]).collect();
        all.push(Field { path: path.clone() });
        walk(schema, &path, all);
    };
    for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
        into(Step::Name(name.clone()), schema);
    }
    if schema["items"].is_object() {
        into(Step::Item, &schema["items"]);
    }
    if schema["additionalProperties"].is_object() {
        into(Step::Entry, &schema["additionalProperties"]);
    }
}

impl std::fmt::Display for Field {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (step, _) in &self.path {
            match step {
                Step::Name(name) => write!(f, ".{name}")?,
                Step::Item => write!(f, "[]")?,
                Step::Entry => write!(f, "{{}}")?,
            }
        }
        Ok(())
    }
}

impl Field {
    /// Where it stands in a value: lists of alternatives are searched for the item that has it. None where something on
    /// the way is not there.
    pub(crate) fn pointer(&self, value: &Value) -> Option<String> {
        find(&self.path, value)
    }

    /// Makes the field be there, with all that its surroundings need. Where it stands then.
    pub(crate) fn make(&self, value: &mut Value) -> String {
        let mut pointer = String::new();
        let mut at = value;
        for (index, (step, schema)) in self.path.iter().enumerate() {
            let key = match step {
                Step::Name(name) => name.clone(),
                Step::Entry => at.as_object().and_then(|map| map.keys().next().cloned()).unwrap_or("x".to_owned()),
                Step::Item => {
                    let items = at.as_array().map_or(&[] as &[Value], Vec::as_slice);
                    let rest = &self.path[index + 1..];
                    // The item that comes closest: an alternative that lacks it, rather than another alternative.
                    let depth =
                        |item: &Value| (0..=rest.len()).rev().find(|depth| find(&rest[..*depth], item).is_some());
                    let closest = items.iter().enumerate().rev().max_by_key(|(_, item)| depth(item));
                    closest.map_or(0, |(index, _)| index).to_string()
                }
            };
            pointer.push('/');
            pointer.push_str(&key);
            at = child(at, step, &key, schema);
        }
        pointer
    }

    /// What to write into it, and how that is called; none removes it.
    pub(crate) fn values(&self, present: Option<&Value>) -> Vec<(&'static str, Option<Value>)> {
        let Some((_, schema)) = self.path.last() else { return Vec::new() };
        let mut values = vec![("absent", None)];
        values.extend(of_type(schema, present).into_iter().map(|(name, value)| (name, Some(value))));
        values
    }
}

fn find(path: &[(Step, Value)], value: &Value) -> Option<String> {
    let Some(((step, _), rest)) = path.split_first() else { return Some(String::new()) };
    match step {
        Step::Name(name) => Some(format!("/{name}{}", find(rest, value.get(name)?)?)),
        Step::Entry => {
            let mut entries = value.as_object()?.iter();
            entries.find_map(|(key, value)| Some(format!("/{key}{}", find(rest, value)?)))
        }
        Step::Item => {
            let mut items = value.as_array()?.iter().enumerate();
            items.find_map(|(index, value)| Some(format!("/{index}{}", find(rest, value)?)))
        }
    }
}

/// A part of a value, which is made where it is not there.
fn child<'v>(value: &'v mut Value, step: &Step, key: &str, schema: &Value) -> &'v mut Value {
    match step {
        Step::Item => {
            if !value.is_array() {
                *value = json!([]);
            }
            if value.as_array().is_none_or(Vec::is_empty) {
                *value = json!([sample(schema)]);
            }
            &mut value[key.parse::<usize>().unwrap_or(0)]
        }
        Step::Name(_) | Step::Entry => {
            if !value.is_object() {
                *value = json!({});
            }
            if value.get(key).is_none_or(Value::is_null) {
                value[key] = sample(schema);
            }
            &mut value[key]
        }
    }
}

/// Something that the schema allows.
fn sample(schema: &Value) -> Value {
    if let Some(first) = schema["enum"].as_array().and_then(|all| all.first()) {
        return first.clone();
    }
    match schema["type"].as_str().unwrap_or_default() {
        "string" => json!(sample_text(schema)),
        "integer" | "number" => json!(1),
        "boolean" => json!(false),
        "array" => json!([sample(&schema["items"])]),
        _ => {
            let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            required.map(|name| (name.to_owned(), sample(&schema["properties"][name]))).collect()
        }
    }
}

fn sample_text(schema: &Value) -> String {
    let pattern = schema["pattern"].as_str().unwrap_or_default();
    match schema["format"].as_str() {
        Some("date-time") => "2026-11-24T00:00:00.000000Z".to_owned(),
        _ if pattern.contains("{64}") => "0".repeat(64),
        _ if pattern.contains('%') => "1%".to_owned(),
        _ if pattern.contains("Mi") => "1Mi".to_owned(),
        _ if pattern.contains("ms") => "1s".to_owned(),
        _ if pattern.contains("Always") => "Always".to_owned(),
        _ => "a".to_owned(),
    }
}

fn of_type(schema: &Value, present: Option<&Value>) -> Vec<(&'static str, Value)> {
    // Limits are written as numbers with a fraction.
    #[expect(clippy::cast_possible_truncation, reason = "limits are whole, and within 64 bits")]
    let number = |name: &str| schema[name].as_i64().or(schema[name].as_f64().map(|limit| limit as i64));
    let mut values = match schema["type"].as_str().unwrap_or_default() {
        "string" => {
            let longest = number("maxLength").and_then(|max| usize::try_from(max).ok()).unwrap_or(LONG);
            let mut values = vec![
                ("empty", json!("")),
                ("longest", json!("x".repeat(longest))),
                ("too long", json!("x".repeat(longest + 1))),
                ("wrong", json!("no such thing")),
                ("of another type", json!(7)),
            ];
            values.extend(others(schema));
            values
        }
        "integer" | "number" => {
            let (low, high) = match schema["format"].as_str() {
                Some("int32") => (i64::from(i32::MIN), i64::from(i32::MAX)),
                Some("uint32") => (0, i64::from(u32::MAX)),
                Some("uint64") => (0, i64::MAX),
                _ => (i64::MIN, i64::MAX),
            };
            let (low, high) = (number("minimum").unwrap_or(low), number("maximum").unwrap_or(high));
            vec![
                ("zero", json!(0)),
                ("lowest", json!(low)),
                ("too low", json!(low.saturating_sub(1))),
                ("highest", json!(high)),
                ("too high", json!(high.unsigned_abs() + 1)),
                ("of another type", json!("x")),
            ]
        }
        "boolean" => vec![("true", json!(true)), ("false", json!(false)), ("of another type", json!("x"))],
        "array" => {
            let many = number("maxItems").and_then(|max| usize::try_from(max).ok()).unwrap_or(MANY);
            let item = present.and_then(|items| items.get(0).cloned()).unwrap_or_else(|| sample(&schema["items"]));
            vec![
                ("empty", json!([])),
                ("twice the same", json!([item, item])),
                ("full", json!(vec![item.clone(); many])),
                ("too full", json!(vec![item; many + 1])),
                ("of another type", json!({})),
            ]
        }
        _ => vec![("empty", json!({})), ("of another type", json!("x"))],
    };
    if schema["nullable"] == true {
        values.push(("null", Value::Null));
    }
    values.retain(|(_, value)| Some(value) != present);
    values
}

/// What the schema allows and the field is not.
fn others(schema: &Value) -> Vec<(&'static str, Value)> {
    let named = schema["enum"].as_array().into_iter().flatten();
    let mut others: Vec<_> = named.map(|value| ("another", value.clone())).collect();
    if schema["format"] == "date-time" {
        others.push(("long ago", json!("0001-01-01T00:00:00.000000Z")));
        others.push(("far ahead", json!("9999-12-31T23:59:59.999999Z")));
    } else if others.is_empty() {
        others.push(("another", json!(sample_text(schema))));
    }
    others
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema() -> Value {
        json!({"type": "object", "properties": {
            "gates": {"type": "array", "items": {"type": "object", "required": ["name"], "properties": {
                "name": {"type": "string"},
                "soak": {"type": "object", "required": ["duration"], "properties": {
                    "duration": {"type": "string", "pattern": "^[0-9]+(ms|s)$"}}}}}},
            "order": {"type": "integer", "minimum": 0, "maximum": 9},
        }})
    }

    #[test]
    fn every_field_is_found_at_every_depth() {
        let names: Vec<String> = fields(&schema()).iter().map(ToString::to_string).collect();
        assert_eq!(names, [".gates", ".gates[]", ".gates[].name", ".gates[].soak", ".gates[].soak.duration", ".order"]);
    }

    #[test]
    fn a_field_stands_in_the_item_that_has_it_or_is_made() {
        let all = fields(&schema());
        let duration = all.iter().find(|field| field.to_string() == ".gates[].soak.duration").expect("a field");
        let value = json!({"gates": [{"name": "a"}, {"name": "b", "soak": {"duration": "2s"}}]});
        assert_eq!(duration.pointer(&value).as_deref(), Some("/gates/1/soak/duration"));
        let mut lacks_it = json!({"gates": [{"name": "a"}, {"name": "b", "soak": {}}, {"name": "c"}]});
        assert_eq!(duration.make(&mut lacks_it), "/gates/1/soak/duration");
        let mut nothing = json!({});
        assert_eq!(duration.pointer(&nothing), None);
        assert_eq!(duration.make(&mut nothing), "/gates/0/soak/duration");
        assert_eq!(nothing, json!({"gates": [{"name": "a", "soak": {"duration": "1s"}}]}));
    }

    #[test]
    fn values_go_to_the_limits_and_beyond() {
        let order = fields(&schema()).pop().expect("a field");
        let values = order.values(Some(&json!(9)));
        let numbers: Vec<_> = values.into_iter().filter_map(|(_, value)| value).collect();
        assert_eq!(numbers, [json!(0), json!(0), json!(-1), json!(10), json!("x")]);
    }
}
