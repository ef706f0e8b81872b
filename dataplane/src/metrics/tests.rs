//! What is counted, under the names and labels that whoever queries it knows.

use sluice_chain::{CallRecord, Origin, RequestRecord};
use sluice_config::UnitKind;
use sluice_worker::{Outcome, Phase};

use super::*;

fn metrics() -> Arc<Metrics> {
    Arc::new(Metrics::new("node-1".into(), "canary".into(), "boot-1".into()))
}

fn worker() -> UnitRef {
    UnitRef::new(UnitKind::Worker, "team", "hello")
}

fn call(outcome: Outcome) -> CallRecord {
    CallRecord { phase: Phase::Handle, outcome, own: Duration::from_micros(30) }
}

fn request(class: Class, origin: Origin) -> RequestRecord {
    RequestRecord { class, origin, duration: Duration::from_millis(30), fault: false }
}

#[test]
fn series_are_there_at_zero_before_the_first_request() {
    let metrics = metrics();
    let digest = Digest::of(b"a");
    let _held = Handle(Arc::clone(&metrics)).unit(&worker(), &digest, &[Phase::Handle]);
    let text = export::render(&metrics).unwrap();
    let revision = digest.short();
    for line in [
        format!(
            r#"sluice_worker_calls_total{{unit="team/hello",revision="{revision}",group="canary",phase="handle",outcome="not_loaded"}} 0"#
        ),
        format!(
            r#"sluice_worker_seconds_bucket{{le="0.00001",unit="team/hello",revision="{revision}",group="canary",phase="handle"}} 0"#
        ),
        format!(
            r#"sluice_unit_requests_total{{unit="team/hello",revision="{revision}",group="canary",class="5xx",origin="self"}} 0"#
        ),
        format!(r#"sluice_unit_request_seconds_count{{unit="team/hello",revision="{revision}",group="canary"}} 0"#),
        r#"sluice_node_applied_generation{group="canary"} 0"#.to_owned(),
    ] {
        assert!(text.contains(&line), "{line}\nnot in\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
    let buckets = text.lines().filter(|l| l.starts_with("sluice_unit_request_seconds_bucket")).count();
    assert_eq!(buckets, 10);
}

#[test]
fn a_worker_has_the_series_of_its_phases_and_no_others() {
    let metrics = metrics();
    let handle = Handle(Arc::clone(&metrics));
    let filter = handle.unit(&worker(), &Digest::of(b"a"), &[Phase::OnRequest, Phase::OnResponse]);
    let routes = UnitRef::new(UnitKind::Routes, "team", "shop");
    let _routes = handle.unit(&routes, &Digest::of(b"a"), &[]);
    filter.call(CallRecord { phase: Phase::OnResponse, ..call(Outcome::Trap) });
    let text = export::render(&metrics).unwrap();
    let calls = |phase: &str, outcome: &str| {
        let labels = format!("phase=\"{phase}\",outcome=\"{outcome}\"}}");
        text.lines().find_map(|l| Some(l.split_once(&labels)?.1.trim().to_owned()))
    };
    assert_eq!(calls("on-response", "trap").as_deref(), Some("1"));
    assert_eq!(calls("on-request", "trap").as_deref(), Some("0"));
    assert_eq!(calls("handle", "trap"), None);
    let seconds = text.lines().filter(|l| l.starts_with("sluice_worker_seconds_count{")).count();
    assert_eq!(seconds, 2, "{text}");
}

#[test]
fn values_fall_into_the_bucket_whose_bound_they_do_not_exceed() {
    let metrics = metrics();
    let digest = Digest::of(b"a");
    let unit = Handle(Arc::clone(&metrics)).unit(&worker(), &digest, &[Phase::Handle]);
    for nanoseconds in [1, 1_000_000, 1_000_001, 30_000_000_000, 30_000_000_001] {
        let duration = Duration::from_nanos(nanoseconds);
        unit.request(RequestRecord { class: Class::C2xx, origin: Origin::Upstream, duration, fault: false });
    }
    assert_eq!(metrics.counters().units[0].latency, [2, 1, 0, 0, 0, 0, 0, 0, 1, 1]);
}

#[test]
fn a_failed_request_counts_once_whether_the_client_saw_the_fault_or_not() {
    let metrics = metrics();
    let unit = metrics.cells(&worker(), &Digest::of(b"a"));
    let both = |outcome: Outcome, class, origin| {
        unit.call(call(outcome));
        unit.request(RequestRecord { fault: outcome.is_fault(), ..request(class, origin) });
    };
    both(Outcome::Trap, Class::C5xx, Origin::Own);
    both(Outcome::Answered, Class::C5xx, Origin::Own);
    both(Outcome::Next, Class::C5xx, Origin::Upstream);
    both(Outcome::Next, Class::C2xx, Origin::Upstream);
    both(Outcome::Cpu, Class::C2xx, Origin::Upstream);
    both(Outcome::Trap, Class::C5xx, Origin::Upstream);
    let row = &metrics.counters().units[0];
    assert_eq!((row.requests, row.faults, row.errors_self, row.errors_other), (6, 3, 1, 1));
}

#[test]
fn a_fault_counts_by_request_however_often_the_worker_was_called() {
    let metrics = metrics();
    let unit = metrics.cells(&worker(), &Digest::of(b"a"));
    for _ in 0..3 {
        unit.call(call(Outcome::Trap));
    }
    unit.request(RequestRecord { fault: true, ..request(Class::C5xx, Origin::Own) });
    unit.call(call(Outcome::Aborted));
    unit.request(request(Class::C2xx, Origin::Own));
    unit.broke_off();
    let row = &metrics.counters().units[0];
    assert_eq!((row.requests, row.faults, row.errors_self, row.errors_other), (2, 2, 0, 0));
}

#[test]
fn a_route_table_that_nothing_can_come_of_has_faults_without_calls() {
    let metrics = metrics();
    let routes = UnitRef::new(UnitKind::Routes, "team", "shop");
    let unit = Handle(Arc::clone(&metrics)).unit(&routes, &Digest::of(b"a"), &[]);
    unit.request(RequestRecord { fault: true, ..request(Class::C5xx, Origin::Own) });
    let row = &metrics.counters().units[0];
    assert_eq!((row.requests, row.faults, row.errors_self, row.errors_other), (1, 1, 0, 0));
}

#[test]
fn what_is_shed_is_no_fault() {
    let metrics = metrics();
    let unit = metrics.cells(&worker(), &Digest::of(b"a"));
    unit.call(call(Outcome::Shed));
    unit.request(RequestRecord { fault: Outcome::Shed.is_fault(), ..request(Class::C5xx, Origin::Proxy) });
    let row = &metrics.counters().units[0];
    assert_eq!((row.faults, row.errors_self, row.errors_other), (0, 0, 1));
}

#[test]
fn series_end_ten_minutes_after_the_last_snapshot_is_gone() {
    let metrics = metrics();
    let start = Instant::now();
    let held = metrics.cells(&worker(), &Digest::of(b"a"));
    metrics.end_unused(start + 2 * OUTLIVE);
    assert_eq!(metrics.counters().units.len(), 1);
    drop(held);
    metrics.end_unused(start + 2 * OUTLIVE);
    metrics.end_unused(start + 3 * OUTLIVE - Duration::from_secs(1));
    assert_eq!(metrics.counters().units.len(), 1);
    metrics.end_unused(start + 3 * OUTLIVE);
    assert!(metrics.counters().units.is_empty());
}
