//! What the wire types promise: round trips, one digest, and no panic whatever comes in.

use serde_json::json;

use crate::{
    Assignment, Binding, BindingKind, Bundle, Content, Digest, Entry, Environment, FORMAT, Revision, UnitKind, limits,
};

pub(crate) fn worker_revision() -> Revision {
    let content = json!({"worker": {
        "chain": {"stage": "security", "order": 20},
        "match": [{"hosts": ["shop.example", "*.shop.example"], "paths": ["/checkout/*"]}],
        "bindings": [{"name": "owners", "fetch": {"origins": ["http://dns-owner.default.svc:8080"]}}],
        "limits": {"cpuMs": 5, "wallMs": 100, "memoryBytes": 33_554_432},
        "onFailure": "open",
    }});
    serde_json::from_value(json!({
        "format": 1, "kind": "Worker", "name": "security-headers",
        "artifact": {"digest": "9".repeat(64), "size": 1000},
        "staging": content, "production": content,
        "gates": [{"name": "soak", "soak": {"duration": "10m", "factor": 1.0}}],
    }))
    .unwrap()
}

/// The same with a rule that asks for something of everything.
pub(crate) fn asking_revision() -> Revision {
    let mut json = serde_json::to_value(worker_revision()).unwrap();
    for environment in ["staging", "production"] {
        let rule = &mut json[environment]["worker"]["match"][0];
        rule["methods"] = json!(["GET", "POST"]);
        rule["headers"] = json!([{"name": "x-beta", "value": "1"}]);
        rule["percent"] = json!({"ppm": 100_000, "by": "cookie", "name": "session"});
    }
    serde_json::from_value(json).unwrap()
}

fn routes_revision() -> Revision {
    let content = json!({"routes": {"hosts": ["shop.example"], "rules": [{
        "paths": ["/*"],
        "upstream": {"url": "http://shop.default.svc:8080", "connectTimeoutMs": 1000, "responseTimeoutMs": 30000},
        "fallback": {"url": "http://[fd00::1]:80", "connectTimeoutMs": 1000, "responseTimeoutMs": 30000},
    }]}});
    serde_json::from_value(json!({
        "format": 1, "kind": "Routes", "name": "shop", "staging": content, "production": content,
    }))
    .unwrap()
}

fn config_revision() -> Revision {
    let bundle = Content::Config(Bundle { data: [("flag".to_owned(), "on".to_owned())].into() });
    Revision {
        format: FORMAT,
        kind: UnitKind::Config,
        name: "flags".into(),
        artifact: None,
        staging: bundle.clone(),
        production: bundle,
        gates: vec![],
        together: None,
    }
}

fn assignment() -> Assignment {
    Assignment {
        format: FORMAT,
        environment: Environment::Production,
        generation: 7,
        stages: vec!["edge".into(), "route".into()],
        entries: vec![Entry {
            kind: UnitKind::Worker,
            namespace: "edge-team".into(),
            name: "hello".into(),
            revision: Some(Digest::of(b"1")),
            stable: None,
            since: 7,
        }],
    }
}

#[test]
fn an_entry_is_one_line() {
    let digest = "9f2c1a77".repeat(8);
    let line = format!("Worker/edge-team/hello since=7 revision={digest} stable=same");
    let entry: Entry = line.parse().unwrap();
    assert_eq!((entry.name.as_str(), entry.since, &entry.stable), ("hello", 7, &entry.revision));
    assert_eq!(entry.to_string(), line);
    assert_eq!(format!("Worker/edge-team/hello since=7 revision={digest} stable={digest}").parse(), Ok(entry.clone()));
    let removed = Entry { revision: None, ..entry };
    assert_eq!(removed.to_string(), format!("Worker/edge-team/hello since=7 stable={digest}"));
    assert_eq!(removed.to_string().parse(), Ok(removed));
    for (line, why) in [
        ("", "it begins with no unit"),
        ("Worker/hello since=7", "it begins with no unit"),
        ("Plugin/edge-team/hello since=7", "there is no such kind of unit"),
        ("Worker/edge-team/hello", "since is missing"),
        ("Worker/edge-team/hello since=-1", "since is no number"),
        ("Worker/edge-team/hello since=7 revision=9f2c", "revision is no digest"),
        ("Worker/edge-team/hello since=7 stable=9f2c", "stable is no digest"),
        ("Worker/edge-team/hello since=7 stable=same", "stable is the same as a revision that is missing"),
        ("Worker/edge-team/hello since=7 since=8", "a key stands there twice"),
        ("Worker/edge-team/hello since=7 until=8", "there is no such key"),
        ("Worker/edge-team/hello since=7 ", "a word is no key=value"),
    ] {
        let said = line.parse::<Entry>().unwrap_err().to_string();
        assert!(said.starts_with(&format!("`{line}` is no entry ({why}): write ")), "{said}");
    }
}

