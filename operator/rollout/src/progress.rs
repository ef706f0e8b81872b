//! A rollout: what it is to do, what people said about it, how far it is.

use std::{collections::BTreeMap, time::Duration};

use crate::{Digest, Environment, RolloutId, Target, Time, UnitId};

/// One attempt to take units through the groups of one environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rollout {
    /// Version of the stored object.
    pub resource_version: String,
    /// What it is to do.
    pub spec: RolloutSpec,
    /// What people said about it.
    pub verbs: Verbs,
    /// How far it is.
    pub status: RolloutStatus,
}

impl Rollout {
    /// A `retry` that was not followed yet.
    pub(crate) fn new_retry(&self) -> Option<&Said> {
        self.verbs.retry.as_ref().filter(|said| Some(&said.token) != self.status.retried.as_ref())
    }
}

/// What an attempt is to do. Never changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RolloutSpec {
    /// Where.
    pub environment: Environment,
    /// What changes; usually one unit.
    pub units: Vec<UnitChange>,
    /// Number of the attempt, counted per unit and environment.
    pub attempt: u32,
    /// Shares no group with another attempt while judged: an earlier attempt failed a gate that could
    /// not tell whose fault it was.
    pub alone: bool,
    /// Commit that asked for it.
    pub commit: String,
    /// Author of that commit.
    pub author: String,
}

/// One unit of an attempt.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnitChange {
    /// Which.
    pub unit: UnitId,
    /// What it becomes.
    pub target: Target,
}

/// What people said about a rollout, in its spec.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verbs {
    /// Goes no further while this is set. A failure still takes it back.
    pub pause: Option<Said>,
    /// Goes back, and its digest does not return by itself.
    pub abort: Option<Said>,
    /// Starts without staging's evidence.
    pub approve: Option<Said>,
    /// Of a rejected attempt: its digest may be tried again. Of one that a gate, a deadline or a limit
    /// paused: judges its group anew.
    pub retry: Option<Said>,
    /// Of an attempt that succeeded, and brought what is stable: takes that off everywhere at once.
    pub rollback: Option<Said>,
}

/// Who said something, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Tells two requests apart; e.g. the time at which it was said.
    pub token: String,
    /// Who.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// How far an attempt is. Written only from plans; all of it must be stored and read back unchanged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RolloutStatus {
    /// Where it stands.
    pub phase: Phase,
    /// Why it is paused, going back, or over.
    pub cause: Option<Cause>,
    /// `cause` with its evidence, for people.
    pub message: String,
    /// What each unit goes back to; fixed when it starts.
    pub stable: BTreeMap<UnitId, Option<Digest>>,
    /// The groups in order; fixed when it starts, empty before.
    pub groups: Vec<GroupProgress>,
    /// The group it is at, e.g. `2/4 canary`.
    pub group: String,
    /// What it waits for, e.g. `soak until 14:32:10 (812/1000 req)`.
    pub waiting_for: String,
    /// When it started.
    pub started_at: Option<Time>,
    /// When it stopped going forward: succeeded, began to go back, was superseded.
    pub ended_at: Option<Time>,
    /// Since when something else than its groups keeps it from going on; none while nothing does.
    pub held_since: Option<Time>,
    /// Token of the last `retry` that was followed.
    pub retried: Option<String>,
    /// Token of the last `rollback` that was answered.
    pub rollback_answered: Option<String>,
    /// When this status was written; paces the writes that only tell progress.
    pub written_at: Option<Time>,
}

impl RolloutStatus {
    /// Whether it is paused for something that a person has to decide.
    pub(crate) fn awaits_decision(&self) -> bool {
        let by_itself = match self.cause {
            Some(Cause::GateFailed | Cause::Refused | Cause::NotApplied | Cause::HoldLimit) => true,
            Some(
                Cause::Person
                | Cause::RolledBack
                | Cause::HeadReturned
                | Cause::Shared { .. }
                | Cause::Superseded { .. },
            )
            | None => false,
        };
        by_itself && self.phase == Phase::Paused
    }
}

