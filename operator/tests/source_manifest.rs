//! Manifests in, revisions or exact words out.
#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping")]

use std::cell::RefCell;

use sluice_config::{BindingKind, Content, Environment, HeaderMatch, PercentBy, PercentMatch, UnitKind, limits};
use sluice_operator::source::{FileError, Files, Known, ListedFile, TreeOf, parse_tree};

mod source_support;
use source_support::{Memory, WORKER_SPEC, component, importing, parse, routes_manifest, worker_manifest};

fn worker(spec: &str) -> Memory {
    Memory::default()
        .with("workers/hello/worker.yaml", worker_manifest(spec))
        .with("workers/hello/hello.wasm", component(""))
}

fn routes(spec: &str) -> Memory {
    Memory::default().with("routes/shop.yaml", routes_manifest(spec))
}

fn config(text: &str) -> Memory {
    Memory::default().with("config/flags.yaml", text)
}

const WASM: &str = "  wasm: ./hello.wasm\n  chain: {stage: edge}\n";

#[test]
fn a_worker_becomes_a_revision_with_each_environment_merged() {
    let (units, problems) = parse(&worker(WORKER_SPEC));
    assert_eq!(problems, []);
    let parsed = units[0].result.as_ref().unwrap();
    assert_eq!(units[0].unit.to_string(), "edge-team/hello");
    assert_eq!(parsed.source.path, "workers/hello/worker.yaml");
    assert_eq!(parsed.source.artifact_path.as_deref(), Some("workers/hello/hello.wasm"));
    assert_eq!(parsed.digest, parsed.revision.digest().unwrap());
    assert_eq!(parsed.revision.gates.len(), 1);
    let Content::Worker(staging) = parsed.revision.content(Environment::Staging) else { panic!() };
    let Content::Worker(production) = parsed.revision.content(Environment::Production) else { panic!() };
    assert_eq!(staging.match_rules[0].hosts, ["shop.staging.example"]);
    assert_eq!(staging.match_rules[0].paths, Vec::<String>::new(), "lists are replaced");
    assert_eq!((staging.limits.cpu_ms, staging.limits.memory_bytes), (10, 64 << 20), "maps are merged");
    assert_eq!((production.limits.cpu_ms, production.limits.wall_ms), (5, 1000));
    let rule = &production.match_rules[0];
    assert_eq!((rule.paths[0].as_str(), rule.methods.join(",").as_str()), ("/checkout/*", "GET,POST"));
    assert_eq!(rule.headers, [HeaderMatch { name: "X-Beta".into(), value: "1".into() }]);
    let tenth = PercentMatch { ppm: 100_000, by: PercentBy::Cookie, name: Some("session".into()) };
    assert_eq!(rule.percent, Some(tenth));
    assert_eq!(staging.match_rules[0].percent, None, "with all that they say");
    let BindingKind::Fetch { origins } = &production.bindings[0].kind else { panic!("it is a fetch") };
    assert_eq!(origins, &["http://owners.default.svc:8080"]);
}

#[test]
fn the_digest_is_of_the_content_not_of_its_form() {
    let plain = worker(WASM);
    let spaced =
        worker("  # a comment\n  chain:\n    stage: 'edge'\n    order: 0\n  wasm: hello.wasm\n  environments:\n");
    let digest = |files: &Memory| parse(files).0[0].result.as_ref().unwrap().digest.clone();
    assert_eq!(digest(&plain), digest(&spaced));
    let other = worker(WASM).with("workers/hello/hello.wasm", component("other"));
    assert_ne!(digest(&plain), digest(&other));
}

#[test]
fn a_header_may_say_the_only_way_in_which_it_is_compared() {
    let digest = |header: &str| {
        let files = worker(&format!("{WASM}  match: [{{headers: [{header}]}}]\n"));
        parse(&files).0[0].result.as_ref().unwrap().digest.clone()
    };
    let gold = digest("{name: x-tier, value: gold}");
    assert_eq!(digest("{type: Exact, name: x-tier, value: gold}"), gold);
    assert_ne!(digest("{name: x-tier, value: silver}"), gold);
}

