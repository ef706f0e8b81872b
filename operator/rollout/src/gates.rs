//! Which gates judge an attempt in a group, and how they are called.

use crate::{
    Check, GateOrigin, GateRef, GateScope, GateSpec, Group, Rollout, RolloutId, Target, UnitChange, UnitKind,
    domain::stable_hash, view::View,
};

/// A gate that judges an attempt in a group.
pub(crate) struct Gate<'a> {
    /// Its key in the group's progress.
    pub(crate) key: String,
    /// Where it is written down.
    pub(crate) origin: GateOrigin,
    /// What it looks at.
    pub(crate) check: &'a Check,
    /// The unit that it judges; where it cannot tell units apart, the first.
    pub(crate) change: &'a UnitChange,
}

impl Gate<'_> {
    /// Whether it cannot tell which attempt in a group is at fault.
    pub(crate) fn is_shared(&self) -> bool {
        match self.check {
            Check::Job => true,
            Check::Prometheus { per_unit, .. } => !per_unit,
            Check::Soak { .. } | Check::ErrorRate { .. } => false,
        }
    }
}

/// The gates of the group and of the revisions.
pub(crate) fn of<'a>(view: &View<'a>, group: &'a Group, rollout: &'a Rollout) -> Vec<Gate<'a>> {
    let several = rollout.spec.units.len() > 1;
    let mut gates: Vec<Gate<'a>> = Vec::new();
    for change in &rollout.spec.units {
        for spec in group.gates.iter().filter(|gate| covers(&gate.scope, change)) {
            let per_unit = several && judges_one_unit(&spec.check);
            let key = if per_unit { format!("{} ({})", spec.name, change.unit) } else { spec.name.clone() };
            let known = gates.iter().any(|gate| gate.key == key);
            if !known && says_something(&spec.check, change) {
                gates.push(Gate { key, origin: GateOrigin::Group(spec.name.clone()), check: &spec.check, change });
            }
        }
        gates.extend(own(view, change));
    }
    gates
}

/// The gates that a revision brings along; their keys cannot collide with a group's.
fn own<'a>(view: &View<'a>, change: &'a UnitChange) -> impl Iterator<Item = Gate<'a>> {
    let revision = change.target.digest().and_then(|digest| view.snapshot.revisions.get_key_value(digest));
    revision.into_iter().flat_map(move |(digest, revision)| {
        let gates = revision.gates.iter();
        gates.filter(|gate| covers(&gate.scope, change) && says_something(&gate.check, change)).map(
            move |spec: &GateSpec| Gate {
                key: format!("{}/{}", change.unit.name, spec.name),
                origin: GateOrigin::Revision(digest.clone(), spec.name.clone()),
                check: &spec.check,
                change,
            },
        )
    })
}

fn covers(scope: &GateScope, change: &UnitChange) -> bool {
    let kind = scope.kinds.is_empty() || scope.kinds.contains(&change.unit.kind);
    kind && (scope.namespaces.is_empty() || scope.namespaces.contains(&change.unit.namespace))
}

fn judges_one_unit(check: &Check) -> bool {
    match check {
        Check::Soak { min_requests, .. } => min_requests.is_some(),
        Check::ErrorRate { .. } => true,
        Check::Prometheus { per_unit, .. } => *per_unit,
        Check::Job => false,
    }
}

/// Nothing passes through what is gone: a gate that watches the revision itself would hold for ever.
fn says_something(check: &Check, change: &UnitChange) -> bool {
    match check {
        Check::Soak { .. } | Check::Job => true,
        Check::ErrorRate { .. } => counts_requests(change),
        Check::Prometheus { per_unit, .. } => !per_unit || change.target != Target::Removed,
    }
}

/// Whether nodes count requests for it. Nothing passes through a bundle, either.
pub(crate) fn counts_requests(change: &UnitChange) -> bool {
    change.target != Target::Removed && change.unit.kind != UnitKind::Config
}

/// Name of a gate's Job: the same at each plan, another for each round of judging.
pub(crate) fn job_name(gate: &GateRef, reruns: u32) -> String {
    let RolloutId { namespace, name } = &gate.rollout;
    let all = format!("{namespace}/{name}/{}/{}/{}/{reruns}", gate.group, gate.gate, gate.since);
    let hash = stable_hash(&all);
    let allowed = |c: &char| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-';
    let readable: String = name.chars().filter(allowed).take(46).collect();
    format!("{}-{hash:016x}", readable.trim_end_matches('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(name: &str, since: u64) -> GateRef {
        let rollout = RolloutId { namespace: "edge".into(), name: name.into() };
        GateRef { rollout, group: "canary".into(), gate: "e2e".into(), since }
    }

    #[test]
    fn a_job_is_named_for_its_round_and_fits_a_label() {
        let first = job_name(&gate("shop-w-pr-9f2c1a77-1", 7), 0);
        assert_eq!(first, job_name(&gate("shop-w-pr-9f2c1a77-1", 7), 0));
        assert_ne!(first, job_name(&gate("shop-w-pr-9f2c1a77-1", 8), 0));
        assert_ne!(first, job_name(&gate("shop-w-pr-9f2c1a77-1", 7), 1));
        assert!(first.starts_with("shop-w-pr-9f2c1a77-1-"));
        assert!(job_name(&gate(&"long".repeat(60), 7), 0).len() <= 63);
    }
}
