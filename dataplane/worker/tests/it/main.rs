//! Real guests: what is refused, what is logged, what one call may do.
#![allow(clippy::unwrap_used, reason = "a helper of a test may panic")]

mod any_words;
mod call;
mod filter;
mod handler;
mod refuse;
mod reuse;

use std::path::PathBuf;

use sluice_worker::{Compiled, Engine, EngineConfig, Filter, Proxy};

fn wasm(name: &str) -> Vec<u8> {
    let cache = std::env::var_os("SLUICE_CACHE")
        .map_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/sluice"), PathBuf::from);
    let path = cache.join("guests").join(format!("{name}.wasm"));
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}; run `make guests`", path.display()))
}

fn engine() -> Engine {
    Engine::new(&EngineConfig { instances_max: 4, ..EngineConfig::default() }).unwrap()
}

fn proxy(name: &str) -> Proxy {
    match engine().compile(&wasm(name)).unwrap() {
        Compiled::Proxy(proxy) => proxy,
        Compiled::Filter(_) => panic!("{name} is a filter"),
    }
}

fn filter(name: &str) -> Filter {
    match engine().compile(&wasm(name)).unwrap() {
        Compiled::Filter(filter) => filter,
        Compiled::Proxy(_) => panic!("{name} is no filter"),
    }
}
