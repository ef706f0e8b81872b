//! Single calls, the chain's side played by the test.

use std::{
    io,
    sync::{Arc, Mutex},
};

use http::{Request, Response};
use sluice_config::{Digest, Limits, UnitKind, UnitRef};
use sluice_egress::{Body, empty};
use sluice_worker::{Calls, Ended, Identity, NextFuture, Outcome};

use crate::{engine, proxy, wasm};

pub(crate) const LIMITS: Limits = Limits { cpu_ms: 1_000, wall_ms: 10_000, memory_bytes: 16 << 20 };

pub(crate) fn identity() -> Arc<Identity> {
    Arc::new(Identity {
        unit: UnitRef::new(UnitKind::Worker, "team", "noisy"),
        revision: Digest::of(b"noisy"),
        group: "canary".into(),
        log: Arc::default(),
        cpu_ns: Arc::default(),
    })
}

/// Answers every `next` with 200 and remembers ends.
#[derive(Default)]
pub(crate) struct Chain {
    ended: Mutex<Vec<Outcome>>,
}

impl Chain {
    /// Waits until it was told of the end: a guest may go on when its response is complete.
    pub(crate) async fn end(&self) {
        while self.ended.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    }
}

impl Calls for Chain {
    fn next(&self, _: Request<Body>) -> NextFuture {
        Box::pin(async { Ok(Response::new(empty())) })
    }

    fn fetch(&self, _: Request<Body>) -> NextFuture {
        unreachable!("no guest here fetches")
    }

    fn ended(&self, ended: Ended) {
        self.ended.lock().unwrap().push(ended.outcome);
    }
}

fn request(script: &str) -> Request<Body> {
    Request::get("http://shop.example/").header("x-do", script).body(empty()).unwrap()
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn stdout_and_stderr_are_log_lines_with_unit_revision_and_group() {
    // For the whole process: a subscriber of one thread misses lines whose call site another test met first.
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().json().with_writer(move || writer.clone()).finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let chain = Arc::new(Chain::default());
    let called = proxy("faults").call(&identity(), &LIMITS, chain.clone(), request("log:hello there")).await;
    assert_eq!(called.unwrap().status(), 200);
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    for stream in ["stdout", "stderr"] {
        let line = text
            .lines()
            .find(|l| l.contains("hello there") && l.contains(&format!("\"stream\":\"{stream}\"")))
            .unwrap_or_else(|| panic!("no line of {stream} in {text}"));
        for part in ["hello there", "\"unit\":\"team/noisy\"", "\"group\":\"canary\"", Digest::of(b"noisy").as_str()] {
            assert!(line.contains(part), "{part} in {line}");
        }
    }
    assert_eq!(*chain.ended.lock().unwrap(), [Outcome::Next]);
}

#[tokio::test]
async fn each_call_gets_a_fresh_instance_and_gives_it_back() {
    let compiled = proxy("faults");
    // More than the pool holds, one after the other, failures among them.
    for round in 0..20 {
        let chain = Arc::new(Chain::default());
        let script = if round % 2 == 0 { "pass" } else { "trap" };
        let called = compiled.call(&identity(), &LIMITS, chain.clone(), request(script)).await;
        assert_eq!(called.is_ok(), round % 2 == 0);
        drop(called);
        assert_eq!(chain.ended.lock().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_dry_start_finds_what_cannot_start() {
    for guest in ["faults", "filter-faults"] {
        let compiled = engine().compile(&wasm(guest)).unwrap();
        assert_eq!(compiled.warm(&identity(), &LIMITS).await, Ok(()));
        let tiny = Limits { memory_bytes: 1 << 10, ..LIMITS };
        let failure = compiled.warm(&identity(), &tiny).await.unwrap_err();
        assert_eq!(failure.outcome, Outcome::Memory, "{guest}: {failure}");
    }
}
