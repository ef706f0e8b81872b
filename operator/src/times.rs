//! The planner's milliseconds and Kubernetes' timestamps.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use sluice_rollout::Time;

/// As the planner counts.
#[must_use]
pub fn from_micro(time: &MicroTime) -> Time {
    Time(time.0.as_millisecond())
}

/// As it is stored; the API server keeps microseconds, so that it comes back unchanged.
#[must_use]
pub fn to_micro(time: Time) -> MicroTime {
    MicroTime(Timestamp::from_millisecond(time.0).unwrap_or(Timestamp::UNIX_EPOCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_come_back_unchanged() {
        let time = Time(1_795_435_200_123);
        let stored = serde_json::to_string(&to_micro(time)).unwrap();
        assert_eq!(stored, "\"2026-11-23T12:00:00.123000Z\"");
        assert_eq!(from_micro(&serde_json::from_str(&stored).unwrap()), time);
    }
}
