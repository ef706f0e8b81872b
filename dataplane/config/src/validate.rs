//! Checks of what comes over the wire: sizes, counts, duplicates, references.

use std::collections::BTreeSet;

use crate::{Assignment, Content, Entry, FORMAT, Revision, Routes, UnitRef, Worker};

/// Upper limits of what a node accepts.
pub mod limits {
    /// Entries of an assignment.
    pub const ENTRIES: usize = 4_000;
    /// Stages of a chain.
    pub const STAGES: usize = 32;
    /// Bytes of a name, namespace or stage.
    pub const NAME_BYTES: usize = 253;
    /// Hosts, paths, rules or bindings of one unit.
    pub const LIST: usize = 1_000;
    /// Bytes of an artifact.
    pub const ARTIFACT_BYTES: u64 = 32 << 20;
    /// CPU time of a call, in milliseconds.
    pub const CPU_MS: std::ops::RangeInclusive<u64> = 1..=10_000;
    /// Wall time of a call, in milliseconds.
    pub const WALL_MS: std::ops::RangeInclusive<u64> = 1..=300_000;
    /// Linear memory, in bytes.
    pub const MEMORY_BYTES: std::ops::RangeInclusive<u64> = (64 << 10)..=(256 << 20);
    /// Bytes of all values of a bundle.
    pub const BUNDLE_BYTES: usize = 512 << 10;
}

/// Why a wire value is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{field}: {problem}")]
pub struct Invalid {
    /// Path of the field.
    pub field: String,
    /// What is wrong, and what would be right.
    pub problem: String,
}

fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Invalid {
    Invalid {
        field: field.into(),
        problem: problem.into(),
    }
}

impl Assignment {
    /// Checks the structure. An assignment that fails is refused whole: what runs keeps running.
    ///
    /// # Errors
    /// The first thing wrong.
    pub fn validate(&self) -> Result<(), Invalid> {
        if self.format != FORMAT {
            return Err(invalid(
                "format",
                format!("{} is not {FORMAT}, the version read here", self.format),
            ));
        }
        if self.stages.is_empty() || self.stages.len() > limits::STAGES {
            return Err(invalid(
                "stages",
                format!(
                    "{} stages; 1 to {} are allowed",
                    self.stages.len(),
                    limits::STAGES
                ),
            ));
        }
        let mut stages = BTreeSet::new();
        for stage in &self.stages {
            name("stages", stage)?;
            if !stages.insert(stage) {
                return Err(invalid("stages", format!("`{stage}` is listed twice")));
            }
        }
        if self.entries.len() > limits::ENTRIES {
            return Err(invalid(
                "entries",
                format!(
                    "{} entries; at most {} are allowed",
                    self.entries.len(),
                    limits::ENTRIES
                ),
            ));
        }
        let mut units = BTreeSet::new();
        for entry in &self.entries {
            self.validate_entry(entry)?;
            if !units.insert(entry.unit()) {
                return Err(invalid(
                    "entries",
                    format!("{} is listed twice", entry.unit()),
                ));
            }
        }
        Ok(())
    }

    fn validate_entry(&self, entry: &Entry) -> Result<(), Invalid> {
        name("entries.namespace", &entry.namespace)?;
        name("entries.name", &entry.name)?;
        let field = || format!("entries[{}]", entry.unit());
        if entry.since > self.generation {
            return Err(invalid(
                field(),
                format!(
                    "since {} is after generation {}",
                    entry.since, self.generation
                ),
            ));
        }
        if entry.revision.is_none() && entry.stable.is_none() {
            return Err(invalid(
                field(),
                "neither revision nor stable; leave the entry out",
            ));
        }
        Ok(())
    }
}

