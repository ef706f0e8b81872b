//! Reads the words of scripts: units, versions, gates, durations.

use std::collections::BTreeSet;
use std::time::Duration;

use sluice_rollout::{
    Check, Digest, Environment, GateScope, GateSpec, Ppm, QueryOutcome, RepositoryId, RolloutId, Target, UnitId,
    UnitKind,
};

use super::cluster::span;

/// Words of a line; `"…"` is one word.
pub fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (index, part) in line.split('"').enumerate() {
        if index % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}

pub fn environment(word: &str) -> Environment {
    match word {
        "staging" => Environment::Staging,
        "production" => Environment::Production,
        other => panic!("`{other}` is no environment"),
    }
}

/// `shop`, `routes/shop`, `config/flags`; with `other:` in front, of the namespace `other`.
pub fn unit(word: &str) -> UnitId {
    let (namespace, word) = word.split_once(':').unwrap_or(("edge-team", word));
    let (kind, name) = match word.split_once('/') {
        Some(("routes", name)) => (UnitKind::Routes, name),
        Some(("config", name)) => (UnitKind::Config, name),
        Some((kind, _)) => panic!("`{kind}` is no kind of unit"),
        None => (UnitKind::Worker, word),
    };
    UnitId { kind, namespace: namespace.to_owned(), name: name.to_owned() }
}

pub fn repository() -> RepositoryId {
    RepositoryId { namespace: "edge-team".to_owned(), name: "edge".to_owned() }
}

/// `v2` of a unit: a digest that begins with 22222222 and is the unit's own.
pub fn digest(unit: &UnitId, version: &str) -> Digest {
    let number = version.strip_prefix('v').unwrap_or_else(|| panic!("`{version}` is no version: v1 to v9"));
    let hash = unit.to_string().bytes().fold(7_u64, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
    format!("{}{hash:056x}", number.repeat(8)).parse().unwrap()
}

/// `shop:v2`, or the tombstone `shop:removed`.
pub fn target(word: &str) -> (UnitId, Target) {
    let (name, version) = word.rsplit_once(':').unwrap_or_else(|| panic!("`{word}` lacks `:v1`"));
    let unit = unit(name);
    let target = if version == "removed" { Target::Removed } else { Target::Revision(digest(&unit, version)) };
    (unit, target)
}

pub fn rollout(word: &str) -> RolloutId {
    RolloutId { namespace: "edge-team".to_owned(), name: word.to_owned() }
}

/// `soak:10m:1000`, `errors:0.5%:200`, `query:latency:30s:2[:shared][:3]` (passes after 3 samples), `job:e2e`.
pub fn gate(word: &str) -> GateSpec {
    let parts: Vec<&str> = word.split(':').collect();
    let (name, check) = match parts.as_slice() {
        ["soak", duration] => ("soak", Check::Soak { duration: span(duration), min_requests: None }),
        ["soak", duration, requests] => {
            let min_requests = Some(requests.parse().unwrap());
            ("soak", Check::Soak { duration: span(duration), min_requests })
        }
        ["errors", max, requests] => {
            let percent: f64 = max.trim_end_matches('%').parse().unwrap();
            let max = Ppm((percent * 10_000.0).round() as u32);
            ("errors", Check::ErrorRate { max, min_requests: requests.parse().unwrap() })
        }
        ["query", name, interval, limit, rest @ ..] => (
            *name,
            Check::Prometheus {
                interval: span(interval),
                failure_limit: limit.parse().unwrap(),
                min_samples: rest.iter().find_map(|word| word.parse().ok()).unwrap_or(1),
                range: Duration::from_secs(120),
                per_unit: !rest.contains(&"shared"),
            },
        ),
        ["job", name] => (*name, Check::Job),
        _ => panic!("`{word}` is no gate"),
    };
    GateSpec { name: name.to_owned(), scope: GateScope { kinds: BTreeSet::new(), ..GateScope::default() }, check }
}

pub fn outcome(words: &[String]) -> QueryOutcome {
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["nan"] => QueryOutcome::NotANumber,
        ["empty"] => QueryOutcome::Empty,
        ["error", why] => QueryOutcome::Error((*why).to_owned()),
        ["fails", shown] => QueryOutcome::Value { fails: true, shown: (*shown).to_owned() },
        ["good", shown] => QueryOutcome::Value { fails: false, shown: (*shown).to_owned() },
        other => panic!("{other:?}: a query answers good|fails \"…\", nan, empty or error \"…\""),
    }
}
