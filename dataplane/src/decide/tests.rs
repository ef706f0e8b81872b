//! Each rule of `decide`, as a sentence.

use sluice_config::UnitKind;

use super::*;

struct Case {
    wants: BTreeMap<UnitRef, Want>,
    progress: BTreeMap<Key, Progress>,
    current: BTreeMap<UnitRef, Digest>,
    start: Instant,
    fresh: bool,
}

fn unit(name: &str) -> UnitRef {
    UnitRef::new(UnitKind::Worker, "team", name)
}

fn digest(of: &str) -> Digest {
    Digest::of(of.as_bytes())
}

fn failed(message: &str) -> Progress {
    Progress::Failed { reason: ExceptionKind::Refused, message: message.into() }
}

impl Case {
    fn new() -> Self {
        Self {
            wants: BTreeMap::new(),
            progress: BTreeMap::new(),
            current: BTreeMap::new(),
            start: Instant::now(),
            fresh: false,
        }
    }

    fn wants(mut self, name: &str, run: &str, stable: Option<&str>, since: u64) -> Self {
        let want = Want { run: Some(digest(run)), stable: stable.map(digest), since };
        self.wants.insert(unit(name), want);
        self
    }

    fn runs(mut self, name: &str, revision: &str) -> Self {
        self.current.insert(unit(name), digest(revision));
        self.is(name, revision, Progress::Loaded)
    }

    fn is(mut self, name: &str, revision: &str, progress: Progress) -> Self {
        self.progress.insert((unit(name), digest(revision)), progress);
        self
    }

    fn decide_after(&self, elapsed: Duration) -> Decision {
        let progress = |unit: &UnitRef, digest: &Digest| {
            self.progress.get(&(unit.clone(), digest.clone())).cloned().unwrap_or(Progress::Loading)
        };
        decide(&Inputs {
            wants: &self.wants,
            progress: &progress,
            current: &self.current,
            fresh: self.fresh,
            accepted_at: self.start,
            now: self.start + elapsed,
        })
    }

    fn decide(&self) -> Decision {
        self.decide_after(Duration::ZERO)
    }
}

fn runs(decision: &Decision, name: &str) -> Option<Digest> {
    decision.running.get(&unit(name)).cloned()
}

#[test]
fn a_loaded_revision_takes_over() {
    let decision = Case::new().wants("a", "v2", Some("v1"), 2).runs("a", "v1").is("a", "v2", Progress::Loaded).decide();
    assert_eq!(runs(&decision, "a"), Some(digest("v2")));
    assert!(decision.settled && decision.exceptions.is_empty());
}

#[test]
fn a_loading_revision_leaves_the_old_one_in_force() {
    let decision = Case::new().wants("a", "v2", Some("v1"), 2).runs("a", "v1").decide();
    assert_eq!(runs(&decision, "a"), Some(digest("v1")));
    assert!(!decision.settled);
}

#[test]
fn nothing_takes_over_before_the_way_back_is_ready() {
    let case = Case::new().wants("a", "v3", Some("v2"), 3).runs("a", "v1").is("a", "v3", Progress::Loaded);
    let loading = case.decide();
    assert_eq!(runs(&loading, "a"), Some(digest("v1")));
    assert!(!loading.settled);

    let trouble = case.is("a", "v2", failed("gone")).decide();
    assert_eq!(runs(&trouble, "a"), Some(digest("v1")));
    assert!(trouble.settled);
    assert_eq!(trouble.exceptions[0].reason, ExceptionKind::LocalTrouble);
    assert!(trouble.exceptions[0].message.contains("gone"));
}

#[test]
fn without_anything_in_force_the_assigned_revision_runs_even_if_stable_is_missing() {
    let decision = Case::new()
        .wants("a", "v2", Some("v1"), 2)
        .is("a", "v2", Progress::Loaded)
        .is("a", "v1", failed("gone"))
        .decide();
    assert_eq!(runs(&decision, "a"), Some(digest("v2")));
    assert_eq!(decision.exceptions.len(), 1);
}

#[test]
fn what_changed_together_swaps_together_within_the_grace() {
    let case = Case::new()
        .wants("a", "a2", Some("a1"), 7)
        .wants("b", "b2", Some("b1"), 7)
        .wants("c", "c2", Some("c1"), 6)
        .runs("a", "a1")
        .runs("b", "b1")
        .runs("c", "c1")
        .is("a", "a2", Progress::Loaded)
        .is("c", "c2", Progress::Loaded);
    let early = case.decide();
    assert_eq!(runs(&early, "a"), Some(digest("a1")));
    assert_eq!(runs(&early, "c"), Some(digest("c2")), "another batch");
    assert_eq!(early.look_again, Some(case.start + GRACE));

    let late = case.decide_after(GRACE);
    assert_eq!(runs(&late, "a"), Some(digest("a2")));
    assert_eq!(runs(&late, "b"), Some(digest("b1")));
    assert!(!late.settled);

    let both = case.is("b", "b2", Progress::Loaded).decide();
    assert_eq!(runs(&both, "a"), Some(digest("a2")));
    assert_eq!(runs(&both, "b"), Some(digest("b2")));
    assert!(both.settled);
}

