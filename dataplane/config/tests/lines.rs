//! Whatever stands in an assignment's line: it is read as it was written, or told why not.
#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping")]

use proptest::prelude::*;
use sluice_config::{Digest, Entry, UnitKind};

fn entry() -> impl Strategy<Value = Entry> {
    let kinds = prop_oneof![Just(UnitKind::Worker), Just(UnitKind::Routes), Just(UnitKind::Config)];
    let digest = || prop::option::of(any::<[u8; 8]>().prop_map(|bytes| Digest::of(&bytes)));
    (kinds, "[a-z]([-a-z0-9]{0,61}[a-z0-9])?", "[a-z]([-a-z0-9]{0,61}[a-z0-9])?", digest(), digest(), any::<u64>())
        .prop_map(|(kind, namespace, name, revision, stable, since)| Entry {
            kind,
            namespace,
            name,
            // Every other one has what is stable, as most have.
            stable: if since % 2 == 0 { revision.clone() } else { stable },
            revision,
            since,
        })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_entry_is_read_as_it_was_written(entry in entry()) {
        prop_assert_eq!(entry.to_string().parse::<Entry>().unwrap(), entry);
    }

    #[test]
    fn a_bent_line_says_what_it_says_or_is_told_why(
        entry in entry(),
        at in any::<prop::sample::Index>(),
        gone in 0..20_usize,
        put in "[-=/ a-z0-9\\PC]{0,8}",
    ) {
        let line: Vec<char> = entry.to_string().chars().collect();
        let (head, tail) = line.split_at(at.index(line.len()));
        let bent: String = head.iter().copied().chain(put.chars()).chain(tail.iter().skip(gone).copied()).collect();
        match bent.parse::<Entry>() {
            Ok(read) => prop_assert_eq!(read.to_string().parse::<Entry>().unwrap(), read),
            Err(error) => prop_assert!(error.to_string().contains("write Worker/edge-team/auth")),
        }
    }
}
