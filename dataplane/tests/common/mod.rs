//! A real dataplane process on a hand-written assignment, and what stands around it.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part of the harness")]

pub mod artifacts;
pub mod bomb;
pub mod client;
pub mod content;
pub mod node;
pub mod upstream;

use std::{
    path::PathBuf,
    process::Command,
    sync::OnceLock,
    time::{Duration, Instant},
};

/// Long enough for a crowded machine; nothing waits this long when all is well.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Looks until it is so.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begin.elapsed() < PATIENCE, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A guest's component, built on first use.
pub fn guest(name: &str) -> Vec<u8> {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let dir = BUILT.get_or_init(|| {
        let home = std::env::var("HOME").unwrap();
        let cache = std::env::var("SLUICE_CACHE").unwrap_or(format!("{home}/.cache/sluice"));
        let dir = PathBuf::from(cache).join("guests");
        if !dir.join("ungranted.wasm").exists() || !dir.join("security-headers-v3.wasm").exists() {
            let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/build.sh");
            assert!(Command::new(script).status().unwrap().success(), "cannot build the guests");
        }
        dir
    });
    std::fs::read(dir.join(format!("{name}.wasm"))).unwrap()
}
