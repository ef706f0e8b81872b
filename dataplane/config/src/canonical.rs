//! The one text form of a JSON value that digests are taken of.
//!
//! Two programs must get the same text from the same content whatever crate features they were
//! built with and whatever the API server did to the JSON in between: keys are sorted here, not
//! by the map type of `serde_json` (its `preserve_order` feature would undo that), and a whole
//! number is written without a fraction, because a trip through the API server turns `1.0` into `1`.

use std::collections::BTreeMap;

use serde_json::{Number, Value};

/// Above this, whole `f64`s are not exact: they stay as they are.
const EXACT_WHOLE_MAX: f64 = 9_007_199_254_740_992.0;

/// Compact JSON, keys sorted by bytes at every level.
///
/// # Errors
/// Never for strings and numbers that came from JSON.
pub(crate) fn text(value: &Value) -> Result<String, serde_json::Error> {
    let mut out = String::new();
    write(value, &mut out)?;
    Ok(out)
}

fn write(value: &Value, out: &mut String) -> Result<(), serde_json::Error> {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(number) => out.push_str(&number_text(number)),
        Value::String(string) => out.push_str(&serde_json::to_string(string)?),
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write(item, out)?;
            }
            out.push(']');
        }
        Value::Object(map) => {
            let sorted: BTreeMap<&str, &Value> = map.iter().map(|(k, v)| (k.as_str(), v)).collect();
            out.push('{');
            for (i, (key, item)) in sorted.into_iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                out.push_str(&serde_json::to_string(key)?);
                out.push(':');
                write(item, out)?;
            }
            out.push('}');
        }
    }
    Ok(())
}

#[allow(clippy::cast_possible_truncation, reason = "guarded: whole and within the exact range")]
fn number_text(number: &Number) -> String {
    match number.as_f64() {
        Some(f) if number.is_f64() && f.fract() == 0.0 && f.abs() <= EXACT_WHOLE_MAX => (f as i64).to_string(),
        Some(_) | None => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_are_sorted_at_every_level_whatever_order_they_came_in() {
        let mut outer = serde_json::Map::new();
        for key in ["b", "é", "a", "Z", "aa"] {
            let mut inner = serde_json::Map::new();
            inner.insert("y".into(), json!([{"d": 1, "c": 2}]));
            inner.insert("x".into(), Value::Null);
            outer.insert(key.into(), Value::Object(inner));
        }
        let inner = r#"{"x":null,"y":[{"c":2,"d":1}]}"#;
        let expected = format!(r#"{{"Z":{inner},"a":{inner},"aa":{inner},"b":{inner},"é":{inner}}}"#);
        assert_eq!(text(&Value::Object(outer)).unwrap(), expected);
    }

    #[test]
    fn whole_numbers_have_one_form() {
        for (value, expected) in [
            (json!(1.0), "1"),
            (json!(1), "1"),
            (json!(-0.0), "0"),
            (json!(-3.0), "-3"),
            (json!(0.5), "0.5"),
            (json!(u64::MAX), "18446744073709551615"),
        ] {
            assert_eq!(text(&value).unwrap(), expected);
        }
    }

    #[test]
    fn strings_are_escaped_as_json() {
        assert_eq!(text(&json!("a\"\\\n\u{1}")).unwrap(), r#""a\"\\\n\u0001""#);
    }
}