#[test]
fn entries_are_one_text_with_a_line_each() {
    let config = format!("Config/edge-team/flags since=3 revision={} stable=same", Digest::of(b"2"));
    let entries = vec![config.parse().unwrap(), assignment().entries[0].clone()];
    let two = Assignment { entries, ..assignment() };
    let mut json = serde_json::to_value(&two).unwrap();
    assert_eq!(json["entries"], format!("{}\n{}\n", two.entries[0], two.entries[1]));
    assert_eq!(serde_json::from_value::<Assignment>(json.clone()).unwrap(), two);
    json["entries"] = json!(format!("{}\nhello\n", two.entries[0]));
    let error = serde_json::from_value::<Assignment>(json.clone()).unwrap_err().to_string();
    assert!(error.starts_with("`hello` is no entry (it begins with no unit): write Worker/edge-team/auth"), "{error}");
    json["entries"] = json!("");
    assert_eq!(serde_json::from_value::<Assignment>(json).unwrap().entries, []);
}

/// Pins the digest: a change here voids every stored revision in every cluster.
#[test]
fn the_digest_of_known_content_never_changes() {
    assert_eq!(
        worker_revision().digest().unwrap().as_str(),
        "22d44eceeeda09eb13aa8708626793d1daad9bf6a839de49961a104e297cb74b"
    );
    assert_eq!(
        asking_revision().digest().unwrap().as_str(),
        "a069c6302eae91fe2fcbbcdbd7533eed5f163a6d4663c411a7c90716bfa3e897"
    );
    assert_eq!(
        routes_revision().digest().unwrap().as_str(),
        "be833313b3631e29aff36116f294bd831dfbc11137a22d27c8a8951df57b5a27"
    );
}

#[test]
fn the_digest_survives_a_trip_through_the_api_server() {
    let revision = worker_revision();
    let mut json = serde_json::to_value(&revision).unwrap();
    json["gates"][0]["soak"]["factor"] = json!(1);
    let back: Revision = serde_json::from_value(json).unwrap();
    assert_eq!(back.digest().unwrap(), revision.digest().unwrap());
}

#[test]
fn every_part_of_a_revision_changes_its_digest() {
    let base = worker_revision();
    let mut seen = vec![base.digest().unwrap()];
    for (pointer, value) in [
        ("/staging/worker/match/0", json!({"methods": ["GET"]})),
        ("/staging/worker/match/0", json!({"methods": ["PUT"]})),
        ("/staging/worker/match/0", json!({"headers": [{"name": "x-beta", "value": "1"}]})),
        ("/staging/worker/match/0", json!({"percent": {"ppm": 1, "by": "cookie", "name": "session"}})),
        ("/staging/worker/match/0", json!({"percent": {"ppm": 1, "by": "header", "name": "session"}})),
        ("/name", json!("other")),
        ("/artifact/digest", json!("8".repeat(64))),
        ("/artifact/size", json!(1001)),
        ("/staging/worker/onFailure", json!("closed")),
        ("/production/worker/limits/cpuMs", json!(6)),
        ("/gates/0/soak/duration", json!("11m")),
    ] {
        let mut json = serde_json::to_value(&base).unwrap();
        *json.pointer_mut(pointer).unwrap() = value;
        let changed: Revision = serde_json::from_value(json).unwrap();
        let digest = changed.digest().unwrap();
        assert!(!seen.contains(&digest), "{pointer}");
        seen.push(digest);
    }
}