#[test]
fn the_way_back_waits_for_no_batch() {
    let decision = Case::new()
        .wants("a", "a1", Some("a1"), 7)
        .wants("b", "b2", None, 7)
        .runs("a", "a2")
        .is("a", "a1", Progress::Loaded)
        .decide();
    assert_eq!(runs(&decision, "a"), Some(digest("a1")));
}

#[test]
fn the_way_back_waits_for_no_disk() {
    let decision = Case::new()
        .wants("a", "a1", Some("a1"), 7)
        .runs("a", "a2")
        .is("a", "a1", Progress::Unsaved { message: "disk full".into() })
        .decide();
    assert_eq!(runs(&decision, "a"), Some(digest("a1")));
    assert_eq!(decision.exceptions[0].reason, ExceptionKind::LocalTrouble);
}

#[test]
fn a_unit_that_was_in_force_and_can_no_longer_run_is_not_simply_gone() {
    let mut case = Case::new().wants("a", "a1", None, 1).runs("a", "a1");
    case = case.is("a", "a1", failed("its stage is gone"));
    let decision = case.decide();
    assert!(decision.running.is_empty());
    assert_eq!(decision.not_loaded, [(unit("a"), digest("a1"))].into());
}

#[test]
fn a_refused_revision_delays_nobody_and_keeps_the_last_good_one() {
    let decision = Case::new()
        .wants("a", "a2", Some("a1"), 7)
        .wants("b", "b2", Some("b1"), 7)
        .runs("a", "a1")
        .runs("b", "b1")
        .is("a", "a2", failed("does not compile"))
        .is("b", "b2", Progress::Loaded)
        .decide();
    assert_eq!(runs(&decision, "a"), Some(digest("a1")));
    assert_eq!(runs(&decision, "b"), Some(digest("b2")));
    assert!(decision.settled);
    assert_eq!(decision.exceptions[0].revision, digest("a2"));
    assert_eq!(decision.exceptions[0].reason, ExceptionKind::Refused);
}

#[test]
fn a_first_deployment_that_fails_is_absent_a_proven_unit_that_is_lost_fails_as_it_says() {
    let decision = Case::new()
        .wants("new", "v1", None, 1)
        .wants("proven", "v2", Some("v1"), 1)
        .is("new", "v1", failed("no"))
        .is("proven", "v2", failed("no"))
        .is("proven", "v1", failed("no"))
        .decide();
    assert!(decision.running.is_empty());
    assert_eq!(decision.not_loaded, [(unit("proven"), digest("v1"))].into());
}

#[test]
fn a_new_unit_waits_for_its_batch_like_any_other() {
    let decision =
        Case::new().wants("a", "a1", None, 7).wants("b", "b1", None, 7).is("a", "a1", Progress::Loaded).decide();
    assert!(decision.running.is_empty());
    assert!(!decision.settled);
}

#[test]
fn a_removed_unit_is_gone_and_its_stable_stays_needed() {
    let mut case = Case::new().wants("a", "v2", Some("v1"), 2).runs("a", "v2");
    if let Some(want) = case.wants.get_mut(&unit("a")) {
        want.run = None;
    }
    let decision = case.decide();
    assert!(decision.running.is_empty() && decision.settled);
    assert!(needs(&case.wants, &case.current).contains(&(unit("a"), digest("v1"))));
}

#[test]
fn a_restart_uses_the_last_good_revision_when_the_assigned_one_is_not_on_disk() {
    let decision =
        Case::new().wants("a", "v2", None, 2).runs("a", "v1").is("a", "v2", failed("artifact unreachable")).decide();
    assert_eq!(runs(&decision, "a"), Some(digest("v1")));
}

#[test]
fn what_is_not_on_disk_takes_over_from_nothing_only() {
    let unsaved = || Progress::Unsaved { message: "disk full".into() };
    let running = Case::new().wants("a", "v2", Some("v1"), 2).runs("a", "v1").is("a", "v2", unsaved()).decide();
    assert_eq!(runs(&running, "a"), Some(digest("v1")));
    assert_eq!(running.exceptions[0].reason, ExceptionKind::LocalTrouble);

    let fresh =
        Case::new().wants("a", "v2", Some("v1"), 2).is("a", "v2", unsaved()).is("a", "v1", failed("x")).decide();
    assert_eq!(runs(&fresh, "a"), Some(digest("v2")));
    assert_eq!(fresh.exceptions.len(), 1);
}

#[test]
fn a_new_node_without_a_disk_serves_all_that_it_can_a_running_one_takes_nothing_new() {
    let unsaved = Progress::Unsaved { message: "no disk".into() };
    let mut case = Case::new().wants("a", "v1", None, 1).is("a", "v1", unsaved);
    assert!(case.decide().running.is_empty());
    case.fresh = true;
    assert_eq!(runs(&case.decide(), "a"), Some(digest("v1")));
}
