//! All that the planner knows of the world. `operator/src/observe.rs` fills it, and nothing else.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use crate::{Digest, Environment, GateRef, Rollout, RolloutId, Sample, Target, Time, UnitChange, UnitId, UnitKind};

/// All that is known at one moment. It must be complete: plan only once every cache is filled, because a
/// group that is missing here counts as deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Since when the operator that asks watches by a clock that goes evenly. Time before that was another's
    /// to watch: its clock may have differed.
    pub watching_since: Time,
    /// The deployment groups, by name.
    pub groups: BTreeMap<String, Group>,
    /// The repositories that units come from.
    pub repositories: BTreeMap<RepositoryId, Repository>,
    /// The units. One that is missing here keeps what it runs.
    pub units: BTreeMap<UnitId, Unit>,
    /// Every revision that a head or a rollout names. An attempt whose revision is missing holds.
    pub revisions: BTreeMap<Digest, Revision>,
    /// Every rollout that exists, over or not.
    pub rollouts: BTreeMap<RolloutId, Rollout>,
    /// What was measured for gates.
    pub samples: BTreeMap<GateRef, Vec<Sample>>,
    /// What another cluster's staging says of what a plan wanted to know; one that is missing was not asked yet.
    pub elsewhere: BTreeMap<UnitChange, Elsewhere>,
}

/// A deployment group, its nodes, and what it is told to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Where it belongs.
    pub environment: Environment,
    /// Its place: lower goes first, equal ones go together.
    pub order: i32,
    /// May be left out while it has no live nodes.
    pub optional: bool,
    /// What must pass before the next group.
    pub gates: Vec<GateSpec>,
    /// What a failure does.
    pub on_gate_failure: OnGateFailure,
    /// How long nodes may take to run what they are told; then the attempt pauses.
    pub apply_deadline: Duration,
    /// How long an attempt may hold here; then it pauses.
    pub hold_limit: Duration,
    /// Going back to what succeeded in its environment within this time needs no soak; none: it does.
    pub rollback_window: Option<Duration>,
    /// Its nodes.
    pub nodes: BTreeMap<String, Node>,
    /// What it is told to run; none before the first plan.
    pub assignment: Option<Assignment>,
}

/// What a failure does to an attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnGateFailure {
    /// Takes it back everywhere.
    #[default]
    Revert,
    /// Stops it where it is, for a person to decide.
    Pause,
}

/// A node of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Dataplane pod ready and node ready.
    pub live: bool,
    /// What it last said; none if it never did.
    pub report: Option<NodeReport>,
    /// Version of the stored object.
    pub resource_version: String,
    /// When it came into this group; none: before such times were kept.
    pub joined_at: Option<Time>,
    /// Units that it keeps on stable, whatever its group is told.
    pub keeps_stable: BTreeSet<UnitId>,
}

/// What a node says it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeReport {
    /// Group whose assignment this is about: after a move, still the former one for a while.
    pub group: String,
    /// Generation in force; 0 before the first.
    pub generation: u64,
    /// Units that do not run as assigned.
    pub exceptions: Vec<Exception>,
    /// Whether there are more exceptions than are listed.
    pub unlisted: bool,
    /// Why the newest assignment as a whole is not in force, if so.
    pub last_error: Option<String>,
}

/// One unit that does not run as assigned on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exception {
    /// Which.
    pub unit: UnitId,
    /// What was assigned.
    pub digest: Digest,
    /// Whose fault it is.
    pub kind: ExceptionKind,
    /// What happened.
    pub message: String,
}

/// Whose fault an exception is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExceptionKind {
    /// The digest's: no node could run it.
    Refused,
    /// The node's: disk full, artifact unreachable.
    LocalTrouble,
}

/// What a group is told to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Version of the stored object.
    pub resource_version: String,
    /// Counts its changes.
    pub generation: u64,
    /// One entry a unit.
    pub entries: BTreeMap<UnitId, Entry>,
}

/// What a group is told to run of one unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What to run; none while the unit is being removed.
    pub revision: Option<Digest>,
    /// What to go back to.
    pub stable: Option<Digest>,
    /// Generation at which this entry last changed.
    pub since: u64,
}

/// A gate, as a group or a revision asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GateSpec {
    /// Unique in its list.
    pub name: String,
    /// Which units it judges.
    pub scope: GateScope,
    /// What it looks at.
    pub check: Check,
}

/// Which units a gate judges; an empty set means all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GateScope {
    /// Of these kinds.
    pub kinds: BTreeSet<UnitKind>,
    /// In these namespaces.
    pub namespaces: BTreeSet<String>,
}

/// What a gate looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// Time, and requests.
    Soak {
        /// At least this long.
        duration: Duration,
        /// At least this many requests through each unit.
        min_requests: Option<u64>,
    },
    /// Share of requests that the revision itself got wrong.
    ErrorRate {
        /// At most this.
        max: Ppm,
        /// No Pass on fewer; at least 1. Fails earlier if no number of good ones could save it.
        min_requests: u64,
    },
    /// A query.
    Prometheus {
        /// How often.
        interval: Duration,
        /// How many failures in a row are a Fail; at least 1.
        failure_limit: u32,
        /// No Pass on fewer numbers; at least 1.
        min_samples: u32,
        /// Longest range in the query: a sample must not reach back before the gate's start.
        range: Duration,
        /// Names `$unit` or `$revision`: judges one unit. Otherwise it cannot tell units apart.
        per_unit: bool,
    },
    /// A Job. It cannot tell units apart.
    Job,
}