#[test]
fn valid_values_pass() {
    for revision in [worker_revision(), asking_revision(), routes_revision(), config_revision()] {
        revision.validate().unwrap();
        let text = serde_json::to_string(&revision).unwrap();
        assert_eq!(serde_json::from_str::<Revision>(&text).unwrap(), revision);
    }
    assignment().validate().unwrap();
}

#[test]
fn an_assignment_is_refused_for_its_structure_alone() {
    type Change = fn(&mut Assignment);
    let cases: [(&str, Change); 8] = [
        ("format", |a| a.format = 2),
        ("stages", |a| a.stages.clear()),
        ("stages", |a| a.stages.push("edge".into())),
        ("stages", |a| a.stages.push("../x".into())),
        ("entries", |a| a.entries.push(a.entries[0].clone())),
        ("entries.name", |a| a.entries[0].name = "a".repeat(254)),
        ("entries[edge-team/hello]", |a| a.entries[0].since = 8),
        ("entries[edge-team/hello]", |a| a.entries[0].revision = None),
    ];
    for (field, change) in cases {
        let mut changed = assignment();
        change(&mut changed);
        assert_eq!(changed.validate().unwrap_err().field, field);
    }
    let mut many = assignment();
    many.entries = vec![many.entries[0].clone(); limits::ENTRIES + 1];
    assert_eq!(many.validate().unwrap_err().field, "entries");
}

#[test]
fn a_revision_is_refused_with_the_field_that_is_wrong() {
    for (pointer, value, field) in [
        ("/format", json!(9), "format"),
        ("/name", json!("UPPER"), "name"),
        ("/kind", json!("Routes"), "staging"),
        ("/artifact", json!(null), "artifact"),
        ("/artifact/size", json!(0), "artifact.size"),
        ("/artifact/size", json!(u64::MAX), "artifact.size"),
        ("/staging/worker/match/0/hosts/0", json!("shop.example:80"), "staging.match.hosts"),
        ("/staging/worker/match/0/hosts/0", json!("a.*.example"), "staging.match.hosts"),
        ("/staging/worker/match/0/paths/0", json!("/a/../b"), "staging.match.paths"),
        ("/staging/worker/match/0/paths/0", json!("a"), "staging.match.paths"),
        ("/production/worker/limits/cpuMs", json!(0), "production.limits.cpu"),
        ("/production/worker/limits/memoryBytes", json!(u64::MAX), "production.limits.memory"),
    ] {
        let mut json = serde_json::to_value(worker_revision()).unwrap();
        *json.pointer_mut(pointer).unwrap() = value;
        let revision: Revision = serde_json::from_value(json).unwrap();
        assert_eq!(revision.validate().unwrap_err().field, field, "{pointer}");
    }
}