#[test]
fn one_bad_file_stalls_its_own_unit_alone() {
    let files = worker(WASM)
        .with("config/flags.yaml", "spec: [")
        .with("config/Bad_Name.yaml", "")
        .with("routes/old.yml", "")
        .with("routes/README.md", "")
        .with("workers/README.md", "");
    let (units, problems) = parse(&files);
    let of: Vec<_> = units.iter().map(|u| (u.unit.kind, u.unit.name.as_str(), u.result.is_ok())).collect();
    assert_eq!(
        of,
        [(UnitKind::Worker, "hello", true), (UnitKind::Routes, "old", false), (UnitKind::Config, "flags", false)]
    );
    let old = units[1].result.as_ref().unwrap_err().to_string();
    assert_eq!(old, "routes/old.yml:1:1: files that end in .yml are not read: rename it to old.yaml");
    let said: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "config/Bad_Name.yaml:1:1: `Bad_Name` is no name of a unit: write 1 to 40 of a-z, 0-9 and -, with no - at either end",
        ]
    );
}

/// Tells which files were read.
struct Watched<'a>(&'a Memory, RefCell<Vec<String>>);

impl Files for Watched<'_> {
    fn list(&self, folder: &str) -> Result<Option<Vec<ListedFile>>, FileError> {
        self.0.list(folder)
    }

    fn read(&self, path: &str, bytes_max: u64) -> Result<Vec<u8>, FileError> {
        self.1.borrow_mut().push(path.to_owned());
        self.0.read(path, bytes_max)
    }

    fn content_id(&self, path: &str) -> Option<String> {
        self.0.content_id(path)
    }
}

#[test]
fn what_is_as_it_was_is_not_read_again() {
    const MANIFEST: &str = "workers/hello/worker.yaml";
    const COMPONENT: &str = "workers/hello/hello.wasm";
    let mut known = Known::default();
    let mut read = |files: &Memory, commit: &str| {
        let of = TreeOf { namespace: "n".into(), repository: "r".into(), commit: commit.into(), path: "/".into() };
        let watched = Watched(files, RefCell::default());
        let (mut units, _) = parse_tree(&watched, &of, &mut known).unwrap();
        (watched.1.into_inner(), units.remove(0).result)
    };
    let files = worker(WASM);
    let (paths, first) = read(&files, "one");
    assert_eq!(paths, [MANIFEST, COMPONENT]);
    let (paths, again) = read(&files, "two");
    assert_eq!(paths, [""; 0]);
    let (first, again) = (first.unwrap(), again.unwrap());
    assert_eq!((&again.digest, &again.revision), (&first.digest, &first.revision));
    assert_eq!((again.source.commit.as_str(), again.artifact.unwrap().commit.as_str()), ("two", "two"));

    let text = format!("{}# a comment\n", String::from_utf8(files.0[MANIFEST].clone()).unwrap());
    let (paths, _) = read(&worker(WASM).with(MANIFEST, text), "three");
    assert_eq!(paths, [MANIFEST], "the component was checked before");
    let (paths, bad) = read(&worker(WASM).with(COMPONENT, "no component"), "four");
    assert_eq!(paths, [MANIFEST, COMPONENT]);
    let problem = bad.unwrap_err().to_string();
    let (paths, bad) = read(&worker(WASM).with(COMPONENT, "no component"), "five");
    assert_eq!(paths, [MANIFEST], "what is wrong with a component is remembered");
    assert_eq!(bad.unwrap_err().to_string(), problem);
}

#[test]
fn a_repository_may_have_its_units_in_a_folder() {
    let files = Memory::default().with("edge/config/flags.yaml", FLAGS);
    let mut of = TreeOf { namespace: "n".into(), repository: "r".into(), commit: "c".into(), path: "/edge".into() };
    let (units, _) = parse_tree(&files, &of, &mut Known::default()).unwrap();
    assert_eq!(units[0].path, "edge/config/flags.yaml");
    of.path = "/elsewhere".into();
    let missing = parse_tree(&files, &of, &mut Known::default()).unwrap_err();
    assert_eq!(missing, FileError::Missing("elsewhere".into()), "not: all units are gone");
}

const FLAGS: &str = "apiVersion: sluice.dev/v1alpha1\nkind: Config\nmetadata: {name: flags}\nspec: {data: {a: b}}\n";

/// Name, files, what is said of the one unit in them.
fn bad_inputs() -> Vec<(&'static str, Memory, &'static str)> {
    include!("source_support/bad_inputs.rs")
}

#[test]
fn every_bad_input_is_told_with_place_and_remedy() {
    let mut wrong = Vec::new();
    let inputs = bad_inputs();
    assert!(inputs.len() >= 30);
    for (name, files, expected) in inputs {
        let (units, _) = parse(&files);
        let said = match &units[0].result {
            Ok(_) => "accepted".to_owned(),
            Err(problem) => problem.to_string(),
        };
        if said != expected {
            wrong.push(format!("{name}\n  said:     {said}\n  expected: {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
