//! What a plan holds: what to write, what to measure, when to look again, what is waited for.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    Digest, Entry, Environment, RolloutId, RolloutSpec, RolloutStatus, Target, Time, UnitChange, UnitId, UnitMemory,
    Waiting,
};

/// What to do now. It leaves the executor no choice: do every effect, begun in order, measure what is wanted
/// and nothing else, plan again on any change and at `wake_at`.
#[must_use]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What to write, begun in this order. Each rests only on the snapshot, so that one that fails stops no
    /// other, and none waits for another, but all for the assignments; in the steady state there are none. Where an
    /// assignment is not what the snapshot shows, what says how an attempt goes in its group is left out.
    pub effects: Vec<Effect>,
    /// What to measure from now on. What is not listed any more is not needed: a Job of it that still
    /// runs is stopped.
    pub observe: Vec<Wanted>,
    /// When to plan again at the latest, if nothing changes before.
    pub wake_at: Option<Time>,
    /// What each rollout that is not over waits for.
    pub rollouts: BTreeMap<RolloutId, RolloutReport>,
    /// Why a unit that differs from its branch has no rollout.
    pub units: BTreeMap<(UnitId, Environment), UnitReport>,
}

/// One write, and what to say once it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effect {
    /// The write.
    pub write: Write,
    /// Said only if the write succeeded; so each is said once.
    pub events: Vec<Event>,
}

/// One write of one object. At most one per object and plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Creates a rollout. One that exists already stays as it is.
    CreateRollout {
        /// Its namespace and name.
        rollout: RolloutId,
        /// What it is to do.
        spec: RolloutSpec,
    },
    /// Replaces what is remembered of a unit, all environments.
    UpdateUnit {
        /// Which.
        unit: UnitId,
        /// Fails unless this is what is stored.
        resource_version: String,
        /// The new memory.
        memory: BTreeMap<Environment, UnitMemory>,
    },
    /// Replaces a rollout's status.
    SetRolloutStatus {
        /// Which.
        rollout: RolloutId,
        /// Fails unless this is what is stored.
        resource_version: String,
        /// The new status.
        status: Box<RolloutStatus>,
        /// As with an assignment, and for the same reason.
        based_on: Vec<Basis>,
    },
    /// Replaces what a group is told to run.
    WriteAssignment {
        /// Which group.
        group: String,
        /// Fails unless this is what is stored; none: creates it.
        resource_version: Option<String>,
        /// The new generation.
        generation: u64,
        /// All entries.
        entries: BTreeMap<UnitId, Entry>,
        /// Read these from the API server, not from a cache, right before the write, and do not write if
        /// one differs: a plan made from a stale snapshot must not undo what a newer one did.
        based_on: Vec<Basis>,
    },
    /// Replaces what a node keeps on stable.
    KeepStable {
        /// Which node.
        node: String,
        /// Fails unless this is what is stored.
        resource_version: String,
        /// All such units.
        units: BTreeSet<UnitId>,
    },
}

impl Write {
    /// The group whose assignment it replaces.
    #[must_use]
    pub fn assigns(&self) -> Option<&str> {
        match self {
            Self::WriteAssignment { group, .. } => Some(group),
            Self::CreateRollout { .. }
            | Self::UpdateUnit { .. }
            | Self::SetRolloutStatus { .. }
            | Self::KeepStable { .. } => None,
        }
    }

    /// Whether it says how an attempt goes in a group.
    #[must_use]
    pub fn is_about(&self, group: &str) -> bool {
        match self {
            Self::SetRolloutStatus { status, .. } => status.groups.iter().any(|progress| progress.name == group),
            Self::CreateRollout { .. }
            | Self::UpdateUnit { .. }
            | Self::WriteAssignment { .. }
            | Self::KeepStable { .. } => false,
        }
    }
}

/// What a write rests on, beside the object that it replaces.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Basis {
    /// A unit's memory, at this resource version.
    Unit(UnitId, String),
    /// A rollout, at this resource version; none: it must not exist.
    Rollout(RolloutId, Option<String>),
    /// What a group is told, at this resource version.
    Assignment(String, String),
}

/// Something to say once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// On which object.
    pub about: About,
    /// How loud.
    pub severity: Severity,
    /// What kind of thing.
    pub reason: Reason,
    /// The sentence.
    pub note: String,
}

