//! What is refused, and in which words: before compilation and by the compiler alike.

use sluice_worker::{
    CompileError,
    imports::{self, Contract},
};

use crate::{engine, wasm};

fn refusal(wasm: &[u8]) -> String {
    let compiled = engine().compile(wasm).map(drop).unwrap_err();
    // The operator, without an engine, says the same.
    if let CompileError::Refused(refused) = &compiled {
        let checked = imports::surface(wasm).and_then(|s| s.check());
        assert_eq!(checked.as_ref(), Err(refused));
    }
    compiled.to_string()
}

#[test]
fn an_import_that_nothing_grants_is_named() {
    assert_eq!(refusal(&wasm("ungranted")), "imports what nothing grants: example:vault/secrets@1.0.0");
}

#[test]
fn a_core_module_says_how_to_componentize() {
    let message = refusal(b"\0asm\x01\0\0\0");
    assert!(message.contains("wasm32-wasip2"), "{message}");
    assert!(message.contains("wasm-tools component new"), "{message}");
}

#[test]
fn precompiled_code_is_refused() {
    let message = refusal(b"\x7fELF\x02\x01\x01\xc8");
    assert!(message.contains("precompiled code is always refused"), "{message}");
}

#[test]
fn a_component_without_a_handler_is_refused() {
    let message = refusal(b"\0asm\x0d\0\x01\0");
    assert!(message.contains("wasi:http/incoming-handler"), "{message}");
}

#[test]
fn a_component_that_is_cut_or_changed_is_refused_not_run() {
    let whole = wasm("request-id");
    refusal(&whole[..whole.len() / 2]);
    // Within the code of the largest module.
    let mut changed = whole.clone();
    let middle = changed.len() / 3;
    changed[middle..middle + 64].fill(0xff);
    refusal(&changed);
}

#[test]
fn what_the_examples_import_is_granted() {
    for name in ["request-id", "security-headers-v1", "redirects", "maintenance", "ab-test", "jwt", "links", "faults"] {
        let surface = imports::surface(&wasm(name)).unwrap();
        assert_eq!(surface.check(), Ok(Contract::Proxy), "{name}");
        assert!(surface.imports.iter().any(|i| i.starts_with("wasi:http/outgoing-handler@")));
    }
}

#[test]
fn filters_are_known_by_what_they_export() {
    for (name, on_request, on_response) in [
        ("filter-security-headers", false, true),
        ("filter-request-id", true, true),
        ("filter-redirects", true, false),
        ("filter-maintenance", true, false),
        ("filter-ab-test", true, true),
        ("filter-jwt", true, false),
        ("filter-links", true, true),
        ("filter-faults", true, true),
    ] {
        let surface = imports::surface(&wasm(name)).unwrap();
        assert_eq!(surface.check(), Ok(Contract::Filter { on_request, on_response }), "{name}");
        engine().compile(&wasm(name)).unwrap();
    }
}

#[test]
fn small_filters_import_nothing_but_the_contract() {
    for name in ["filter-security-headers", "step-filter"] {
        let imports = imports::surface(&wasm(name)).unwrap().imports;
        assert!(imports.iter().all(|i| i.starts_with("sluice:worker/")), "{name}: {imports:?}");
    }
}
