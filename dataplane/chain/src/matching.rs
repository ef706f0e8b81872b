//! Hosts and paths as in the Gateway API, compiled: a lookup costs by the request, not by the rules. What else a rule
//! asks is looked at only where host and path match.

mod condition;
mod percent;

use std::collections::HashMap;

use sluice_config::{MatchRule, UnitRef};

use crate::{place::Place, set::WorkerSet};
use condition::Condition;

pub(crate) use condition::Client;

/// Something for each host pattern: exact names, `*.suffix`, or any.
#[derive(Debug)]
struct Hosts<T> {
    exact: HashMap<String, T>,
    /// By what follows `*.`.
    wildcard: HashMap<String, T>,
    any: T,
}

impl<T: Default> Default for Hosts<T> {
    fn default() -> Self {
        Self { exact: HashMap::new(), wildcard: HashMap::new(), any: T::default() }
    }
}

impl<T: Default> Hosts<T> {
    fn entry(&mut self, pattern: &str) -> &mut T {
        match pattern.strip_prefix("*.") {
            Some(suffix) => self.wildcard.entry(suffix.to_owned()).or_default(),
            None => self.exact.entry(pattern.to_owned()).or_default(),
        }
    }

    /// What matches a host, the most specific first; `any` is not among them.
    fn find<'a>(&'a self, host: &'a str) -> impl Iterator<Item = &'a T> {
        let wildcards =
            (!self.wildcard.is_empty()).then(|| suffixes(host).filter_map(|suffix| self.wildcard.get(suffix)));
        self.exact.get(host).into_iter().chain(wildcards.into_iter().flatten())
    }
}

/// `b.c`, then `c`, of `a.b.c`: a wildcard stands for one label or more.
fn suffixes(host: &str) -> impl Iterator<Item = &str> {
    host.match_indices('.').map(|(dot, _)| &host[dot + 1..])
}

/// Something for each path pattern: exact, or a prefix of whole segments.
#[derive(Debug)]
struct Paths<T> {
    exact: HashMap<String, T>,
    /// By the prefix without `/*`; the empty one matches all.
    prefix: HashMap<String, T>,
    prefix_bytes_max: usize,
}

impl<T> Default for Paths<T> {
    fn default() -> Self {
        Self { exact: HashMap::new(), prefix: HashMap::new(), prefix_bytes_max: 0 }
    }
}

impl<T> Paths<T> {
    fn slot(&mut self, pattern: &str) -> std::collections::hash_map::Entry<'_, String, T> {
        let Some(prefix) = pattern.strip_suffix("/*") else {
            return self.exact.entry(key(pattern));
        };
        let prefix = match prefix {
            "" => String::new(),
            prefix => key(prefix),
        };
        self.prefix_bytes_max = self.prefix_bytes_max.max(prefix.len());
        self.prefix.entry(prefix)
    }

    /// What matches a path: exact, then the longest prefix first.
    fn find<'a>(&'a self, path: &'a str) -> impl Iterator<Item = &'a T> {
        let prefixes = (!self.prefix.is_empty())
            .then(|| {
                prefixes(path)
                    .filter(|prefix| prefix.len() <= self.prefix_bytes_max)
                    .filter_map(|prefix| self.prefix.get(prefix))
            })
            .into_iter()
            .flatten();
        self.exact.get(path).into_iter().chain(prefixes)
    }
}

/// A pattern in the spelling of requests. One that no request can have stays as it is.
fn key(pattern: &str) -> String {
    crate::place::path(pattern).map_or_else(|_| pattern.to_owned(), std::borrow::Cow::into_owned)
}

/// `/a/b/c`, `/a/b`, `/a` and the empty prefix, of `/a/b/c`.
fn prefixes(path: &str) -> impl Iterator<Item = &str> {
    let whole = path.strip_suffix('/').unwrap_or(path);
    std::iter::once(whole).chain(whole.rmatch_indices('/').map(move |(slash, _)| &whole[..slash]))
}

/// The workers with a rule for some host and path.
#[derive(Debug)]
struct Candidates {
    /// Those that ask for nothing more.
    sure: WorkerSet,
    /// The others, each with what its rule asks: places in the chain and in the conditions.
    asking: Vec<(usize, usize)>,
}

