//! Quantities as people write them: `5ms`, `10m`, `32Mi`, `0.5%`.

use std::{fmt, str::FromStr, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Visitor};

/// Text that is no such quantity.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{text}` is not a {what}: write {example}")]
pub struct QuantityError {
    text: String,
    what: &'static str,
    example: &'static str,
}

macro_rules! as_text {
    ($name:ident, $pattern:literal, $max:literal, $doc:literal) => {
        as_text!($name, $pattern, $max, $doc, []);
    };
    // What the API server lets in, the operator must be able to read: the rules say what the pattern cannot.
    ($name:ident, $pattern:literal, $max:literal, $doc:literal, $rules:tt) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = d.deserialize_any(AsWritten)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
        impl JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                let mut schema = json_schema!({
                    "type": "string", "pattern": $pattern, "maxLength": $max, "description": $doc,
                });
                let rules = serde_json::json!($rules);
                if rules.as_array().is_some_and(|rules| !rules.is_empty()) {
                    schema.insert("x-kubernetes-validations".to_owned(), rules);
                }
                schema
            }
        }
    };
}

/// The text of a quantity. People write `cpu: 5` in YAML: that a number is not enough is said by
/// the quantity, in its own words.
struct AsWritten;

impl Visitor<'_> for AsWritten {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text such as 30s, 32Mi or 0.5%")
    }
    fn visit_str<E>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }
    fn visit_u64<E>(self, number: u64) -> Result<String, E> {
        Ok(number.to_string())
    }
    fn visit_i64<E>(self, number: i64) -> Result<String, E> {
        Ok(number.to_string())
    }
    fn visit_f64<E>(self, number: f64) -> Result<String, E> {
        Ok(number.to_string())
    }
}

/// A span of time: one number and a unit, `250ms`, `30s`, `10m`, `24h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(Duration);

as_text!(
    Span,
    "^[0-9]+(ms|s|m|h)$",
    12,
    "A span of time: a whole number and ms, s, m or h, e.g. 30s; at most 744h.",
    [{"rule": "duration(self) <= duration('744h')", "message": "write at most 744h (31 days)"}]
);

impl Span {
    /// The longest span that is accepted: 31 days.
    pub const MAX: Duration = Duration::from_secs(31 * 24 * 3600);

    /// A span of whole seconds.
    #[must_use]
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// A span of whole milliseconds.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    /// As the standard library's type.
    #[must_use]
    pub const fn duration(self) -> Duration {
        self.0
    }

    /// In milliseconds.
    #[must_use]
    pub fn millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }
}

impl FromStr for Span {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let error = || QuantityError {
            text: text.chars().take(40).collect(),
            what: "span of time",
            example: "a whole number and a unit, e.g. 250ms, 30s, 10m or 24h (at most 744h)",
        };
        let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(error)?;
        let number: u64 = text[..digits].parse().map_err(|_| error())?;
        let millis = match &text[digits..] {
            "ms" => Some(number),
            "s" => number.checked_mul(1_000),
            "m" => number.checked_mul(60_000),
            "h" => number.checked_mul(3_600_000),
            _ => None,
        };
        let span = Duration::from_millis(millis.ok_or_else(error)?);
        if span > Self::MAX { Err(error()) } else { Ok(Self(span)) }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        for (unit, size) in [("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
            if ms != 0 && ms.is_multiple_of(size) {
                return write!(f, "{}{unit}", ms / size);
            }
        }
        write!(f, "{ms}ms")
    }
}

/// A number of bytes: `65536`, `512Ki`, `32Mi`, `1Gi`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

as_text!(Bytes, "^[0-9]+(Ki|Mi|Gi)?$", 20, "A number of bytes, with Ki, Mi or Gi where wanted, e.g. 32Mi.");

impl FromStr for Bytes {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let error = || QuantityError {
            text: text.chars().take(40).collect(),
            what: "number of bytes",
            example: "a whole number with Ki, Mi or Gi, e.g. 32Mi",
        };
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let number: u64 = text[..digits].parse().map_err(|_| error())?;
        let shift = match &text[digits..] {
            "" => 0,
            "Ki" => 10,
            "Mi" => 20,
            "Gi" => 30,
            _ => return Err(error()),
        };
        number.checked_mul(1 << shift).map(Self).ok_or_else(error)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, size) in [("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)] {
            if self.0 != 0 && self.0.is_multiple_of(size) {
                return write!(f, "{}{unit}", self.0 / size);
            }
        }
        write!(f, "{}", self.0)
    }
}

/// A share: `0.5%`. Kept in parts per million, so that it is exact and comparable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent {
    /// Parts per million: 1% is 10,000.
    pub ppm: u32,
}

as_text!(
    Percent,
    "^[0-9]{1,3}(\\.[0-9]{1,4})?%$",
    9,
    "A share from 0% to 100%, at most four decimals, e.g. 0.5%.",
    [{"rule": "double(self.replace('%', '')) <= 100.0", "message": "write a share from 0% to 100%, e.g. 0.5%"}]
);

impl FromStr for Percent {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let error = || QuantityError {
            text: text.chars().take(40).collect(),
            what: "share",
            example: "a number from 0% to 100% with at most four decimals, e.g. 0.5%",
        };
        let number = text.strip_suffix('%').ok_or_else(error)?;
        let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
        let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(decimals) || whole.len() > 3 || decimals.len() > 4 {
            return Err(error());
        }
        let ppm = format!("{whole}{decimals:0<4}").parse().map_err(|_| error())?;
        if ppm > 1_000_000 { Err(error()) } else { Ok(Self { ppm }) }
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}.{:04}", self.ppm / 10_000, self.ppm % 10_000);
        write!(f, "{}%", text.trim_end_matches('0').trim_end_matches('.'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_survive_a_round_trip() -> Result<(), QuantityError> {
        for text in ["250ms", "30s", "10m", "24h", "0ms"] {
            assert_eq!(text.parse::<Span>()?.to_string(), text);
        }
        for text in ["0", "65535", "512Ki", "32Mi", "1Gi"] {
            assert_eq!(text.parse::<Bytes>()?.to_string(), text);
        }
        for text in ["0%", "0.5%", "100%", "3.1%", "0.0001%"] {
            assert_eq!(text.parse::<Percent>()?.to_string(), text);
        }
        Ok(())
    }

    #[test]
    fn nonsense_is_refused_with_an_example() {
        for text in ["", "5", "5 s", "1y", "-1s", "1.5s", "99999999999999999999s", "745h"] {
            let message = text.parse::<Span>().map_err(|e| e.to_string());
            assert!(message.is_err_and(|m| m.contains("e.g. 250ms")), "{text}");
        }
        for text in ["", "Mi", "1Ti", "1.5Mi", "99999999999Gi"] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
        for text in ["", "1", "101%", "100.1%", ".5%", "-1%", "1.%", "NaN%", "0.00001%"] {
            assert!(text.parse::<Percent>().is_err(), "{text}");
        }
    }
}
