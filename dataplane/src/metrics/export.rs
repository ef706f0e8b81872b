//! The series, in OpenMetrics text.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _, MetricEncoder, NoLabelSet, text},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};
use sluice_config::{Digest, UnitRef};
use sluice_worker::Outcome;

use super::{
    Metrics,
    cells::{CLASSES, Cells, Histogram, ORIGINS, OWN_BUCKETS_US, REQUEST_BUCKETS_US},
};

/// Media type of [`render`]'s text.
pub(crate) const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All series.
pub(crate) fn render(metrics: &Arc<Metrics>) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(View(Arc::clone(metrics))));
    let mut out = String::new();
    text::encode(&mut out, &registry)?;
    Ok(out)
}

struct View(Arc<Metrics>);

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("View")
    }
}

/// One revision's labels and counters.
struct Row {
    unit: String,
    revision: String,
    cells: Arc<Cells>,
}

impl Collector for View {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> fmt::Result {
        let rows = self.rows();
        let group = self.0.group.as_str();
        worker_calls(&mut to, &rows, group)?;
        worker_seconds(&mut to, &rows, group)?;
        unit_requests(&mut to, &rows, group)?;
        unit_request_seconds(&mut to, &rows, group)?;
        self.node(&mut to)
    }
}

impl View {
    /// Copied out, so that a slow scraper holds no lock.
    fn rows(&self) -> Vec<Row> {
        let row = |unit: &UnitRef, revision: &Digest, cells: &Arc<Cells>| Row {
            unit: unit.to_string(),
            revision: revision.short().to_owned(),
            cells: Arc::clone(cells),
        };
        self.0.units().iter().map(|((unit, revision), entry)| row(unit, revision, &entry.cells)).collect()
    }

    fn node(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let metrics = &self.0;
        let help = "Requests that no route matched, or that were refused";
        let mut family = to.encode_descriptor("sluice_unrouted_requests", help, None, MetricType::Counter)?;
        for (i, class) in CLASSES.iter().enumerate() {
            let labels = [("group", metrics.group.as_str()), ("class", class.as_str())];
            let count = metrics.unrouted[i].load(Ordering::Relaxed);
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }
        for (name, help, value) in [
            ("sluice_node_applied_generation", "Generation of the assignment in force", &metrics.applied_generation),
            ("sluice_node_exceptions", "Units that do not run as assigned", &metrics.exceptions),
            ("sluice_node_connections", "Open client connections", &metrics.connections),
        ] {
            let value = i64::try_from(value.load(Ordering::Relaxed)).unwrap_or(i64::MAX);
            let mut family = to.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(family.encode_family(&[("group", metrics.group.as_str())])?)?;
        }
        Ok(())
    }
}

fn worker_calls(to: &mut DescriptorEncoder<'_>, rows: &[Row], group: &str) -> fmt::Result {
    let help = "Calls of a worker, by what they ended in";
    let mut family = to.encode_descriptor("sluice_worker_calls", help, None, MetricType::Counter)?;
    for row in rows {
        for (phase, calls) in row.cells.phases() {
            for outcome in Outcome::ALL {
                let labels = [
                    ("unit", row.unit.as_str()),
                    ("revision", row.revision.as_str()),
                    ("group", group),
                    ("phase", phase.as_str()),
                    ("outcome", outcome.as_str()),
                ];
                ConstCounter::new(calls.count(outcome)).encode(family.encode_family(&labels)?)?;
            }
        }
    }
    Ok(())
}

fn worker_seconds(to: &mut DescriptorEncoder<'_>, rows: &[Row], group: &str) -> fmt::Result {
    let help = "Own time of a call, without next and bodies";
    let mut family = to.encode_descriptor("sluice_worker_seconds", help, None, MetricType::Histogram)?;
    for row in rows {
        for (phase, calls) in row.cells.phases() {
            let labels = [
                ("unit", row.unit.as_str()),
                ("revision", row.revision.as_str()),
                ("group", group),
                ("phase", phase.as_str()),
            ];
            histogram(family.encode_family(&labels)?, &calls.own, &OWN_BUCKETS_US)?;
        }
    }
    Ok(())
}

fn unit_requests(to: &mut DescriptorEncoder<'_>, rows: &[Row], group: &str) -> fmt::Result {
    let help = "Requests that went through a unit, by class and by who made the response";
    let mut family = to.encode_descriptor("sluice_unit_requests", help, None, MetricType::Counter)?;
    for row in rows {
        for class in CLASSES {
            for origin in ORIGINS {
                let labels = [
                    ("unit", row.unit.as_str()),
                    ("revision", row.revision.as_str()),
                    ("group", group),
                    ("class", class.as_str()),
                    ("origin", origin.as_str()),
                ];
                ConstCounter::new(row.cells.requests(class, origin)).encode(family.encode_family(&labels)?)?;
            }
        }
    }
    Ok(())
}

fn unit_request_seconds(to: &mut DescriptorEncoder<'_>, rows: &[Row], group: &str) -> fmt::Result {
    let help = "From a request's head to its response's head";
    let mut family = to.encode_descriptor("sluice_unit_request_seconds", help, None, MetricType::Histogram)?;
    for row in rows {
        let labels = [("unit", row.unit.as_str()), ("revision", row.revision.as_str()), ("group", group)];
        histogram(family.encode_family(&labels)?, &row.cells.duration, &REQUEST_BUCKETS_US)?;
    }
    Ok(())
}

fn histogram(mut to: MetricEncoder<'_>, histogram: &Histogram, bounds_us: &[u64; 9]) -> fmt::Result {
    let counts = histogram.buckets();
    #[allow(clippy::cast_precision_loss, reason = "bounds are small")]
    let bounds = bounds_us.iter().map(|us| *us as f64 / 1e6).chain([f64::INFINITY]);
    let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
    to.encode_histogram::<NoLabelSet>(histogram.sum().as_secs_f64(), counts.iter().sum(), &buckets, None)
}