/// Which workers match a request.
#[derive(Debug)]
pub(crate) struct WorkerRouter {
    workers: usize,
    hosts: Hosts<Paths<Candidates>>,
    conditions: Vec<Condition>,
    /// Workers with a rule that looks at headers, and at something that a worker in front may rewrite.
    readers: WorkerSet,
}

impl WorkerRouter {
    /// For a chain of this length, no rules yet.
    pub(crate) fn new(workers: usize) -> Self {
        Self { workers, hosts: Hosts::default(), conditions: Vec::new(), readers: WorkerSet::empty(workers) }
    }

    /// Adds what a worker matches; no rules match all, and so does a rule of nothing.
    pub(crate) fn add(&mut self, worker: usize, unit: &UnitRef, rules: &[MatchRule]) {
        if rules.is_empty() {
            self.add_paths(worker, None, None, &[]);
        }
        for rule in rules {
            let asks = Condition::of(rule, unit).map(|condition| {
                let always = rule.hosts.is_empty() && rule.paths.is_empty() && rule.methods.is_empty();
                if condition.reads_headers() && !always {
                    self.readers.insert(worker);
                }
                self.conditions.push(condition);
                self.conditions.len() - 1
            });
            if rule.hosts.is_empty() {
                self.add_paths(worker, asks, None, &rule.paths);
            }
            for host in &rule.hosts {
                self.add_paths(worker, asks, Some(host), &rule.paths);
            }
        }
    }

    fn add_paths(&mut self, worker: usize, asks: Option<usize>, host: Option<&str>, paths: &[String]) {
        let empty = || Candidates { sure: WorkerSet::empty(self.workers), asking: Vec::new() };
        let node = match host {
            Some(host) => self.hosts.entry(host),
            None => &mut self.hosts.any,
        };
        let mut add = |pattern: &str| {
            let candidates = node.slot(pattern).or_insert_with(empty);
            match asks {
                None => candidates.sure.insert(worker),
                Some(condition) => candidates.asking.push((worker, condition)),
            }
        };
        if paths.is_empty() {
            add("/*");
        }
        for path in paths {
            add(path);
        }
    }

    /// All workers with a rule that matches.
    pub(crate) fn matches(&self, place: &Place, client: &Client<'_>) -> WorkerSet {
        let mut set = WorkerSet::empty(self.workers);
        // A rule stands at each of its hosts and paths, and may hash what the client sends: it is asked once.
        let mut tried = Tried::default();
        let named = self.hosts.find(&place.host);
        for paths in named.chain(std::iter::once(&self.hosts.any)) {
            for candidates in paths.find(&place.path) {
                set.add(&candidates.sure);
                for &(worker, condition) in &candidates.asking {
                    if !set.contains(worker) && tried.is_new(condition) && self.conditions[condition].holds(client) {
                        set.insert(worker);
                    }
                }
            }
        }
        set
    }

    /// Whether a rewrite by one of these workers could make the client's headers count once more, for a worker that is
    /// not among them.
    pub(crate) fn may_read_again(&self, matched: &WorkerSet) -> bool {
        matched.first_from(0).is_some_and(|first| self.readers.has_beyond(matched, first + 1))
    }
}

/// Conditions that a request was held against. Most requests meet none of them.
#[derive(Default)]
struct Tried(Vec<u64>);

impl Tried {
    /// Whether it is the first time.
    fn is_new(&mut self, condition: usize) -> bool {
        let (word, bit) = (condition / 64, 1 << (condition % 64));
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        let is_new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        is_new
    }
}

/// Which rule of which route table a request takes.
#[derive(Debug, Default)]
pub(crate) struct RouteRouter {
    hosts: Hosts<Paths<usize>>,
}

impl RouteRouter {
    /// Adds a rule; false where an earlier one has the same host and path.
    pub(crate) fn add(&mut self, host: &str, path: &str, rule: usize) -> bool {
        match self.hosts.entry(host).slot(path) {
            std::collections::hash_map::Entry::Occupied(_) => false,
            std::collections::hash_map::Entry::Vacant(vacant) => {
                vacant.insert(rule);
                true
            }
        }
    }

    /// The most specific host decides; in it the exact path, then the longest prefix.
    pub(crate) fn find(&self, place: &Place) -> Option<usize> {
        let paths = self.hosts.find(&place.host).next()?;
        paths.find(&place.path).next().copied()
    }
}

#[cfg(test)]
mod tests;
