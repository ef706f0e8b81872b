//! Manifests that somebody bent: each is a revision that holds, or a problem that says where; no other unit notices.
#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping")]

use proptest::{prelude::*, sample::Index};

mod source_support;
use source_support::{Memory, WORKER_SPEC, component, parse, routes_manifest, worker_manifest};

const ROUTES_SPEC: &str = "  hosts: [shop.example]
  rules:
  - paths: [/api/*, /healthz]
    upstream: {url: 'http://shop.default.svc:8080', connectTimeout: 1s, responseTimeout: 5s}
    fallback: {url: 'http://static.default.svc'}
";

/// Characters that mean something to YAML, words of ours, and anything else.
fn inserted() -> impl Strategy<Value = String> {
    prop_oneof![
        "[-:,{}\\[\\]&*!|>'\"%@`#? \n\t]{1,6}",
        prop::sample::select(vec![
            "null",
            "~",
            "-1",
            "0x10",
            "1e400",
            "5h",
            "64Mi",
            "<<: *a",
            "&a ",
            "!!binary ",
            "---\n",
            "spec: ",
            "  ",
        ])
        .prop_map(str::to_owned),
        "\\PC{0,6}",
    ]
}

/// Where, how many characters go, what comes.
type Bend = (Index, usize, String);

fn bends() -> impl Strategy<Value = Vec<Bend>> {
    prop::collection::vec((any::<Index>(), 0..12_usize, inserted()), 1..4)
}

fn bent(text: &str, bends: &[Bend]) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    for (at, gone, put) in bends {
        let start = at.index(chars.len() + 1);
        let end = (start + gone).min(chars.len());
        chars.splice(start..end, put.chars());
    }
    chars.into_iter().collect()
}

/// One unit bent, the other as it should be.
fn check(bent_path: &str, text: &str) -> Result<(), TestCaseError> {
    let files = Memory::default()
        .with("workers/hello/worker.yaml", worker_manifest(WORKER_SPEC))
        .with("workers/hello/hello.wasm", component(""))
        .with("routes/shop.yaml", routes_manifest(ROUTES_SPEC))
        .with(bent_path, text);
    for unit in parse(&files).0 {
        match &unit.result {
            Ok(parsed) => prop_assert_eq!(parsed.revision.validate(), Ok(())),
            Err(problem) => {
                prop_assert_eq!(&unit.path, bent_path, "another unit noticed: {}", problem);
                prop_assert_eq!(&problem.file, bent_path);
                let lines = text.lines().count() as u64;
                prop_assert!((1..=lines + 1).contains(&problem.line), "{} of {} lines", problem, lines);
                prop_assert!(problem.column >= 1 && !problem.reason.is_empty(), "{}", problem);
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_bent_worker_is_its_own_trouble_alone(bends in bends()) {
        check("workers/hello/worker.yaml", &bent(&worker_manifest(WORKER_SPEC), &bends))?;
    }

    #[test]
    fn bent_routes_are_their_own_trouble_alone(bends in bends()) {
        check("routes/shop.yaml", &bent(&routes_manifest(ROUTES_SPEC), &bends))?;
    }
}