#[test]
fn an_upstream_is_an_origin_and_nothing_more() {
    let with = |url: &str| {
        let mut json = serde_json::to_value(routes_revision()).unwrap();
        json["production"]["routes"]["rules"][0]["upstream"]["url"] = json!(url);
        serde_json::from_value::<Revision>(json).unwrap().validate()
    };
    for good in
        ["http://a", "http://a:8080", "http://10.0.0.1:80", "http://[::1]", "http://[::1]:8080", "http://my_svc.ns.svc"]
    {
        assert_eq!(with(good), Ok(()), "{good}");
    }
    for bad in [
        "",
        "http://",
        "https://a",
        "HTTP://a",
        "http://a/",
        "http://a/b",
        "http://u@a",
        "http://a:0",
        "http://a:65536",
        "http://a:+1",
        "http://a b",
        "http://a\r\nX: y",
        "http://A",
        "http://[::1",
        "http://a:",
        "http://:80",
        "http://a?b",
        "http://a:80:81",
    ] {
        assert!(with(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn a_binding_reaches_named_origins_only() {
    let mut revision = worker_revision();
    if let Content::Worker(worker) = &mut revision.staging {
        worker.bindings = vec![Binding { name: "all".into(), kind: BindingKind::Fetch { origins: vec![] } }];
    }
    assert_eq!(revision.validate().unwrap_err().field, "staging.bindings[all].origins");
}

#[test]
fn a_worker_has_a_few_rates() {
    let with = |rates: usize| {
        let mut revision = worker_revision();
        if let Content::Worker(worker) = &mut revision.staging {
            let rate = |n| Binding { name: format!("r{n}"), kind: BindingKind::Rate { requests: 1, per_ms: 1_000 } };
            worker.bindings = (0..rates).map(rate).collect();
        }
        revision.validate()
    };
    assert_eq!(with(limits::RATES), Ok(()));
    let refused = with(limits::RATES + 1).unwrap_err();
    assert_eq!(refused.field, "staging.bindings");
    assert!(refused.problem.contains("9 of them are rates; at most 8 are allowed"), "{refused}");
}

#[test]
fn a_bundle_is_bounded() {
    let mut revision = config_revision();
    if let Content::Config(bundle) = &mut revision.production {
        bundle.data.insert("big".into(), "x".repeat(limits::BUNDLE_BYTES));
    }
    assert_eq!(revision.validate().unwrap_err().field, "production.data");
}

/// A fixed generator: the same inputs on every run.
struct Xorshift(u64);

impl Xorshift {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % n as u64).unwrap()
    }
}

/// Cuts, doubles and replaces pieces of valid JSON. Nothing may panic, and what passes
/// `validate()` has a digest and survives a round trip.
#[test]
fn hostile_bytes_never_panic() {
    let mut random = Xorshift(0x5eed_1234_dead_beef);
    let seeds: Vec<Vec<u8>> = [worker_revision(), asking_revision(), routes_revision(), config_revision()]
        .iter()
        .map(|r| serde_json::to_vec(r).unwrap())
        .chain([serde_json::to_vec(&assignment()).unwrap()])
        .collect();
    let tokens: [&[u8]; 12] = [
        b"null",
        b"-1",
        b"1e999",
        b"18446744073709551616",
        b"\"\"",
        b"\"\\u0000\"",
        b"[]",
        b"{}",
        b"\"../..\"",
        b"\xff",
        b"\"*.\"",
        b"0.5",
    ];
    let mut parsed = 0;
    for round in 0..60_000 {
        let mut bytes = seeds[round % seeds.len()].clone();
        for _ in 0..=random.below(3) {
            let (a, b) = (random.below(bytes.len()), random.below(bytes.len()));
            let (a, b) = (a.min(b), a.max(b).min(a.min(b) + 12));
            match random.below(4) {
                0 => bytes[a] = u8::try_from(random.below(256)).unwrap(),
                1 => drop(bytes.splice(a..b, tokens[random.below(tokens.len())].iter().copied())),
                2 => {
                    let piece = bytes[a..b].to_vec();
                    drop(bytes.splice(a..a, piece));
                }
                _ => bytes[a..b].reverse(),
            }
            if bytes.is_empty() {
                break;
            }
        }
        if let Ok(revision) = serde_json::from_slice::<Revision>(&bytes) {
            parsed += 1;
            let digest = revision.digest().unwrap();
            if revision.validate().is_ok() {
                let again: Revision = serde_json::from_slice(&serde_json::to_vec(&revision).unwrap()).unwrap();
                assert_eq!(again.digest().unwrap(), digest);
            }
        }
        if let Ok(assignment) = serde_json::from_slice::<Assignment>(&bytes) {
            parsed += 1;
            let _either = assignment.validate();
        }
    }
    assert!(parsed > 1_000, "the mutations are too wild to test anything: {parsed}");
}

#[test]
fn deep_nesting_is_refused_not_followed() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let text = serde_json::to_string(&config_revision()).unwrap();
    let text = text.replacen('{', &format!("{{\"gates\":[{deep}],"), 1);
    assert!(serde_json::from_str::<Revision>(&text).is_err());
}
