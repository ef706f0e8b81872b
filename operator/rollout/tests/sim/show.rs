//! How effects read in a transcript.

use std::collections::BTreeMap;

use sluice_rollout::{
    About, Digest, Effect, Entry, Environment, Event, GroupPhase, Phase, RolloutStatus, Severity, Snapshot, Target,
    UnitId, UnitMemory, UnitReport, Write,
};

use super::cluster::Cluster;

/// One line for a write; none for one that only tells progress.
pub fn effect(store: &Snapshot, effect: &Effect) -> Option<String> {
    match &effect.write {
        Write::CreateRollout { rollout, spec } => {
            let alone = if spec.alone { " (alone)" } else { "" };
            let units: Vec<_> = spec.units.iter().map(|c| format!("{} {}", plain(&c.unit), c.target.short())).collect();
            let of = if units.len() > 1 { format!(": {}", units.join(", ")) } else { String::new() };
            Some(format!("  create   {rollout}{alone}{of}"))
        }
        Write::UpdateUnit { unit, memory, .. } => Some(remembered(store, unit, memory)),
        Write::SetRolloutStatus { rollout, status, .. } => {
            let stored = &store.rollouts.get(rollout)?.status;
            (skeleton(stored) != skeleton(status)).then(|| format!("  status   {rollout}: {}", phases(status)))
        }
        Write::KeepStable { node, units, .. } => {
            let units: Vec<_> = units.iter().map(plain).collect();
            let units = if units.is_empty() { "nothing".to_owned() } else { units.join(", ") };
            Some(format!("  node     {node} keeps on stable: {units}"))
        }
        Write::WriteAssignment { group, generation, entries, .. } => {
            let none = BTreeMap::new();
            let stored = store.groups.get(group).and_then(|group| group.assignment.as_ref());
            let old = stored.map_or(&none, |assignment| &assignment.entries);
            Some(format!("  assign   {group} #{generation}: {}", changes(old, entries)))
        }
    }
}

/// What a status says without what moves all the time.
pub fn skeleton(status: &RolloutStatus) -> String {
    let rounds = status.groups.iter().map(|group| {
        let gates: Vec<_> = group.gates.values().map(|gate| (gate.started_at, gate.reruns)).collect();
        format!("{gates:?} {:?}", group.entered_at)
    });
    let rounds: Vec<_> = rounds.collect();
    format!("{} {:?} {} {rounds:?} {:?}", phases(status), status.cause, status.message, status.retried)
}

fn phases(status: &RolloutStatus) -> String {
    let groups = status.groups.iter().filter(|group| group.phase != GroupPhase::Waiting);
    let groups: Vec<_> = groups.map(|group| format!("{} {:?}", group.name, group.phase)).collect();
    let waiting = status.groups.len() - groups.len();
    let mut parts = groups;
    if waiting > 0 && status.phase != Phase::Pending {
        parts.push(format!("{waiting} to go"));
    }
    let first = status.written_at.is_some() || status.phase != Phase::Pending;
    let text = if first { format!("{:?}", status.phase) } else { "new".to_owned() };
    if parts.is_empty() { text } else { format!("{text} [{}]", parts.join(", ").to_lowercase()) }
}

fn changes(old: &BTreeMap<UnitId, Entry>, new: &BTreeMap<UnitId, Entry>) -> String {
    let mut parts = Vec::new();
    for (unit, entry) in new {
        if old.get(unit) != Some(entry) {
            let stable = entry.stable.as_ref().map_or("none", |digest| digest.short());
            let revision = entry.revision.as_ref().map_or("gone", |digest| digest.short());
            parts.push(format!("{} {revision} (stable {stable})", plain(unit)));
        }
    }
    let gone = old.keys().filter(|unit| !new.contains_key(*unit));
    parts.extend(gone.map(|unit| format!("{} dropped", plain(unit))));
    if parts.is_empty() { "nothing".to_owned() } else { parts.join(", ") }
}

