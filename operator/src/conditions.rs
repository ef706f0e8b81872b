//! Conditions as kstatus expects them: `Ready` always, `Reconciling` and `Stalled` only while they hold.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// What a condition says.
#[derive(Clone, Copy, Debug)]
pub struct Truth<'a> {
    holds: bool,
    reason: &'a str,
    message: &'a str,
}

impl<'a> Truth<'a> {
    /// Whether it holds, why in one word, and in a sentence.
    #[must_use]
    pub fn of(holds: bool, reason: &'a str, message: &'a str) -> Self {
        Self { holds, reason, message }
    }
}

/// Sets a condition; its time changes only with its status.
pub fn set(conditions: &mut Vec<Condition>, name: &str, truth: Truth<'_>, generation: Option<i64>) {
    let status = if truth.holds { "True" } else { "False" };
    let before = conditions.iter().find(|c| c.type_ == name && c.status == status);
    let since = before.map_or_else(|| Time(Timestamp::now()), |c| c.last_transition_time.clone());
    let condition = Condition {
        type_: name.to_owned(),
        status: status.to_owned(),
        reason: truth.reason.to_owned(),
        message: truth.message.chars().take(4000).collect(),
        last_transition_time: since,
        observed_generation: generation,
    };
    match conditions.iter_mut().find(|c| c.type_ == name) {
        Some(old) => *old = condition,
        None => conditions.push(condition),
    }
}

/// Sets a condition where there is something to say, and removes it where there is nothing.
pub fn set_or_drop(conditions: &mut Vec<Condition>, name: &str, truth: Option<Truth<'_>>, generation: Option<i64>) {
    match truth {
        Some(truth) => set(conditions, name, truth, generation),
        None => conditions.retain(|c| c.type_ != name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_the_same_is_not_written_anew() {
        let mut conditions = Vec::new();
        set(&mut conditions, "Ready", Truth::of(false, "Missing", "no branch"), Some(1));
        let before = conditions.clone();
        set(&mut conditions, "Ready", Truth::of(false, "Missing", "no branch"), Some(1));
        assert_eq!(conditions, before);
        set_or_drop(&mut conditions, "Ready", None, Some(1));
        assert!(conditions.is_empty());
    }
}
