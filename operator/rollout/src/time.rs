//! Points in time, as data.

use std::{fmt, time::Duration};

/// Milliseconds since 1970-01-01 UTC. The planner never reads a clock: `now` is handed in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub i64);

const DAY_MS: i64 = 86_400_000;

impl Time {
    /// This much later.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)))
    }

    /// How long it is since `earlier`; nothing if that lies ahead (a clock that went back).
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// `14:32:10` if on the same (UTC) day as `now`, else `2026-11-23 14:32`.
    #[must_use]
    pub fn shown(self, now: Self) -> String {
        let second = self.0.rem_euclid(DAY_MS) / 1000;
        let (h, m, s) = (second / 3600, second / 60 % 60, second % 60);
        let (day, today) = (self.0.div_euclid(DAY_MS), now.0.div_euclid(DAY_MS));
        if day == today {
            return format!("{h:02}:{m:02}:{s:02}");
        }
        let (year, month, date) = civil(day);
        format!("{year:04}-{month:02}-{date:02} {h:02}:{m:02}")
    }
}

/// Date of a day counted from 1970-01-01 (Howard Hinnant's `civil_from_days`).
fn civil(day: i64) -> (i64, i64, i64) {
    let z = day + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let date = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, date)
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown(*self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_shown_short_on_its_own_day() {
        let noon = Time(1_795_435_200_000);
        let evening = noon.after(Duration::from_secs(2 * 3600 + 32 * 60 + 10));
        assert_eq!(evening.shown(noon), "14:32:10");
        let later = evening.after(Duration::from_secs(2 * 86_400));
        assert_eq!(later.shown(noon), "2026-11-25 14:32");
    }

    #[test]
    fn a_clock_that_went_back_has_measured_nothing() {
        assert_eq!(Time(5).since(Time(9)), Duration::ZERO);
        assert_eq!(Time(9).since(Time(5)), Duration::from_millis(4));
    }
}