fn remembered(store: &Snapshot, unit: &UnitId, memory: &BTreeMap<Environment, UnitMemory>) -> String {
    let mut parts = Vec::new();
    for (environment, new) in memory {
        let none = UnitMemory::default();
        let old = store.units.get(unit).and_then(|unit| unit.memory.get(environment)).unwrap_or(&none);
        let mut changed = Vec::new();
        if old.in_flight != new.in_flight {
            let name = new.in_flight.as_ref().map_or("nothing".to_owned(), ToString::to_string);
            changed.push(format!("in flight {name}"));
        }
        if old.stable != new.stable {
            changed.push(format!("stable {}", new.stable.as_ref().map_or("none", Target::short)));
        }
        let digests = |memory: &UnitMemory| memory.passed.keys().map(Digest::short).collect::<Vec<_>>().join(" ");
        if digests(old) != digests(new) {
            changed.push(format!("passed [{}]", digests(new)));
        }
        let rejected = |memory: &UnitMemory| memory.rejected.keys().map(Target::short).collect::<Vec<_>>().join(" ");
        if old.rejected != new.rejected {
            changed.push(format!("rejected [{}]", rejected(new)));
        }
        if old.suspect != new.suspect {
            let suspect = new.suspect.as_ref().map_or("none", |suspect| suspect.target.short());
            changed.push(format!("suspect {suspect}"));
        }
        if changed.is_empty() && old.attempts != new.attempts {
            changed.push(format!("attempts {}", new.attempts));
        }
        if !changed.is_empty() {
            parts.push(format!("{environment}: {}", changed.join(", ")));
        }
    }
    format!("  remember {} {}", plain(unit), parts.join("; "))
}

/// One line for an event.
pub fn event(event: &Event) -> String {
    let about = match &event.about {
        About::Rollout(id) => id.to_string(),
        About::Unit(unit) => plain(unit),
        About::Group(group) => format!("group {group}"),
    };
    let mark = match event.severity {
        Severity::Normal => " ",
        Severity::Warning => "!",
    };
    format!("  event  {mark} {about} {:?}: {}", event.reason, event.note)
}

/// A unit without its namespace: scripts have one.
pub fn plain(unit: &UnitId) -> String {
    unit.to_string().trim_start_matches("edge-team/").to_owned()
}

impl Cluster {
    /// What `kubectl get rollouts` would show of what is not over, and why units wait without a rollout.
    pub fn show_table(&mut self) {
        let rollouts = self.store.rollouts.iter().filter(|(_, rollout)| !rollout.status.phase.is_over());
        let mut lines: Vec<String> = rollouts
            .map(|(id, rollout)| {
                // The plan's own words: the status may lag behind by 15 s.
                let text = self.last_plan.rollouts.get(id).map_or("", |report| &report.text);
                let at = &rollout.status.group;
                format!("  = {id} | {at} | {:?} | {text}", rollout.status.phase)
            })
            .collect();
        for ((unit, environment), report) in &self.last_plan.units {
            let text = match report {
                UnitReport::HeadUnknown { reason } => format!("the branch: {reason}"),
                UnitReport::Together { unit } => sluice_rollout::waits_for_together(unit),
                UnitReport::NoRepository { repository } => sluice_rollout::waits_for_repository(repository),
                UnitReport::Rejected { target, by, why } => {
                    format!("{} was rejected by {by}: {why}", target.short())
                }
            };
            lines.push(format!("  = {} {environment} | {text}", plain(unit)));
        }
        self.transcript.extend(lines);
    }

    /// The end state, without what legitimately depends on the way there.
    pub fn end_state(&self) -> String {
        let mut lines = Vec::new();
        for (name, group) in &self.store.groups {
            let entries = group.assignment.iter().flat_map(|assignment| &assignment.entries);
            for (unit, entry) in entries {
                let short = |digest: &Option<Digest>| digest.as_ref().map_or("-", |d| d.short()).to_owned();
                lines.push(format!("{name}: {unit} {} {}", short(&entry.revision), short(&entry.stable)));
            }
        }
        for (id, unit) in &self.store.units {
            for (environment, memory) in &unit.memory {
                let rejected: Vec<_> = memory.rejected.keys().map(Target::short).collect();
                let passed: Vec<_> = memory.passed.keys().map(Digest::short).collect();
                let stable = memory.stable.as_ref().map(Target::short);
                let in_flight = memory.in_flight.as_ref().map(ToString::to_string);
                lines.push(format!("{id} {environment}: {stable:?} {passed:?} {rejected:?} {in_flight:?}"));
            }
        }
        for (id, rollout) in &self.store.rollouts {
            lines.push(format!("{id} {:?} {}", rollout.status.phase, rollout.status.group));
        }
        lines.join("\n")
    }
}
