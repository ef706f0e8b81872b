//! Revisions, artifacts and assignments, written as an operator would.

use std::{fs, net::SocketAddr, path::Path};

use serde_json::json;
use sluice_config::{Assignment, DEFAULT_STAGES, Digest, Entry, Environment, FORMAT, Revision, UnitKind};

pub const HOST: &str = "shop.example";

/// Writes the artifact and the revision of a worker; its digest.
pub fn worker(dir: &Path, name: &str, wasm: &[u8], on_failure: &str) -> Digest {
    fs::write(dir.join(format!("{}.wasm", Digest::of(wasm).short())), wasm).unwrap();
    worker_elsewhere(dir, name, &Digest::of(wasm), wasm.len(), on_failure)
}

/// Writes the revision of a worker whose artifact is somewhere else, if anywhere.
pub fn worker_elsewhere(dir: &Path, name: &str, artifact: &Digest, size: usize, on_failure: &str) -> Digest {
    let content = json!({"worker": {
        "chain": {"stage": "security", "order": 10},
        "limits": {"cpuMs": 1000, "wallMs": 10_000, "memoryBytes": 33_554_432},
        "onFailure": on_failure,
    }});
    revision(
        dir,
        json!({
            "format": FORMAT, "kind": "Worker", "name": name,
            "artifact": {"digest": artifact, "size": size},
            "staging": content, "production": content,
        }),
    )
}

/// Writes a route table that sends everything for [`HOST`] to one upstream.
pub fn routes(dir: &Path, name: &str, upstream: SocketAddr) -> Digest {
    let content = json!({"routes": {"hosts": [HOST], "rules": [{
        "paths": ["/*"],
        "upstream": {"url": format!("http://{upstream}"), "connectTimeoutMs": 5000, "responseTimeoutMs": 30000},
    }]}});
    revision(dir, json!({"format": FORMAT, "kind": "Routes", "name": name, "staging": content, "production": content}))
}

fn revision(dir: &Path, value: serde_json::Value) -> Digest {
    let revision: Revision = serde_json::from_value(value).unwrap();
    revision.validate().unwrap();
    let digest = revision.digest().unwrap();
    fs::write(dir.join(format!("{}.json", digest.short())), serde_json::to_vec(&revision).unwrap()).unwrap();
    digest
}

pub fn entry(kind: UnitKind, name: &str, revision: &Digest, stable: Option<&Digest>, since: u64) -> Entry {
    Entry {
        kind,
        namespace: "team".into(),
        name: name.into(),
        revision: Some(revision.clone()),
        stable: stable.cloned(),
        since,
    }
}

pub fn assignment(generation: u64, entries: Vec<Entry>) -> Assignment {
    Assignment {
        format: FORMAT,
        environment: Environment::Production,
        generation,
        stages: DEFAULT_STAGES.map(str::to_owned).to_vec(),
        entries,
    }
}
