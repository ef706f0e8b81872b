//! What scripts may say.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sluice_rollout::{
    Elsewhere, Entry, Environment, Group, Head, Node, OnGateFailure, Repository, Revision, Said, Snapshot,
    StagingEvidence, Target, Time, Together, Told, Unit, UnitChange, UnitId,
};

use super::{
    cluster::{Cluster, span},
    parse,
    world::{self, JobScript, Traffic},
};

impl Cluster {
    /// Does what one line says, then settles.
    pub fn run(&mut self, line: &str) {
        let words = parse::words(line);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut dies_after = None;
        match words.as_slice() {
            ["dies", "after", writes, rest @ ..] => {
                dies_after = Some(writes.parse().unwrap());
                if !rest.is_empty() {
                    self.command(rest);
                }
            }
            // `… and …`: both happen before anyone looks.
            words => words.split(|word| *word == "and").for_each(|words| self.command(words)),
        }
        self.settle(dies_after);
    }

    fn command(&mut self, words: &[&str]) {
        match words {
            ["group", name, environment, order, rest @ ..] => self.group(name, environment, order, rest),
            ["delete", "group", name] => drop(self.store.groups.remove(*name)),
            ["delete", "rollout", name] => drop(self.store.rollouts.remove(&parse::rollout(name))),
            ["delete", "repository"] => self.store.repositories.clear(),
            ["delete", "assignment", name] => self.store.groups.get_mut(*name).unwrap().assignment = None,
            ["lose", "revision", name] => {
                let _known = self.store.revisions.remove(parse::target(name).1.digest().unwrap());
            }
            ["fill", group, number] => self.fill(group, number.parse().unwrap()),
            ["lose", "unit", name] => drop(self.store.units.remove(&parse::unit(name))),
            ["lose", "memory", name] => self.lose_memory(&parse::unit(name)),
            ["revision", unit, rest @ ..] => self.revision(unit, rest),
            ["push", environment, units @ ..] => self.push(environment, units),
            ["unreadable", environment, unit, why] => self.unreadable(environment, unit, why),
            ["evidence", "none"] => self.repository().staging_evidence = StagingEvidence::None,
            ["evidence", "in-cluster"] => self.repository().staging_evidence = StagingEvidence::InCluster,
            ["evidence", "commit-status"] => self.repository().staging_evidence = StagingEvidence::CommitStatus,
            // What another cluster's staging has written to the commits' statuses, and whether anybody can read it.
            ["elsewhere", state @ ("down" | "up")] => self.world.statuses_down = *state == "down",
            ["elsewhere", target, rest @ ..] => self.elsewhere(target, rest),
            ["seen", state @ ("partly" | "whole")] => {
                Environment::ALL.into_iter().for_each(|environment| self.seen(state, environment));
            }
            ["seen", state @ ("partly" | "whole"), environment] => self.seen(state, parse::environment(environment)),
            ["confirm", "commit", commit] => self.repository().removal_confirmed = Some((*commit).to_owned()),
            ["confirm", environment] => {
                let repository = self.repository();
                repository.removal_confirmed = repository.commits.get(&parse::environment(environment)).cloned();
            }
            ["traffic", target, per_second, errors] => self.traffic(target, per_second, errors),
            ["counters", state] => self.world.counters_down = *state == "down",
            ["query", gate, rest @ ..] => {
                let words: Vec<String> = rest.iter().map(|word| (*word).to_owned()).collect();
                self.world.queries.insert((*gate).to_owned(), parse::outcome(&words));
            }
            ["job", gate, rest @ ..] => self.job(gate, rest),
            ["node", name, rest @ ..] => self.node(name, rest),
            ["wait", duration] => self.wait(span(duration)),
            ["clock", skew] => self.clock(skew),
            ["stale"] => self.stale(&self.before.clone()),
            // It plans nothing until it is back; nodes, Jobs and the second operator go on.
            ["leader", state @ ("away" | "back")] => self.is_away = *state == "away",
            // But for this.
            ["leader", "plans", "once"] => drop(self.plan_once(&self.store.clone())),
            // A second operator's watches show nothing new from here on.
            ["watches", "lag"] => self.lagging = self.store.clone(),
            ["stale", "rollouts"] => {
                self.stale(&Snapshot { rollouts: self.lagging.rollouts.clone(), ..self.store.clone() });
            }
            // What it measures, it measures now.
            ["stale", "everything"] => {
                self.stale(&Snapshot { samples: self.store.samples.clone(), ..self.lagging.clone() });
            }
            // All that is not stored is gone: what was measured, and since when somebody watches.
            ["restart"] => {
                self.store.samples.clear();
                self.store.elsewhere.clear();
                self.store.watching_since = self.now();
            }
            ["backup"] => self.backup = Some(self.store.clone()),
            ["restore"] => self.restore(),
            [verb, rollout, reason] => self.verb(verb, rollout, reason),
            other => panic!("{other:?} says nothing"),
        }
    }