/// The object that an event stands on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum About {
    /// A rollout.
    Rollout(RolloutId),
    /// A unit.
    Unit(UnitId),
    /// A deployment group.
    Group(String),
}

/// How loud an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// As it should be.
    Normal,
    /// Somebody should look.
    Warning,
}

/// What an event tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// An attempt left Pending.
    Started,
    /// An attempt started without staging's evidence, because a person said so.
    EvidenceOverridden,
    /// A group is told to run it.
    GroupStarted,
    /// Every live node of a group has it; its gates look.
    GatesStarted,
    /// Verdicts are void, because what the group runs was written anew.
    GatesRestarted,
    /// Every gate of a group passed.
    GroupPassed,
    /// A group was left out.
    GroupSkipped,
    /// So many nodes joined a group at once that they get stable until its verdict.
    NodesKeptOnStable,
    /// It goes no further.
    Paused,
    /// It goes on.
    Resumed,
    /// It goes back.
    Reverting,
    /// Every group is back on stable.
    Reverted,
    /// Some node has not confirmed that it is back.
    RevertUnconfirmed,
    /// A person ended it.
    Aborted,
    /// A person took off what had succeeded.
    RolledBack,
    /// There was nothing to take off.
    NotRolledBack,
    /// Every group passed.
    Succeeded,
    /// A newer revision took its place.
    Superseded,
    /// A digest does not come back by itself.
    Rejected,
    /// A rejected digest may be tried again.
    Retried,
    /// Memory was lost; stable is what the assignments say.
    Adopted,
    /// An assignment was older than what its nodes run, and was written anew.
    AssignmentRestored,
}

/// One gate of one attempt in one group. A verdict belongs to this and is never carried to another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GateRef {
    /// The attempt, hence the digest.
    pub rollout: RolloutId,
    /// The group.
    pub group: String,
    /// Key of the gate in [`crate::GroupProgress::gates`].
    pub gate: String,
    /// Generation at which the group's entry of the unit last changed.
    pub since: u64,
}

/// Something to measure.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wanted {
    /// Requests and errors of a revision, from the nodes' counters, every second or so.
    Counters {
        /// For this gate.
        gate: GateRef,
        /// Of this unit.
        unit: UnitId,
        /// Of this revision.
        revision: Digest,
        /// Count from here.
        from: Time,
    },
    /// One evaluation of a Prometheus query.
    Query {
        /// For this gate.
        gate: GateRef,
        /// Where its text stands.
        spec: GateOrigin,
        /// `$unit`.
        unit: UnitId,
        /// `$revision`.
        target: Target,
        /// Evaluate then, for that instant.
        due: Time,
    },
    /// A Job: create it if it does not exist, and tell how it stands.
    Job {
        /// For this gate.
        gate: GateRef,
        /// Where its template stands.
        spec: GateOrigin,
        /// Its name, the same at each plan; at most 63 bytes. Its namespace is the operator's to choose.
        name: String,
        /// Unit under test.
        unit: UnitId,
        /// What that becomes.
        target: Target,
    },
    /// Whether a staging in another cluster let this through: the statuses of commits tell. It may change at any time.
    Evidence {
        /// Of what.
        change: UnitChange,
    },
}

/// Where a gate is written down.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum GateOrigin {
    /// In the group, under this name.
    Group(String),
    /// In the revision, under this name.
    Revision(Digest, String),
}

/// What a rollout waits for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RolloutReport {
    /// The group it is at, e.g. `2/4 canary`; empty before it starts.
    pub group: String,
    /// What it waits for.
    pub waiting: Vec<Waiting>,
    /// The same, as the column WAITING FOR shows it.
    pub text: String,
}

/// Why a unit that differs from its branch has no rollout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnitReport {
    /// Nobody can tell what the branch wants.
    HeadUnknown {
        /// Why.
        reason: String,
    },
    /// It goes together with a unit that nobody has read at the same commit.
    Together {
        /// Which.
        unit: UnitId,
    },
    /// Its Repository is gone.
    NoRepository {
        /// That one's name.
        repository: String,
    },
    /// What the branch wants was rejected.
    Rejected {
        /// What.
        target: Target,
        /// By which attempt; `retry` is said on it.
        by: RolloutId,
        /// Evidence.
        why: String,
    },
}
