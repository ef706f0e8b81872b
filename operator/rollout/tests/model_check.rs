//! The model check: the real planner with a modelled API server, in every order of events within bounds.
//!
//! `cargo test --release -p sluice-rollout --test model_check` explores the bounded settings; `MODEL=deep` the deep ones,
//! which `make model` runs. A word as argument chooses settings by name, and a line of what is printed, up to its colon,
//! one setting with one budget.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::disallowed_macros,
    clippy::wildcard_enum_match_arm,
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "a test: it prints what it explored; scripts use the rest of the simulated cluster"
)]

use std::process::ExitCode;

mod model;
mod sim;

use model::{
    check::{self, Depth},
    setting::{self, Setting},
};

/// States are made of small objects: with glibc's allocator the bounded check takes 57 s instead of 34 s.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let flag = |name: &str| arguments.iter().any(|argument| argument == name);
    // What cargo asks of every test: a list, or those that are ignored, of which there are none here.
    if flag("--list") || flag("--ignored") {
        return ExitCode::SUCCESS;
    }
    let skipped = |at: usize| at > 0 && arguments[at - 1] == "--skip";
    let words = arguments.iter().enumerate().filter(|(at, word)| !word.starts_with('-') && !skipped(*at));
    let words: Vec<&String> = words.map(|(_, word)| word).collect();
    let deep = std::env::var("MODEL").is_ok_and(|depth| depth == "deep");
    let depth = if deep { Depth::Deep } else { Depth::Bounded };
    let threads = std::env::var("MODEL_THREADS").ok().and_then(|threads| threads.parse().ok()).unwrap_or(1);
    let depth_of = |setting: &Setting| {
        let one = words.iter().find_map(|word| setting.budget(word)).map(Depth::Only);
        let named = words.is_empty() || words.iter().any(|word| setting.name.contains(word.as_str()));
        one.or(named.then_some(depth))
    };
    let (mut states, mut failed) = (0, false);
    for (setting, depth) in setting::ALL.iter().filter_map(|setting| Some((setting, depth_of(setting)?))) {
        let outcome = check::check(setting, depth, threads);
        states += outcome.states;
        failed = !outcome.problems.is_empty();
        if failed {
            break;
        }
    }
    println!("model: {states} states in all");
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
