//! What the workers of a chain tell each other about a request.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use sluice_config::UnitRef;

use crate::failure::Invalid;

/// Names and values of all notes of a request.
const NOTES_BYTES_MAX: usize = 8 << 10;
const KEY_BYTES_MAX: usize = 64;

type ByName = BTreeMap<String, Vec<u8>>;

/// The notes of a request. An outer worker may send it on twice at once: each call sees what was there.
#[derive(Default)]
pub(super) struct Notes(Mutex<ByName>);

/// What one call has written.
#[derive(Default)]
pub(super) struct Written(ByName);

impl Notes {
    fn lock(&self) -> MutexGuard<'_, ByName> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, written: &Written, name: &str) -> Option<Vec<u8>> {
        written.0.get(name).cloned().or_else(|| self.lock().get(name).cloned())
    }

    /// Writes into the call's journal.
    pub(super) fn set(
        &self,
        written: &mut Written,
        writer: &UnitRef,
        key: &str,
        value: Vec<u8>,
    ) -> Result<(), Invalid> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.');
        if key.is_empty() || key.len() > KEY_BYTES_MAX || !key.bytes().all(plain) {
            let key: String = key.chars().take(80).collect();
            return Err(Invalid(format!("`{}` is no key of a note", key.escape_debug())));
        }
        written.0.insert(format!("{writer}/{key}"), value);
        fits(&self.lock(), written)
    }

    /// Lets others see what a call has written, now that it has returned.
    pub(super) fn commit(&self, written: Written) -> Result<(), Invalid> {
        if written.0.is_empty() {
            return Ok(());
        }
        let mut notes = self.lock();
        fits(&notes, &written)?;
        notes.extend(written.0);
        Ok(())
    }
}

fn fits(notes: &ByName, written: &Written) -> Result<(), Invalid> {
    let kept = notes.iter().filter(|(name, _)| !written.0.contains_key(*name));
    let bytes: usize = kept.chain(&written.0).map(|(name, value)| name.len() + value.len()).sum();
    if bytes <= NOTES_BYTES_MAX {
        return Ok(());
    }
    Err(Invalid("the notes of the request would be larger than 8 KiB".to_owned()))
}

#[cfg(test)]
mod tests {
    use sluice_config::UnitKind;

    use super::*;

    #[test]
    fn a_note_is_known_by_its_writer_and_seen_by_others_once_the_call_returned() {
        let writer = UnitRef::new(UnitKind::Worker, "team", "ab");
        let notes = Notes::default();
        let mut written = Written::default();
        notes.set(&mut written, &writer, "arm", b"b".to_vec()).unwrap();
        assert_eq!(notes.get(&written, "team/ab/arm").unwrap(), b"b");
        let others = Written::default();
        assert_eq!(notes.get(&others, "team/ab/arm"), None);
        notes.commit(written).unwrap();
        assert_eq!(notes.get(&others, "team/ab/arm").unwrap(), b"b");
        for key in ["", "a/b", "Arm", "a b", &"k".repeat(65)] {
            assert!(notes.set(&mut Written::default(), &writer, key, vec![]).is_err(), "{key:?}");
        }
    }

    #[test]
    fn all_notes_together_have_8_kib_and_what_is_written_anew_counts_once() {
        let writer = UnitRef::new(UnitKind::Worker, "team", "ab");
        let notes = Notes::default();
        let mut written = Written::default();
        notes.set(&mut written, &writer, "a", vec![0; 5_000]).unwrap();
        notes.commit(written).unwrap();
        let mut written = Written::default();
        assert!(notes.set(&mut written, &writer, "b", vec![0; 4_000]).is_err());
        let mut written = Written::default();
        notes.set(&mut written, &writer, "a", vec![0; 8_000]).unwrap();
        notes.commit(written).unwrap();
    }
}
