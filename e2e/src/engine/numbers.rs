//! Many measurements of one thing in few numbers.

use jiff::Timestamp;

/// The value that so many percent of all are not above: the nearest rank, so that it is one that was measured.
pub(super) fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// Milliseconds from one moment to another.
pub(super) fn millis(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64() * 1000.0
}

/// Seconds from one moment to another.
pub(super) fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64()
}

/// A count as a figure.
#[allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
pub(super) fn count(number: usize) -> f64 {
    number as f64
}

/// Two digits after the point are more than anything here is exact to.
pub(super) fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_value_that_was_measured() {
        let values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!(
            [percentile(&values, 50), percentile(&values, 99)].map(f64::to_bits),
            [100.0, 198.0].map(f64::to_bits)
        );
        assert_eq!(percentile(&[7.0], 99).to_bits(), 7.0_f64.to_bits());
    }
}