    fn repository(&mut self) -> &mut Repository {
        let whole = || Repository { whole: Environment::ALL.into(), ..Repository::default() };
        self.store.repositories.entry(parse::repository()).or_insert_with(whole)
    }

    /// Whether all heads of a branch's commit are seen.
    fn seen(&mut self, state: &str, environment: Environment) {
        let whole = &mut self.repository().whole;
        let _known = if state == "whole" { whole.insert(environment) } else { whole.remove(&environment) };
    }

    /// `group canary production 20 nodes edge-1,edge-2 optional pauses deadline 5m hold 24h window 2h gates …`
    fn group(&mut self, name: &str, environment: &str, order: &str, rest: &[&str]) {
        let known = self.store.groups.remove(name);
        let mut group = Group {
            environment: parse::environment(environment),
            order: order.parse().unwrap(),
            optional: false,
            gates: Vec::new(),
            on_gate_failure: OnGateFailure::Revert,
            apply_deadline: Duration::from_secs(300),
            hold_limit: Duration::from_secs(24 * 3600),
            rollback_window: None,
            nodes: known.as_ref().map(|known| known.nodes.clone()).unwrap_or_default(),
            assignment: known.and_then(|known| known.assignment),
        };
        let mut rest = rest.iter();
        while let Some(word) = rest.next() {
            match *word {
                "nodes" => {
                    for node in rest.next().unwrap().split(',') {
                        group.nodes.insert(node.to_owned(), new_node());
                    }
                }
                "optional" => group.optional = true,
                "pauses" => group.on_gate_failure = OnGateFailure::Pause,
                "deadline" => group.apply_deadline = span(rest.next().unwrap()),
                "hold" => group.hold_limit = span(rest.next().unwrap()),
                "window" => group.rollback_window = Some(span(rest.next().unwrap())),
                "gates" => group.gates = rest.by_ref().map(|word| parse::gate(word)).collect(),
                other => panic!("`{other}`: unknown word of a group"),
            }
        }
        self.store.groups.insert(name.to_owned(), group);
    }

    /// `revision shop:v2 refers config/flags claims shop.example/* gates soak:1m`
    fn revision(&mut self, word: &str, rest: &[&str]) {
        let (_, target) = parse::target(word);
        let mut revision = Revision::default();
        let mut rest = rest.iter();
        while let Some(word) = rest.next() {
            match *word {
                "refers" => {
                    let _new = revision.refers_to.insert(parse::unit(rest.next().unwrap()));
                }
                "claims" => {
                    let claim = rest.next().unwrap();
                    for environment in sluice_rollout::Environment::ALL {
                        revision.claims.entry(environment).or_default().insert((*claim).to_owned());
                    }
                }
                "gates" => revision.gates = rest.by_ref().map(|word| parse::gate(word)).collect(),
                other => panic!("`{other}`: unknown word of a revision"),
            }
        }
        self.store.revisions.insert(target.digest().unwrap().clone(), revision);
    }

    /// `push production a:v2 b:v2`; with `together checkout` behind it, all of these go as one; with `of a,b,c`
    /// behind that, these.
    fn push(&mut self, environment: &str, units: &[&str]) {
        let at = units.iter().position(|word| *word == "together").unwrap_or(units.len());
        let (units, together) = units.split_at(at);
        let names = |words: &[&str]| words.iter().map(|word| parse::unit(word)).collect();
        let together = match together {
            [_, name, _, members] => Some((*name, names(&members.split(',').collect::<Vec<_>>()))),
            [_, name] => Some((*name, units.iter().map(|word| parse::target(word).0).collect())),
            _ => None,
        };
        let together = together.map(|(name, units)| Together { name: name.to_owned(), units });
        let environment = parse::environment(environment);
        self.pushes += 1;
        let commit = format!("commit-{:02}", self.pushes);
        self.repository().commits.insert(environment, commit.clone());
        for word in units {
            let (id, target) = parse::target(word);
            if let Target::Revision(digest) = &target {
                self.store.revisions.entry(digest.clone()).or_default();
            }
            let (commit, author) = (commit.clone(), "ada".to_owned());
            let head = Head::Wants { target, commit, author, together: together.clone() };
            let known = self.unit(&id).heads.get(&environment);
            // What a later commit leaves alone came with the former.
            if together.is_some() || known.is_none_or(|known| wants(known) != wants(&head)) {
                self.unit(&id).heads.insert(environment, head);
            }
        }
    }