impl Revision {
    /// Checks a revision on its own. One that fails is refused; its unit keeps its last good one.
    ///
    /// # Errors
    /// The first thing wrong.
    pub fn validate(&self) -> Result<(), Invalid> {
        if self.format != FORMAT {
            return Err(invalid(
                "format",
                format!("{} is not {FORMAT}, the version read here", self.format),
            ));
        }
        name("name", &self.name)?;
        for (field, content) in [("staging", &self.staging), ("production", &self.production)] {
            if content.kind() != self.kind {
                return Err(invalid(
                    field,
                    format!(
                        "holds a {}, the revision is of a {}",
                        content.kind(),
                        self.kind
                    ),
                ));
            }
            match content {
                Content::Worker(worker) => validate_worker(field, worker)?,
                Content::Routes(routes) => validate_routes(field, routes)?,
                Content::Config(bundle) => {
                    let bytes: usize = bundle.data.iter().map(|(k, v)| k.len() + v.len()).sum();
                    if bytes > limits::BUNDLE_BYTES {
                        return Err(invalid(
                            format!("{field}.data"),
                            format!(
                                "{bytes} bytes; at most {} are allowed",
                                limits::BUNDLE_BYTES
                            ),
                        ));
                    }
                }
            }
        }
        match (&self.artifact, matches!(self.staging, Content::Worker(_))) {
            (None, true) => Err(invalid("artifact", "a worker needs one")),
            (Some(_), false) => Err(invalid(
                "artifact",
                format!("a unit of kind {} has none", self.kind),
            )),
            (Some(a), true) if a.size > limits::ARTIFACT_BYTES => Err(invalid(
                "artifact.size",
                format!(
                    "{} bytes; at most {} are allowed",
                    a.size,
                    limits::ARTIFACT_BYTES
                ),
            )),
            _ => Ok(()),
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
    count(&format!("{at}.match"), worker.match_rules.len())?;
    for rule in &worker.match_rules {
        hosts(&format!("{at}.match.hosts"), &rule.hosts)?;
        paths(&format!("{at}.match.paths"), &rule.paths)?;
    }
    count(&format!("{at}.bindings"), worker.bindings.len())?;
    let mut names = BTreeSet::new();
    for binding in &worker.bindings {
        name(&format!("{at}.bindings.name"), &binding.name)?;
        if !names.insert(&binding.name) {
            return Err(invalid(
                format!("{at}.bindings"),
                format!("`{}` is listed twice", binding.name),
            ));
        }
    }
    let l = &worker.limits;
    range(&format!("{at}.limits.cpu"), l.cpu_ms, limits::CPU_MS, "ms")?;
    range(
        &format!("{at}.limits.wall"),
        l.wall_ms,
        limits::WALL_MS,
        "ms",
    )?;
    range(
        &format!("{at}.limits.memory"),
        l.memory_bytes,
        limits::MEMORY_BYTES,
        "bytes",
    )
}

fn validate_routes(at: &str, routes: &Routes) -> Result<(), Invalid> {
    if routes.hosts.is_empty() {
        return Err(invalid(
            format!("{at}.hosts"),
            "is empty; name the hosts, e.g. shop.example",
        ));
    }
    if routes.rules.is_empty() {
        return Err(invalid(
            format!("{at}.rules"),
            "is empty; give at least one rule with paths and an upstream",
        ));
    }
    hosts(&format!("{at}.hosts"), &routes.hosts)?;
    count(&format!("{at}.rules"), routes.rules.len())?;
    for rule in &routes.rules {
        if rule.paths.is_empty() {
            return Err(invalid(
                format!("{at}.rules.paths"),
                "is empty; `/*` matches every path",
            ));
        }
        paths(&format!("{at}.rules.paths"), &rule.paths)?;
        for upstream in std::iter::once(&rule.upstream).chain(&rule.fallback) {
            let rest = upstream.url.strip_prefix("http://");
            if rest.is_none_or(|r| r.is_empty() || r.contains(['/', '?', '#', '@', ' '])) {
                return Err(invalid(
                    format!("{at}.rules.upstream.url"),
                    format!("`{}` is not http://host:port without a path", upstream.url),
                ));
            }
            range(
                &format!("{at}.rules.upstream.connectTimeout"),
                upstream.connect_timeout_ms,
                1..=60_000,
                "ms",
            )?;
            range(
                &format!("{at}.rules.upstream.responseTimeout"),
                upstream.response_timeout_ms,
                1..=3_600_000,
                "ms",
            )?;
        }
    }
    Ok(())
}

fn name(field: &str, text: &str) -> Result<(), Invalid> {
    let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    if text.is_empty() || text.len() > limits::NAME_BYTES || !text.bytes().all(ok) {
        return Err(invalid(
            field,
            format!(
                "`{}` is not a name: 1 to 253 of a-z, 0-9, - and .",
                text.escape_debug()
            ),
        ));
    }
    Ok(())
}

fn count(field: &str, len: usize) -> Result<(), Invalid> {
    if len > limits::LIST {
        return Err(invalid(
            field,
            format!("{len} items; at most {} are allowed", limits::LIST),
        ));
    }
    Ok(())
}

fn range(
    field: &str,
    value: u64,
    allowed: std::ops::RangeInclusive<u64>,
    unit: &str,
) -> Result<(), Invalid> {
    if !allowed.contains(&value) {
        return Err(invalid(
            field,
            format!(
                "{value} {unit}; {} to {} {unit} are allowed",
                allowed.start(),
                allowed.end()
            ),
        ));
    }
    Ok(())
}

/// A host is lower-case DNS labels; only the first label may be `*`, alone.
fn hosts(field: &str, hosts: &[String]) -> Result<(), Invalid> {
    count(field, hosts.len())?;
    for host in hosts {
        let rest = host.strip_prefix("*.").unwrap_or(host);
        let label = |l: &str| {
            !l.is_empty()
                && l.len() <= 63
                && l.bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        if rest.len() > limits::NAME_BYTES || !rest.split('.').all(label) {
            return Err(invalid(
                field,
                format!(
                    "`{}` is not a host: write shop.example or *.shop.example, in lower case, without a port",
                    host.escape_debug()
                ),
            ));
        }
    }
    Ok(())
}

/// A path is exact (`/cart`) or a prefix (`/cart/*`).
fn paths(field: &str, paths: &[String]) -> Result<(), Invalid> {
    count(field, paths.len())?;
    for path in paths {
        let body = path.strip_suffix("/*").unwrap_or(path);
        let ok = path.starts_with('/')
            && path.len() <= 1024
            && !body.contains(['*', '?', '#'])
            && !body.contains("//")
            && !body.split('/').any(|s| s == "." || s == "..")
            && body.bytes().all(|b| b.is_ascii_graphic());
        if !ok {
            return Err(invalid(
                field,
                format!(
                    "`{}` is not a path: write /cart for that path alone, /cart/* for it and all below",
                    path.escape_debug()
                ),
            ));
        }
    }
    Ok(())
}