/// Where an attempt stands. It is *in flight* from Progressing until its unit's memory lets go of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Not started: waits for something said in `waiting_for`. No group runs it.
    #[default]
    Pending,
    /// Goes through its groups.
    Progressing,
    /// Goes no further until a person, or a newer revision, decides; what it changed stays.
    Paused,
    /// Every group is told to run stable; some node has not confirmed yet.
    Reverting,
    /// Over: every group passed.
    Succeeded,
    /// Over: every group is back on stable. One that succeeded gets here by `rollback` alone.
    Reverted,
    /// Over: a person ended it, every group is back on stable.
    Aborted,
    /// Over: a newer revision took its place.
    Superseded,
}

impl Phase {
    /// Whether nothing follows.
    #[must_use]
    pub fn is_over(self) -> bool {
        match self {
            Self::Pending | Self::Progressing | Self::Paused | Self::Reverting => false,
            Self::Succeeded | Self::Reverted | Self::Aborted | Self::Superseded => true,
        }
    }

    /// Whether groups that it reached run it.
    #[must_use]
    pub fn holds_groups(self) -> bool {
        match self {
            Self::Progressing | Self::Paused | Self::Succeeded => true,
            Self::Pending | Self::Reverting | Self::Reverted | Self::Aborted | Self::Superseded => false,
        }
    }
}

/// Why an attempt is paused, going back, or over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A gate failed.
    GateFailed,
    /// A node refused the digest.
    Refused,
    /// Nodes did not apply it within the group's `applyDeadline`.
    NotApplied,
    /// It held longer than the group's `holdLimit`.
    HoldLimit,
    /// A person paused or aborted it.
    Person,
    /// A person took it off after it had succeeded.
    RolledBack,
    /// The branch went back to what was stable.
    HeadReturned,
    /// A gate failed that cannot tell units apart; these attempts were in the group, too.
    Shared {
        /// The others.
        with: Vec<RolloutId>,
    },
    /// The branch moved on.
    Superseded {
        /// To this attempt, if there is one.
        by: Option<RolloutId>,
    },
}

/// How far an attempt is in one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupProgress {
    /// Name of the group.
    pub name: String,
    /// Its order when the attempt started; equal orders go together.
    pub order: i32,
    /// Where it stands.
    pub phase: GroupPhase,
    /// When the group was told to run it, or when it began to be judged anew.
    pub entered_at: Option<Time>,
    /// Nodes that joined later are newcomers: when the group was first told to run it, or, where it had no
    /// nodes then, when its gates first started. Judging it anew leaves this as it is.
    pub told_at: Option<Time>,
    /// Since when some live node does not have it; none while all have it, or none is live.
    pub behind_since: Option<Time>,
    /// Since which generation its nodes are judged, per unit: all verdicts are bound to it.
    pub since: BTreeMap<UnitId, u64>,
    /// When every live node had it: the start of its gates.
    pub gates_started_at: Option<Time>,
    /// Each gate by its key: the name, with the unit's name where that is needed.
    pub gates: BTreeMap<String, GateProgress>,
}

/// Where an attempt stands in one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum GroupPhase {
    /// Not its turn.
    Waiting,
    /// Told to run it; not every live node has it.
    Deploying,
    /// The gates look.
    Verifying,
    /// Every gate passed.
    Passed,
    /// Left out: deleted on the way, or optional and without live nodes.
    Skipped,
    /// A gate failed, a node refused, or a deadline passed, here.
    Failed,
}

/// What is known of one gate in one group for one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GateProgress {
    /// What it says.
    pub verdict: Verdict,
    /// The evidence, for people.
    pub message: String,
    /// When it started.
    pub started_at: Time,
    /// How many samples counted.
    pub samples: u32,
    /// How many of the last ones failed in a row.
    pub consecutive_failures: u32,
    /// Requests counted.
    pub requests: u64,
    /// Errors counted.
    pub errors: u64,
    /// Time that was watched; only this counts for a soak, so no clock that jumps can shorten one.
    pub watched: Duration,
    /// Until when it was watched.
    pub watched_until: Option<Time>,
    /// End of the last sample that counted.
    pub last_sample_at: Option<Time>,
    /// How often its Job was started again after one that could not be run.
    pub reruns: u32,
}

/// What a gate says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Not enough seen.
    Running,
    /// Good; a gate that goes on measuring may still change its mind until the group has passed.
    Pass,
    /// Bad.
    Fail,
    /// Cannot tell: no data, stale data, an error. Holds; never reverts on its own.
    Inconclusive,
}
