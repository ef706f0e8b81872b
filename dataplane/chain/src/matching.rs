//! Hosts and paths as in the Gateway API, compiled: a lookup costs by the request, not by the rules.

use std::collections::HashMap;

use crate::{place::Place, set::WorkerSet};

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

/// Which workers match a request.
#[derive(Debug, Default)]
pub(crate) struct WorkerRouter {
    workers: usize,
    hosts: Hosts<Paths<WorkerSet>>,
}

impl WorkerRouter {
    /// For a chain of this length, no rules yet.
    pub(crate) fn new(workers: usize) -> Self {
        Self { workers, hosts: Hosts::default() }
    }

    /// Adds what a worker matches; no rules match all, and so does a rule of nothing.
    pub(crate) fn add(&mut self, worker: usize, rules: &[sluice_config::MatchRule]) {
        if rules.is_empty() {
            self.add_paths(worker, None, &[]);
        }
        for rule in rules {
            if rule.hosts.is_empty() {
                self.add_paths(worker, None, &rule.paths);
            }
            for host in &rule.hosts {
                self.add_paths(worker, Some(host), &rule.paths);
            }
        }
    }

    fn add_paths(&mut self, worker: usize, host: Option<&str>, paths: &[String]) {
        let workers = self.workers;
        let node = match host {
            Some(host) => self.hosts.entry(host),
            None => &mut self.hosts.any,
        };
        let mut add = |pattern: &str| {
            node.slot(pattern).or_insert_with(|| WorkerSet::empty(workers)).insert(worker);
        };
        if paths.is_empty() {
            add("/*");
        }
        for path in paths {
            add(path);
        }
    }

    /// All workers with a rule that matches.
    pub(crate) fn matches(&self, place: &Place) -> WorkerSet {
        let mut set = WorkerSet::empty(self.workers);
        let named = self.hosts.find(&place.host);
        for paths in named.chain(std::iter::once(&self.hosts.any)) {
            for workers in paths.find(&place.path) {
                set.add(workers);
            }
        }
        set
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
