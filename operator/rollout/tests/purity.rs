//! The planner's dependencies: none that could do I/O, and none at all that are not on this list.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test")]

use std::process::Command;

/// `thiserror` is a macro; the rest is what that is made of.
const ALLOWED: [&str; 7] =
    ["sluice-rollout", "thiserror", "thiserror-impl", "proc-macro2", "quote", "syn", "unicode-ident"];

#[test]
fn the_planner_depends_on_nothing_that_does_io() {
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--package", "sluice-rollout", "--edges", "normal,build"])
        .args(["--prefix", "none", "--format", "{p}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let tree = String::from_utf8(tree.stdout).unwrap();
    let names = tree.lines().filter_map(|line| line.split_whitespace().next());
    let foreign: Vec<&str> = names.filter(|name| !ALLOWED.contains(name)).collect();
    assert!(foreign.is_empty(), "the planner must not depend on {foreign:?}");
}