    fn unit(&mut self, id: &UnitId) -> &mut Unit {
        let resource_version = self.next_version();
        let created_at = Time(self.time.0 + self.store.units.len() as i64);
        self.store.units.entry(id.clone()).or_insert_with(|| Unit {
            resource_version,
            repository: parse::repository(),
            created_at,
            heads: BTreeMap::new(),
            memory: BTreeMap::new(),
        })
    }

    /// Entries of units that nobody knows any more; they stay.
    fn fill(&mut self, group: &str, number: usize) {
        let assignment = self.store.groups.get_mut(group).unwrap().assignment.as_mut().unwrap();
        for n in 0..number {
            let unit = parse::unit(&format!("other:u{n}"));
            let digest = Some(parse::digest(&unit, "v1"));
            let entry = Entry { revision: digest.clone(), stable: digest, since: assignment.generation };
            assignment.entries.insert(unit, entry);
        }
    }

    fn lose_memory(&mut self, id: &UnitId) {
        let version = self.next_version();
        let unit = self.store.units.get_mut(id).unwrap();
        unit.resource_version = version;
        unit.memory.clear();
    }

    fn unreadable(&mut self, environment: &str, unit: &str, why: &str) {
        let head = Head::Unknown { reason: why.to_owned() };
        self.unit(&parse::unit(unit)).heads.insert(parse::environment(environment), head);
    }

    fn traffic(&mut self, word: &str, per_second: &str, errors: &str) {
        let (unit, target) = parse::target(word);
        let short = target.short().to_owned();
        let percent: f64 = errors.trim_end_matches('%').parse().unwrap();
        let per_second = per_second.trim_end_matches("/s").parse().unwrap();
        let errors_per_thousand = (percent * 10.0).round() as u64;
        self.world.traffic.insert((unit, short), Traffic { per_second, errors_per_thousand });
    }

    fn job(&mut self, gate: &str, rest: &[&str]) {
        let script = match rest {
            ["passes"] => JobScript::Passes,
            ["runs"] => JobScript::Runs,
            ["fails", "while", word] => {
                let (unit, target) = parse::target(word);
                JobScript::FailsWhile(unit, target.short().to_owned())
            }
            ["fails", why] => JobScript::Fails((*why).to_owned()),
            ["errors", why] => JobScript::Errors((*why).to_owned()),
            other => panic!("{other:?}: a Job passes, runs, fails \"…\" or errors \"…\""),
        };
        self.world.jobs.insert(gate.to_owned(), script);
    }

    /// `elsewhere shop:v1 passed`, `elsewhere shop:v1 tried "soak until 12:10"`; also `failed "…"`, `forgotten`.
    fn elsewhere(&mut self, word: &str, rest: &[&str]) {
        let (unit, target) = parse::target(word);
        let head = self.store.units.get(&unit).and_then(|unit| unit.heads.get(&Environment::Staging));
        let commit = match head {
            Some(Head::Wants { commit, .. }) => world::short(commit),
            Some(Head::Unknown { .. }) | None => "commit00".to_owned(),
        };
        let told = |state: &str, says: &str| {
            let says = format!("{state}: {}: {says}", target.short());
            Told { context: world::context(&unit), commit, says }
        };
        let there = match rest {
            ["passed"] => Some(Elsewhere::Passed),
            ["tried", says] => Some(Elsewhere::Tried(told("pending", says))),
            ["failed", says] => Some(Elsewhere::Failed(told("failure", says))),
            ["forgotten"] => None,
            other => panic!("{other:?}: it has passed, is tried \"…\", has failed \"…\", or is forgotten"),
        };
        let change = UnitChange { unit, target };
        match there {
            Some(there) => drop(self.world.statuses.insert(change, there)),
            None => drop(self.world.statuses.remove(&change)),
        }
    }

