//! What one plan costs: 1,000 units in the four groups of production, each of which got there by an attempt of its own.

#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

use std::{collections::BTreeMap, hint::black_box, time::Duration};

use criterion::{Criterion, criterion_group, criterion_main};
use sluice_rollout::{
    Assignment, Digest, Entry, Environment, Group, GroupPhase, GroupProgress, Head, Node, NodeReport, OnGateFailure,
    Phase, Repository, RepositoryId, Revision, Rollout, RolloutId, RolloutSpec, RolloutStatus, Snapshot, Target, Time,
    Unit, UnitChange, UnitId, UnitKind, UnitMemory, Verbs, plan,
};

/// As the operator has it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const UNITS: usize = 1_000;
const GROUPS: [&str; 4] = ["internal", "canary", "early", "main"];
const NODES: usize = 5;
const NOW: Time = Time(1_795_435_200_000);
const ENVIRONMENT: Environment = Environment::Production;

fn digest(number: usize) -> Digest {
    format!("{number:08x}").repeat(8).parse().unwrap()
}

fn repository() -> RepositoryId {
    RepositoryId { namespace: "edge-team".into(), name: "edge".into() }
}

fn unit(number: usize) -> UnitId {
    UnitId { kind: UnitKind::Routes, namespace: "edge-team".into(), name: format!("shop-{number:04}") }
}

fn groups(phase: GroupPhase) -> Vec<GroupProgress> {
    let progress = |(order, name): (i32, &str)| GroupProgress {
        name: name.into(),
        order,
        phase,
        entered_at: Some(NOW),
        told_at: Some(NOW),
        behind_since: None,
        since: BTreeMap::new(),
        gates_started_at: None,
        gates: BTreeMap::new(),
    };
    (0..).zip(GROUPS).map(progress).collect()
}

fn attempt(snapshot: &mut Snapshot, id: &UnitId, target: Digest, number: u32, status: RolloutStatus) -> RolloutId {
    let target = Target::Revision(target);
    let name = RolloutId::of(id, ENVIRONMENT, &target, number);
    let spec = RolloutSpec {
        environment: ENVIRONMENT,
        units: vec![UnitChange { unit: id.clone(), target }],
        attempt: number,
        alone: false,
        commit: "c0ffee".into(),
        author: "somebody".into(),
    };
    let rollout = Rollout { resource_version: "1".into(), spec, verbs: Verbs::default(), status };
    snapshot.rollouts.insert(name.clone(), rollout);
    name
}

/// All is as the branch wants it.
fn settled() -> Snapshot {
    let mut snapshot = Snapshot::default();
    snapshot.repositories.insert(repository(), Repository::default());
    let mut entries = BTreeMap::new();
    for number in 0..UNITS {
        let (id, stable) = (unit(number), digest(number));
        let over = RolloutStatus {
            phase: Phase::Succeeded,
            groups: groups(GroupPhase::Passed),
            stable: [(id.clone(), None)].into(),
            ended_at: Some(NOW),
            ..RolloutStatus::default()
        };
        attempt(&mut snapshot, &id, stable.clone(), 1, over);
        let target = Target::Revision(stable.clone());
        let head =
            Head::Wants { target: target.clone(), commit: "c0ffee".into(), author: "somebody".into(), together: None };
        let memory = UnitMemory {
            stable: Some(target),
            passed: [(stable.clone(), NOW)].into(),
            attempts: 1,
            ..UnitMemory::default()
        };
        let remembered = Unit {
            resource_version: "1".into(),
            repository: repository(),
            created_at: NOW,
            heads: [(ENVIRONMENT, head)].into(),
            memory: [(ENVIRONMENT, memory)].into(),
        };
        snapshot.revisions.insert(stable.clone(), Revision::default());
        snapshot.units.insert(id.clone(), remembered);
        entries.insert(id, Entry { revision: Some(stable.clone()), stable: Some(stable), since: 1 });
    }
    for (order, name) in (0..).zip(GROUPS) {
        let report = |name: &str| NodeReport {
            group: name.into(),
            generation: 1,
            exceptions: Vec::new(),
            unlisted: false,
            last_error: None,
        };
        let node = |number| {
            let node = Node {
                live: true,
                report: Some(report(name)),
                resource_version: "1".into(),
                joined_at: Some(NOW),
                keeps_stable: [].into(),
            };
            (format!("{name}-{number}"), node)
        };
        let group = Group {
            environment: ENVIRONMENT,
            order,
            optional: false,
            gates: Vec::new(),
            on_gate_failure: OnGateFailure::Revert,
            apply_deadline: Duration::from_secs(60),
            hold_limit: Duration::from_secs(3_600),
            rollback_window: None,
            nodes: (0..NODES).map(node).collect(),
            assignment: Some(Assignment { resource_version: "1".into(), generation: 1, entries: entries.clone() }),
        };
        snapshot.groups.insert(name.into(), group);
    }
    snapshot
}

/// One of them goes back in all groups.
fn reverting() -> Snapshot {
    let mut snapshot = settled();
    let (id, bad) = (unit(UNITS / 2), digest(UNITS));
    let back =
        RolloutStatus { phase: Phase::Reverting, groups: groups(GroupPhase::Failed), ..RolloutStatus::default() };
    let name = attempt(&mut snapshot, &id, bad.clone(), 2, back);
    snapshot.units.get_mut(&id).unwrap().memory.get_mut(&ENVIRONMENT).unwrap().in_flight = Some(name);
    for group in snapshot.groups.values_mut() {
        let entry = group.assignment.as_mut().unwrap().entries.get_mut(&id).unwrap();
        entry.revision = Some(bad.clone());
    }
    snapshot
}

fn plans(criterion: &mut Criterion) {
    let (settled, reverting) = (settled(), reverting());
    assert_eq!(plan(&settled, NOW).effects, [], "nothing is to be done");
    let told = plan(&reverting, NOW).effects.iter().filter(|effect| effect.write.assigns().is_some()).count();
    assert_eq!(told, GROUPS.len(), "all groups are told");
    criterion.bench_function("plan/1000 units, nothing to do", |b| b.iter(|| black_box(plan(&settled, NOW))));
    criterion.bench_function("plan/1000 units, one goes back", |b| b.iter(|| black_box(plan(&reverting, NOW))));
}

criterion_group!(benches, plans);
criterion_main!(benches);
