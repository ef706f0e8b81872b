//! Checks of one revision on its own.

use std::collections::BTreeSet;

use super::{Invalid, count, hosts, invalid, limits, matching, name, origin, paths, range};
use crate::{Binding, BindingKind, Bundle, Content, FALLBACK, FORMAT, Revision, Routes, UnitRef, Upstream, Worker};

impl Revision {
    /// Checks a revision on its own. One that fails is refused; its unit keeps its last good one.
    ///
    /// # Errors
    /// The first thing wrong.
    pub fn validate(&self) -> Result<(), Invalid> {
        if self.format != FORMAT {
            return Err(invalid("format", format!("{} is not {FORMAT}, the version read here", self.format)));
        }
        name("name", &self.name)?;
        for (field, content) in [("staging", &self.staging), ("production", &self.production)] {
            if content.kind() != self.kind {
                return Err(invalid(field, format!("holds a {}, the revision is of a {}", content.kind(), self.kind)));
            }
            match content {
                Content::Worker(worker) => validate_worker(field, worker)?,
                Content::Routes(routes) => validate_routes(field, routes)?,
                Content::Config(bundle) => validate_bundle(field, bundle)?,
            }
        }
        count("gates", self.gates.len())?;
        if let Some(together) = &self.together {
            name("together", together)?;
        }
        self.validate_artifact()
    }

    fn validate_artifact(&self) -> Result<(), Invalid> {
        match (&self.artifact, matches!(self.staging, Content::Worker(_))) {
            (None, true) => Err(invalid("artifact", "a worker needs one")),
            (Some(_), false) => Err(invalid("artifact", format!("a unit of kind {} has none", self.kind))),
            (Some(a), true) if a.size == 0 || a.size > limits::ARTIFACT_BYTES => {
                Err(invalid("artifact.size", format!("{} bytes; 1 to {} are allowed", a.size, limits::ARTIFACT_BYTES)))
            }
            (Some(_), true) | (None, false) => Ok(()),
        }
    }

    /// The unit in a namespace that this revision is of.
    #[must_use]
    pub fn unit(&self, namespace: &str) -> UnitRef {
        UnitRef::new(self.kind, namespace, self.name.clone())
    }
}

fn validate_worker(at: &str, worker: &Worker) -> Result<(), Invalid> {
    name(&format!("{at}.chain.stage"), &worker.chain.stage)?;
    matching::rules(&format!("{at}.match"), &worker.match_rules)?;
    count(&format!("{at}.bindings"), worker.bindings.len())?;
    let mut names = BTreeSet::new();
    for binding in &worker.bindings {
        name(&format!("{at}.bindings.name"), &binding.name)?;
        if !names.insert(&binding.name) {
            let problem = format!("`{}` is listed twice; a name is that of one thing, fetch or rate", binding.name);
            return Err(invalid(format!("{at}.bindings"), problem));
        }
        validate_binding(&format!("{at}.bindings[{}]", binding.name), binding)?;
    }
    let rates = worker.bindings.iter().filter(|b| matches!(b.kind, BindingKind::Rate { .. })).count();
    if rates > limits::RATES {
        let problem = format!(
            "{rates} of them are rates; at most {} are allowed: let what is counted alike share one, with a key of its own each",
            limits::RATES
        );
        return Err(invalid(format!("{at}.bindings"), problem));
    }
    if let Some(instances) = &worker.instances {
        range(&format!("{at}.instances.reuse"), instances.reuse.into(), limits::REUSE, "calls")?;
        range(&format!("{at}.instances.maxAge"), instances.max_age_ms, limits::MAX_AGE_MS, "ms")?;
    }
    let l = &worker.limits;
    range(&format!("{at}.limits.cpu"), l.cpu_ms, limits::CPU_MS, "ms")?;
    range(&format!("{at}.limits.wall"), l.wall_ms, limits::WALL_MS, "ms")?;
    range(&format!("{at}.limits.memory"), l.memory_bytes, limits::MEMORY_BYTES, "bytes")
}

fn validate_routes(at: &str, routes: &Routes) -> Result<(), Invalid> {
    if routes.hosts.is_empty() {
        return Err(invalid(format!("{at}.hosts"), "is empty; name the hosts, e.g. shop.example"));
    }
    if routes.rules.is_empty() {
        return Err(invalid(format!("{at}.rules"), "is empty; give at least one rule with paths and an upstream"));
    }
    hosts(&format!("{at}.hosts"), &routes.hosts)?;
    count(&format!("{at}.rules"), routes.rules.len())?;
    for rule in &routes.rules {
        if rule.paths.is_empty() {
            return Err(invalid(format!("{at}.rules.paths"), "is empty; `/*` matches every path"));
        }
        paths(&format!("{at}.rules.paths"), &rule.paths)?;
        validate_upstream(&format!("{at}.rules.upstream"), &rule.upstream)?;
        if let Some(fallback) = &rule.fallback {
            validate_upstream(&format!("{at}.rules.fallback"), fallback)?;
        }
        count(&format!("{at}.rules.alternatives"), rule.alternatives.len())?;
        for (key, upstream) in &rule.alternatives {
            name(&format!("{at}.rules.alternatives"), key)?;
            if key == FALLBACK {
                let problem = format!("`{key}` is what the fallback is called: choose another name");
                return Err(invalid(format!("{at}.rules.alternatives"), problem));
            }
            validate_upstream(&format!("{at}.rules.alternatives.{key}"), upstream)?;
        }
    }
    Ok(())
}

fn validate_upstream(at: &str, upstream: &Upstream) -> Result<(), Invalid> {
    origin(&format!("{at}.url"), &upstream.url)?;
    range(&format!("{at}.connectTimeout"), upstream.connect_timeout_ms, 1..=60_000, "ms")?;
    range(&format!("{at}.responseTimeout"), upstream.response_timeout_ms, 1..=3_600_000, "ms")
}

fn validate_binding(at: &str, binding: &Binding) -> Result<(), Invalid> {
    match &binding.kind {
        BindingKind::Fetch { origins } => {
            if origins.is_empty() {
                return Err(invalid(
                    format!("{at}.origins"),
                    "is empty; name what may be reached, e.g. http://shop.default.svc:8080",
                ));
            }
            count(&format!("{at}.origins"), origins.len())?;
            origins.iter().try_for_each(|o| origin(&format!("{at}.origins"), o))
        }
        BindingKind::Rate { requests, per_ms } => {
            range(&format!("{at}.rate.requests"), (*requests).into(), limits::RATE_REQUESTS, "requests")?;
            range(&format!("{at}.rate.per"), *per_ms, limits::RATE_PER_MS, "ms")
        }
    }
}

fn validate_bundle(at: &str, bundle: &Bundle) -> Result<(), Invalid> {
    let bytes: usize = bundle.data.iter().map(|(k, v)| k.len() + v.len()).sum();
    if bytes > limits::BUNDLE_BYTES {
        return Err(invalid(
            format!("{at}.data"),
            format!("{bytes} bytes; at most {} are allowed", limits::BUNDLE_BYTES),
        ));
    }
    if bundle.data.keys().any(|k| k.is_empty() || k.len() > limits::NAME_BYTES) {
        return Err(invalid(format!("{at}.data"), format!("a key has 1 to {} bytes", limits::NAME_BYTES)));
    }
    Ok(())
}