    fn node(&mut self, name: &str, rest: &[&str]) {
        let behaviour = self.behaviour.entry(name.to_owned()).or_default();
        let mut live = None;
        match rest {
            ["lags"] => behaviour.lags = true,
            ["keeps", "up"] => behaviour.lags = false,
            ["refuses", "all", why] => behaviour.error = Some((*why).to_owned()),
            ["refuses", word, why] => {
                let (unit, target) = parse::target(word);
                behaviour.refuses.push((unit, target.short().to_owned(), (*why).to_owned()));
            }
            ["accepts", "all"] => behaviour.refuses.clear(),
            ["has", "trouble", why] => behaviour.trouble = Some((*why).to_owned()),
            ["is", "well"] => (behaviour.trouble, behaviour.error) = (None, None),
            ["lists", number] => behaviour.lists = Some(number.parse().unwrap()),
            ["claims", "the", "truth"] => behaviour.claims = None,
            ["claims", generation] => behaviour.claims = Some(generation.parse().unwrap()),
            ["down"] => live = Some(false),
            ["up"] => live = Some(true),
            ["joins", group] => {
                let mut moved = None;
                for group in self.store.groups.values_mut() {
                    moved = group.nodes.remove(name).or(moved);
                }
                let node = Node {
                    resource_version: self.next_version(),
                    joined_at: Some(self.now()),
                    live: true,
                    ..moved.unwrap_or_else(new_node)
                };
                self.store.groups.get_mut(*group).unwrap().nodes.insert(name.to_owned(), node);
            }
            ["leaves"] => {
                for group in self.store.groups.values_mut() {
                    group.nodes.remove(name);
                }
            }
            other => panic!("{other:?}: no node does that"),
        }
        let nodes = self.store.groups.values_mut().filter_map(|group| group.nodes.get_mut(name));
        for node in nodes {
            node.live = live.unwrap_or(node.live);
        }
    }

    fn verb(&mut self, verb: &str, name: &str, reason: &str) {
        let resource_version = self.next_version();
        let said = Some(Said { token: resource_version.clone(), by: "grace".into(), reason: reason.to_owned() });
        let id = parse::rollout(name);
        let rollout = self.store.rollouts.get_mut(&id).unwrap_or_else(|| panic!("no rollout {name}"));
        rollout.resource_version = resource_version;
        match verb {
            "pause" => rollout.verbs.pause = said,
            "resume" => rollout.verbs.pause = None,
            "abort" => rollout.verbs.abort = said,
            "approve" => rollout.verbs.approve = said,
            "retry" => rollout.verbs.retry = said,
            "rollback" => rollout.verbs.rollback = said,
            other => panic!("`{other}` is no verb"),
        }
    }

    /// What is stored goes back to the backup; git does not, nor do the nodes.
    fn restore(&mut self) {
        let heads: Vec<_> = self.store.units.iter().map(|(id, unit)| (id.clone(), unit.heads.clone())).collect();
        let Some(backup) = self.backup.clone() else { return };
        let revisions = std::mem::replace(&mut self.store, backup).revisions;
        self.store.revisions = revisions;
        for (id, heads) in heads {
            self.unit(&id).heads = heads;
        }
    }

    fn clock(&mut self, skew: &str) {
        let (sign, skew) = skew.split_at(1);
        let skew = i64::try_from(span(skew).as_millis()).unwrap();
        self.skew_ms += if sign == "-" { -skew } else { skew };
        // The operator notices: what its clock said before is another clock's time.
        self.store.watching_since = self.now();
    }

    /// A second operator, that has not seen all of it, acts as well.
    fn stale(&mut self, seen: &Snapshot) {
        let refused = self.plan_once(seen);
        self.say(format!("-- of a stale plan, {refused} writes are not done"));
    }

    /// Lets time pass, as the operator sees it: it wakes when the plan said, or when it measured something.
    fn wait(&mut self, duration: Duration) {
        let end = self.time.after(duration);
        self.settle(None);
        while self.time < end {
            let wake = self.last_plan.wake_at.map(|at| Time(at.0 - self.skew_ms));
            let next = wake.into_iter().chain(self.next_measurement(end)).min().unwrap_or(end);
            let next = Time(next.0.clamp(self.time.0 + 1, end.0));
            self.time = next;
            let lines = self.transcript.len();
            self.settle(None);
            if self.transcript.len() > lines {
                let at = format!("  {}", self.now());
                self.transcript.insert(lines, at);
            }
        }
    }
}

fn wants(head: &Head) -> Option<&Target> {
    match head {
        Head::Wants { target, .. } => Some(target),
        Head::Unknown { .. } => None,
    }
}

/// A node that was there before anyone counted.
fn new_node() -> Node {
    Node { live: true, report: None, resource_version: String::new(), joined_at: None, keeps_stable: BTreeSet::new() }
}