/// Parts per million: rates without fractions. `5000` is 0.5%.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ppm(pub u32);

impl Ppm {
    /// `errors` of `requests`; zero of zero is zero.
    #[must_use]
    pub fn of(errors: u64, requests: u64) -> Self {
        let ppm = u128::from(errors) * 1_000_000 / u128::from(requests.max(1));
        Self(u32::try_from(ppm).unwrap_or(u32::MAX))
    }
}

/// As percent, with as many decimals as it takes, at most two: `3.1%`, `0.5%`, `0.05%`.
impl fmt::Display for Ppm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hundredths = (self.0 + 50) / 100;
        let (whole, rest) = (hundredths / 100, hundredths % 100);
        match (rest, rest % 10) {
            (0, _) => write!(f, "{whole}%"),
            (_, 0) => write!(f, "{whole}.{}%", rest / 10),
            _ => write!(f, "{whole}.{rest:02}%"),
        }
    }
}

/// Namespace and name of a Repository.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RepositoryId {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// What a Repository says about its rollouts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repository {
    /// What production asks of staging.
    pub staging_evidence: StagingEvidence,
    /// The commit that each branch is at, as far as anyone could read it.
    pub commits: BTreeMap<Environment, String>,
    /// The environments of which all heads of that commit are seen. Of any other some may be missing.
    pub whole: BTreeSet<Environment>,
    /// The commit (or 7 and more of its first digits) whose removal of many units a person confirmed.
    pub removal_confirmed: Option<String>,
}

/// What production asks of staging.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StagingEvidence {
    /// The digest passed staging in this cluster.
    #[default]
    InCluster,
    /// The digest passed staging in another cluster, as that has written to the commits' statuses.
    CommitStatus,
    /// Nothing.
    None,
}

/// How a staging in another cluster stands to what production wants, as the statuses of commits tell.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Elsewhere {
    /// It passed there.
    Passed,
    /// It is tried there.
    Tried(Told),
    /// It failed there.
    Failed(Told),
    /// No status speaks of it.
    Untold {
        /// The status that should, e.g. `sluice/staging/shop`.
        context: String,
        /// A commit on which it was looked for, the likeliest one; none if there was no commit to look at.
        commit: Option<String>,
        /// How many others were looked at.
        others: usize,
        /// What it says there of something else, if it does.
        says: Option<String>,
    },
    /// They cannot be read.
    Unreadable {
        /// Why.
        why: String,
    },
}

/// A status that speaks of what is wanted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Told {
    /// Its name, e.g. `sluice/staging/shop`.
    pub context: String,
    /// The commit that has it.
    pub commit: String,
    /// What it says.
    pub says: String,
}

/// A unit: what its branches want, and what is remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Version of the stored object.
    pub resource_version: String,
    /// Repository that owns the name.
    pub repository: RepositoryId,
    /// When its object was created: the older of two that claim one host and path keeps it.
    pub created_at: Time,
    /// What each branch wants now; an environment that is missing is [`Head::Unknown`].
    pub heads: BTreeMap<Environment, Head>,
    /// What is remembered; a missing environment remembers nothing.
    pub memory: BTreeMap<Environment, UnitMemory>,
}

/// What a branch wants of a unit now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Head {
    /// This (the tombstone, where the branch is readable and the unit is not in it).
    Wants {
        /// What it should become.
        target: Target,
        /// The branch's commit.
        commit: String,
        /// Its author.
        author: String,
        /// All that goes together with it, itself too, as that commit has it; none: it goes alone.
        together: Option<Together>,
    },
    /// Nobody can tell: branch gone, repository unreachable, bad manifest. What runs keeps running.
    Unknown {
        /// Why.
        reason: String,
    },
}

/// Units of one repository that go through the groups as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Together {
    /// What their manifests call it.
    pub name: String,
    /// All of them.
    pub units: BTreeSet<UnitId>,
}

/// What is remembered of a unit in an environment. Written only from plans.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnitMemory {
    /// What last succeeded: where every revert goes. None before the first success.
    pub stable: Option<Target>,
    /// Digests that succeeded, and when. Production asks staging's.
    pub passed: BTreeMap<Digest, Time>,
    /// What does not come back by itself.
    pub rejected: BTreeMap<Target, Rejection>,
    /// Number of the last attempt.
    pub attempts: u32,
    /// The attempt that has the unit. It alone may change groups.
    pub in_flight: Option<RolloutId>,
    /// Its target failed together with others; it runs again, alone.
    pub suspect: Option<Suspect>,
}

/// Why a target does not come back by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The attempt that failed; `retry` is said on it.
    pub by: RolloutId,
    /// Evidence.
    pub why: String,
}

/// A target that failed together with others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspect {
    /// Which.
    pub target: Target,
    /// When its attempt had started: the oldest runs first.
    pub since: Time,
}

/// An immutable revision, as far as rollouts look into it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revision {
    /// Gates added to those of every group.
    pub gates: Vec<GateSpec>,
    /// Units that must be there before it, and may leave only after it.
    pub refers_to: BTreeSet<UnitId>,
    /// Hosts with paths (`shop.example/*`) that nobody else may have, per environment.
    pub claims: BTreeMap<Environment, BTreeSet<String>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_read_as_percent() {
        let shown = |ppm| Ppm(ppm).to_string();
        assert_eq!(shown(5000), "0.5%");
        assert_eq!(shown(31_250), "3.13%");
        assert_eq!(shown(1_000_000), "100%");
        assert_eq!(shown(500), "0.05%");
        assert_eq!(Ppm::of(0, 0), Ppm(0));
    }
}
