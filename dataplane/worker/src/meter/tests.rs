//! What counts against which limit, and when a guest begins or goes on.

use super::*;

/// Uses CPU time of this thread without being looked at.
fn burn(time: Duration) {
    let end = thread_cpu_ns(Instant::now()) + nanos(time);
    while thread_cpu_ns(Instant::now()) < end {}
}

fn meter(cpu_ms: u64, wall_ms: u64) -> Meter {
    Meter::new(&Limits { cpu_ms, wall_ms, memory_bytes: 1 << 20 }, &Arc::default())
}

#[test]
fn the_unit_is_charged_while_a_call_runs_and_each_time_once() {
    let unit = Arc::<AtomicU64>::default();
    let meter = Meter::new(&Limits { cpu_ms: 10_000, wall_ms: 60_000, memory_bytes: 1 << 20 }, &unit);
    meter.resume(Instant::now());
    burn(Duration::from_millis(2));
    let _goes_on = meter.tick();
    assert!(unit.load(Relaxed) >= 2_000_000, "at the tick");
    burn(Duration::from_millis(2));
    meter.suspend();
    // And what was used between, which is nobody's, is not.
    burn(Duration::from_millis(2));
    meter.resume(Instant::now());
    meter.suspend();
    assert_eq!(Duration::from_nanos(unit.load(Relaxed)), meter.cpu());
    assert!(meter.cpu() >= Duration::from_millis(4));
}

#[test]
fn a_machine_that_stands_still_uses_up_no_limit_and_a_guest_that_computes_does() {
    let meter = meter(20, 60_000);
    meter.resume(Instant::now());
    burn(Duration::from_millis(40));
    assert_eq!(meter.exceeded(), None);
    meter.suspend();
    assert!(meter.cpu() >= Duration::from_millis(40), "what is reported is what was used");
    meter.resume(Instant::now());
    for _ in 0..20 {
        burn(Duration::from_millis(1));
        let _goes_on = meter.tick();
    }
    assert_eq!(meter.exceeded(), Some(Limit::Cpu));
}

#[test]
fn a_guest_that_waits_for_others_is_not_looked_at_again_and_again() {
    let meter = meter(5, 10);
    meter.resume(Instant::now());
    meter.suspend();
    assert!(meter.patience().unwrap() < Duration::from_millis(11), "it waits for itself");
    meter.next_began();
    assert_eq!(meter.patience(), Some(LOOK_MIN));
    meter.next_ended();
    assert!(meter.patience().unwrap() < Duration::from_millis(11));
    meter.resume(Instant::now());
    meter.yields();
    meter.suspend();
    assert_eq!(meter.patience(), Some(LOOK_MIN), "it lets others go first");
}

#[test]
fn a_guest_that_yielded_goes_on_and_one_that_waited_begins() {
    let meter = meter(1_000, 60_000);
    // The clock stands still until then.
    let late = Instant::now() + Duration::from_secs(60);
    for (yields, has_just_resumed) in [(false, true), (true, false), (true, false), (false, true)] {
        if yields {
            meter.yields();
        }
        meter.suspend();
        meter.resume(late);
        assert_eq!(meter.has_just_resumed(), has_just_resumed, "it yielded: {yields}");
    }
    let resumed = Instant::now();
    meter.resume(resumed);
    while resumed.elapsed() < Duration::from_nanos(RESUMED_NS) {}
    assert!(!meter.has_just_resumed(), "it has run for a while");
}
