//! The settings: a small cluster each, and how much of what may happen there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock, atomic::AtomicBool};

use super::{
    promises,
    state::{Budget, Cache, Machine, State, Truth},
};
use crate::sim::{cluster::Cluster, faults::Faults};

/// A setting as it is written down.
pub struct Setting {
    pub name: &'static str,
    /// Lines of a script; the cluster rests after them.
    pub script: &'static [&'static str],
    /// Commits with which it begins.
    pub begins: &'static [&'static str],
    /// Where it does not go deep, only the first of these lags.
    pub caches: &'static [Cache],
    pub jumps: &'static [i64],
    pub pushes: &'static [&'static str],
    pub verbs: &'static [&'static str],
    pub edits: &'static [&'static str],
    pub churn: &'static [&'static str],
    pub bounded: &'static [Budget],
    pub deep: &'static [Budget],
    /// What must come up somewhere.
    pub shows: &'static [&'static str],
    /// What must come up besides where it goes deep.
    pub shows_deep: &'static [&'static str],
}

/// A setting that is checked.
pub struct Checked {
    pub start: State,
    pub caches: &'static [Cache],
    pub jumps: &'static [i64],
    pub pushes: &'static [&'static str],
    pub verbs: &'static [&'static str],
    pub edits: &'static [&'static str],
    pub churn: &'static [&'static str],
    /// States from which the way to rest is known to be good.
    pub rests: Mutex<BTreeSet<u64>>,
    /// Whether the way to rest is told.
    pub told: AtomicBool,
}

const NONE: Budget = Budget {
    crashes: 0,
    stalls: 0,
    stale: 0,
    pushes: 0,
    fails: 0,
    errors: 0,
    early: 0,
    refusals: 0,
    verbs: 0,
    edits: 0,
    churn: 0,
    jumps: 0,
    ticks: 0,
};

/// So often the operator may sleep without its being about time: until a Job is run again.
const TICKS_FEW: u8 = 2;

const BOTH_AT_V1: [&str; 2] = ["push production a:v1 b:v1", "wait 30m"];
const TWO_GROUPS: &[&str] = &[
    "evidence none",
    "group g1 production 10 nodes n1 gates job:e2e",
    "group g2 production 20 nodes n2 gates query:lat:30s:1",
    BOTH_AT_V1[0],
    BOTH_AT_V1[1],
];

const OPERATORS: Setting = Setting {
    name: "operators",
    script: TWO_GROUPS,
    begins: &["production a:v2", "production b:v2"],
    caches: &[Cache::Rollouts, Cache::Everything, Cache::Units, Cache::Groups],
    jumps: &[],
    pushes: &["production a:v3"],
    verbs: &["abort"],
    edits: &[],
    churn: &[],
    bounded: &[Budget { crashes: 1, fails: 1, ..NONE }, Budget { stalls: 1, ..NONE }, Budget { stale: 1, ..NONE }],
    deep: &[
        Budget { crashes: 1, stalls: 1, fails: 1, ..NONE },
        Budget { crashes: 1, stale: 1, fails: 1, ..NONE },
        Budget { stalls: 1, fails: 1, verbs: 1, ..NONE },
        Budget { stale: 1, pushes: 1, ..NONE },
    ],
    shows: &[
        promises::SUCCEEDS,
        promises::REVERTS,
        promises::REFUSED,
        promises::TAKEN,
        promises::DIES_MID_REVERT,
        promises::SHARED,
        promises::ALONE_AGAIN,
    ],
    shows_deep: &[promises::SUPERSEDES],
};

const PEOPLE: Setting = Setting {
    name: "verdicts, commits and people",
    script: TWO_GROUPS,
    begins: &["production a:v2", "production b:v2"],
    caches: &[],
    jumps: &[],
    pushes: &["production a:v3", "production a:v1"],
    verbs: &["abort", "pause", "resume", "retry", "rollback"],
    edits: &[],
    churn: &[],
    bounded: &[
        Budget { verbs: 1, ..NONE },
        Budget { pushes: 1, early: 1, ..NONE },
        Budget { refusals: 1, fails: 1, ..NONE },
    ],
    deep: &[
        Budget { pushes: 1, fails: 1, ..NONE },
        Budget { fails: 2, early: 1, ..NONE },
        Budget { pushes: 1, verbs: 1, ..NONE },
        Budget { fails: 1, verbs: 2, ..NONE },
        Budget { fails: 1, pushes: 1, verbs: 1, ..NONE },
        Budget { pushes: 2, crashes: 1, ..NONE },
        Budget { refusals: 1, errors: 1, fails: 1, ticks: 2, ..NONE },
    ],
    shows: &[
        promises::SUCCEEDS,
        promises::REVERTS,
        promises::ABORTS,
        promises::SHARED,
        promises::ALONE_AGAIN,
        promises::SUPERSEDES,
        promises::REFUSES,
        promises::ROLLS_BACK,
    ],
    shows_deep: &[promises::RETRIES],
};

