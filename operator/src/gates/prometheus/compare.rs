//! `failWhen`: `result`, a comparison, a number.

use std::{fmt, str::FromStr};

/// What makes a sample fail.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    operator: Operator,
    limit: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Equal,
    NotEqual,
}

/// Text that compares nothing.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` compares nothing: write for example `result > 0.25`")]
pub struct ComparisonError(String);

impl FromStr for Comparison {
    type Err = ComparisonError;

    fn from_str(text: &str) -> Result<Self, ComparisonError> {
        let error = || ComparisonError(text.chars().take(100).collect());
        let rest = text.trim().strip_prefix("result").ok_or_else(error)?.trim_start();
        let operators = [
            ("<=", Operator::LessOrEqual),
            (">=", Operator::GreaterOrEqual),
            ("==", Operator::Equal),
            ("!=", Operator::NotEqual),
            ("<", Operator::Less),
            (">", Operator::Greater),
        ];
        let (sign, operator) = operators.into_iter().find(|(sign, _)| rest.starts_with(sign)).ok_or_else(error)?;
        let number = rest[sign.len()..].trim();
        let limit: f64 = number.parse().map_err(|_| error())?;
        if limit.is_finite() { Ok(Self { operator, limit }) } else { Err(error()) }
    }
}

impl Comparison {
    /// Whether the sample fails. Never called with NaN.
    #[must_use]
    #[expect(clippy::float_cmp, reason = "who writes == means ==")]
    pub fn fails(&self, result: f64) -> bool {
        match self.operator {
            Operator::Less => result < self.limit,
            Operator::LessOrEqual => result <= self.limit,
            Operator::Greater => result > self.limit,
            Operator::GreaterOrEqual => result >= self.limit,
            Operator::Equal => result == self.limit,
            Operator::NotEqual => result != self.limit,
        }
    }

    /// As people read it: what holds, be it good or bad, e.g. `0.31 > 0.25`, `0.2 ≤ 0.25`.
    #[must_use]
    pub fn shown(&self, result: f64) -> String {
        let fails = self.fails(result);
        let sign = match (self.operator, fails) {
            (Operator::Less, true) | (Operator::GreaterOrEqual, false) => "<",
            (Operator::LessOrEqual, true) | (Operator::Greater, false) => "≤",
            (Operator::Greater, true) | (Operator::LessOrEqual, false) => ">",
            (Operator::GreaterOrEqual, true) | (Operator::Less, false) => "≥",
            (Operator::Equal, true) | (Operator::NotEqual, false) => "=",
            (Operator::NotEqual, true) | (Operator::Equal, false) => "≠",
        };
        format!("{} {sign} {}", Short(result), Short(self.limit))
    }
}

/// At most four significant decimals.
struct Short(f64);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{:.4}", self.0);
        match text.contains('.') {
            true => f.write_str(text.trim_end_matches('0').trim_end_matches('.')),
            false => f.write_str(&text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparisons_compare_and_read_well() {
        for (text, result, fails, shown) in [
            ("result > 0.25", 0.31, true, "0.31 > 0.25"),
            ("result > 0.25", 0.2, false, "0.2 ≤ 0.25"),
            ("result>=1", 1.0, true, "1 ≥ 1"),
            ("result < -0.5", 0.0, false, "0 ≥ -0.5"),
            ("result == 0", 0.0, true, "0 = 0"),
            ("result != 0", 0.0, false, "0 = 0"),
            ("result > 0.25", f64::INFINITY, true, "inf > 0.25"),
        ] {
            let comparison: Comparison = text.parse().unwrap();
            assert_eq!(comparison.fails(result), fails, "{text}");
            assert_eq!(comparison.shown(result), shown);
        }
        for text in ["", "result", "x > 1", "result > x", "result > NaN", "result > inf", "result => 1"] {
            assert!(text.parse::<Comparison>().is_err(), "{text}");
        }
    }
}
