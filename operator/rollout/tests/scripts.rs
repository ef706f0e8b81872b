//! Script in, transcript out: every file in `scripts/` is a story, its transcript what happens in it.
//! `UPDATE_TRANSCRIPTS=1 cargo test -p sluice-rollout` rewrites the transcripts; read them, they are the
//! specification.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    clippy::wildcard_enum_match_arm,
    missing_docs,
    unreachable_pub,
    reason = "a test: it reads files, and prints what failed"
)]

use std::{fs, path::PathBuf};

mod sim;

use sim::{cluster::Cluster, diff::diff, faults, random::Random};

fn scripts() -> Vec<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let mut scripts: Vec<_> = files.filter(|path| path.extension().is_some_and(|e| e == "script")).collect();
    scripts.sort();
    scripts
}

fn play(script: &str, faults: faults::Faults) -> Cluster {
    let mut cluster = Cluster::new(faults);
    for line in script.lines() {
        let line = line.trim_end();
        cluster.say(if line.is_empty() || line.starts_with('#') { line.to_owned() } else { format!("> {line}") });
        if !line.is_empty() && !line.starts_with('#') {
            cluster.run(line);
            cluster.show_table();
        }
    }
    cluster
}

#[test]
fn every_script_reads_as_its_transcript_says() {
    let update = std::env::var_os("UPDATE_TRANSCRIPTS").is_some();
    let mut differences = String::new();
    for path in scripts() {
        let cluster = play(&fs::read_to_string(&path).unwrap(), faults::Faults::None);
        let got = cluster.transcript.join("\n") + "\n";
        let transcript = path.with_extension("transcript");
        let expected = fs::read_to_string(&transcript).unwrap_or_default();
        if update {
            fs::write(&transcript, &got).unwrap();
        } else if expected != got {
            differences += &format!("--- {}\n{}", transcript.display(), diff(&expected, &got));
        }
    }
    assert!(differences.is_empty(), "{differences}");
}

/// Writes fail, operators die, two of them run: the end is the same.
#[test]
fn faults_do_not_change_how_a_script_ends() {
    for path in scripts() {
        let script = fs::read_to_string(&path).unwrap();
        let expected = play(&script, faults::Faults::None).end_state();
        for faults in faults::ALL {
            let got = play(&script, faults).end_state();
            assert!(expected == got, "{} under {faults:?}:\n{}", path.display(), diff(&expected, &got));
        }
    }
}

/// Every promise that the simulated cluster checks holds for stories that nobody wrote. A failure prints the
/// script; `SEED=n` plays one alone, `SEEDS=n` plays so many.
#[test]
fn promises_hold_in_random_scripts() {
    let number = |name| std::env::var(name).ok().and_then(|number| number.parse::<u64>().ok());
    let seeds = number("SEED").map_or(0..number("SEEDS").unwrap_or(60), |seed| seed..seed + 1);
    for seed in seeds {
        let faults = [faults::Faults::None].iter().chain(&faults::ALL).copied().nth(seed as usize % 7).unwrap();
        let mut random = Random::new(seed);
        let mut cluster = Cluster::new(faults);
        let mut script = Vec::new();
        let setting = Random::setting();
        for step in 0..setting.len() + 40 {
            let rollouts: Vec<String> = cluster.store.rollouts.keys().map(ToString::to_string).collect();
            let line = setting.get(step).cloned().unwrap_or_else(|| random.line(&rollouts));
            script.push(line.clone());
            let run = std::panic::AssertUnwindSafe(|| cluster.run(&line));
            if let Err(problem) = std::panic::catch_unwind(run) {
                let tail = cluster.transcript.len().saturating_sub(60);
                eprintln!("{}\nseed {seed}, {faults:?}:\n{}", cluster.transcript[tail..].join("\n"), script.join("\n"));
                std::panic::resume_unwind(problem);
            }
        }
    }
}