const GROUPS: Setting = Setting {
    name: "groups and nodes",
    script: &[
        TWO_GROUPS[0],
        "group g1 production 10 nodes n1,n4 gates job:e2e",
        TWO_GROUPS[2],
        BOTH_AT_V1[0],
        BOTH_AT_V1[1],
    ],
    begins: &["production a:v2", "production b:v2"],
    caches: &[],
    jumps: &[],
    pushes: &[],
    verbs: &[],
    edits: &["lose g1", "delete g1", "delete g2", "create g3 15 n3", "order g2 5", "pauses g1"],
    churn: &["down n1", "up n1", "leaves n4", "joins n5 g1", "joins n6 g1", "joins n4 g2"],
    bounded: &[Budget { edits: 1, ..NONE }, Budget { churn: 1, ..NONE }],
    deep: &[
        Budget { edits: 2, ..NONE },
        Budget { edits: 1, fails: 1, ..NONE },
        Budget { edits: 1, churn: 1, ..NONE },
        Budget { churn: 2, ..NONE },
        Budget { churn: 1, fails: 1, ..NONE },
        Budget { edits: 1, crashes: 1, ..NONE },
    ],
    shows: &[promises::SUCCEEDS, promises::SKIPS],
    shows_deep: &[promises::PAUSES, promises::KEEPS],
};

const CLOCKS: Setting = Setting {
    name: "clocks",
    script: &[
        TWO_GROUPS[0],
        "group g1 production 10 nodes n1 gates soak:20s",
        "group g2 production 20 nodes n2 gates job:e2e",
        BOTH_AT_V1[0],
        BOTH_AT_V1[1],
    ],
    begins: &["production a:v2", "production b:v2"],
    caches: &[Cache::Rollouts],
    jumps: &[600_000, -600_000, 20_000, -20_000],
    pushes: &[],
    verbs: &[],
    edits: &[],
    churn: &[],
    bounded: &[Budget { jumps: 1, ticks: 4, ..NONE }, Budget { stale: 1, ticks: 4, ..NONE }],
    deep: &[
        Budget { jumps: 2, ticks: 8, ..NONE },
        Budget { jumps: 1, crashes: 1, ticks: 8, ..NONE },
        Budget { stale: 2, ticks: 8, ..NONE },
    ],
    shows: &[promises::SUCCEEDS, promises::JUMPS_BACK, promises::JUMPS_AHEAD],
    shows_deep: &[promises::REFUSED, promises::TAKEN],
};

const STAGING: Setting = Setting {
    name: "staging and production",
    script: &[
        "group st staging 10 nodes n1 gates job:e2e",
        "group pr production 20 nodes n2 gates job:e2e",
        "push staging a:v1 b:v1",
        "wait 30m",
        BOTH_AT_V1[0],
        BOTH_AT_V1[1],
    ],
    begins: &["staging a:v2", "production a:v2", "staging b:v2", "production b:v2"],
    caches: &[Cache::Everything, Cache::Units],
    jumps: &[],
    pushes: &["staging a:v3", "production a:v3"],
    verbs: &["approve", "abort"],
    edits: &[],
    churn: &[],
    bounded: &[Budget { fails: 1, ..NONE }],
    deep: &[
        Budget { crashes: 1, fails: 1, ..NONE },
        Budget { stale: 1, fails: 1, ..NONE },
        Budget { pushes: 1, ..NONE },
        Budget { verbs: 1, fails: 1, ..NONE },
    ],
    shows: &[promises::SUCCEEDS, promises::REVERTS],
    shows_deep: &[promises::SUPERSEDES, promises::ABORTS],
};

/// All of them.
pub const ALL: [&Setting; 5] = [&OPERATORS, &PEOPLE, &GROUPS, &CLOCKS, &STAGING];

impl Setting {
    /// The budget that this names together with the setting, as it is printed.
    pub fn budget(&self, title: &str) -> Option<Budget> {
        let mut budgets = self.bounded.iter().chain(self.deep).copied();
        budgets.find(|budget| format!("{}, {budget}", self.name) == title)
    }

    pub fn checked(&self, left: Budget) -> Checked {
        let caches = if self.bounded.contains(&left) { self.caches.len().min(1) } else { self.caches.len() };
        Checked {
            start: self.start(left),
            caches: &self.caches[..caches],
            jumps: self.jumps,
            pushes: self.pushes,
            verbs: self.verbs,
            edits: self.edits,
            churn: self.churn,
            rests: Mutex::default(),
            told: AtomicBool::new(false),
        }
    }

    fn start(&self, left: Budget) -> State {
        let mut cluster = Cluster::new(Faults::None);
        // A planner with a bug gets here, too: it is for the checker to find.
        cluster.is_watched = false;
        self.script.iter().for_each(|line| cluster.run(line));
        let mut store = cluster.store;
        store.samples.clear();
        let brought = |id: &sluice_rollout::RolloutId| self.verbs.contains(&"rollback") && id.name.starts_with("a-");
        store.rollouts.retain(|id, _| brought(id));
        let machine = |(name, running): (&String, &crate::sim::cluster::Running)| {
            let entries = store.groups[&running.group].assignment.iter().flat_map(|assignment| &assignment.entries);
            let runs: BTreeMap<_, _> = entries.filter_map(|(u, e)| Some((u.clone(), e.revision.clone()?))).collect();
            let generation = running.generation;
            (name.clone(), Machine { group: running.group.clone(), generation, runs, ..Machine::default() })
        };
        let machines = cluster.running.iter().map(machine).collect();
        let mut state = State {
            store: Arc::new(store),
            time: cluster.time,
            skew_ms: 0,
            watching_since: cluster.time,
            version: cluster.version,
            machines,
            jobs: BTreeMap::new(),
            answers: BTreeMap::new(),
            stalled: Vec::new(),
            view: None,
            left,
            timed: left.ticks > TICKS_FEW,
            truth: Truth::default(),
            planned: OnceLock::new(),
        };
        for line in self.begins {
            assert!(state.push(line), "{}: {line} changes nothing", self.name);
        }
        state
    }
}
