//! How a commit's status speaks of a rollout in staging: what is written in staging's cluster, and what another reads in it.

use sluice_config::{Digest, Environment, UnitKind};

use crate::provider::{Seen, State};

/// The status of a unit in an environment.
pub(crate) fn context(environment: Environment, kind: UnitKind, name: &str) -> String {
    match kind {
        UnitKind::Worker => format!("sluice/{environment}/{name}"),
        UnitKind::Routes => format!("sluice/{environment}/routes/{name}"),
        UnitKind::Config => format!("sluice/{environment}/config/{name}"),
    }
}

/// What is said of a revision (none: of the unit's absence). All that passed is said with the whole digest: of 8 digits
/// somebody could find other content that has them, too.
pub(crate) fn say(revision: Option<&Digest>, state: State, sentence: &str) -> String {
    let whole = match (state, revision) {
        (State::Success, Some(digest)) => whole(digest),
        (State::Success | State::Pending | State::Failure | State::Canceled, _) => String::new(),
    };
    format!("{}: {sentence}{whole}", short(revision))
}

fn short(revision: Option<&Digest>) -> &str {
    revision.map_or("removed", Digest::short)
}

fn whole(digest: &Digest) -> String {
    format!(" (sha256:{})", digest.as_str())
}

/// What a status says of a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// It passed.
    Passed,
    /// It is tried.
    Tried,
    /// It failed.
    Failed,
    /// An attempt at it ended for something else: what was said before that attempt still holds.
    Left,
}

/// What is said of this revision; none: something of another, or nothing.
pub(crate) fn hear(seen: &Seen, revision: Option<&Digest>) -> Option<Word> {
    let (named, said) = seen.description.split_once(": ")?;
    if named != short(revision) {
        return None;
    }
    match seen.state {
        State::Success => revision.is_none_or(|digest| said.ends_with(&whole(digest))).then_some(Word::Passed),
        State::Pending => Some(Word::Tried),
        State::Failure => Some(Word::Failed),
        State::Canceled => Some(Word::Left),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(tail: char) -> Digest {
        format!("4fab17b7{}", String::from(tail).repeat(56)).parse().unwrap()
    }

    fn seen(state: State, description: String) -> Seen {
        Seen { number: 1, context: String::new(), state, description, account: String::new() }
    }

    #[test]
    fn what_is_said_of_a_revision_is_heard_of_just_that() {
        let (this, other) = (digest('0'), digest('1'));
        for (state, word) in
            [(State::Success, Word::Passed), (State::Pending, Word::Tried), (State::Failure, Word::Failed)]
        {
            let said = say(Some(&this), state, "passed 3 of 3 groups");
            assert!(said.chars().count() <= 140, "GitHub would cut it: {said}");
            assert_eq!(hear(&seen(state, said.clone()), Some(&this)), Some(word));
            assert_eq!(hear(&seen(state, said), None), None);
            let gone = say(None, state, "passed 3 of 3 groups");
            assert_eq!(hear(&seen(state, gone.clone()), None), Some(word));
            assert_eq!(hear(&seen(state, gone), Some(&this)), None);
        }
        let said = say(Some(&this), State::Success, "passed");
        assert_eq!(hear(&seen(State::Success, said), Some(&other)), None, "8 digits are the same");
    }

    #[test]
    fn what_only_looks_like_it_passes_nothing() {
        let this = digest('0');
        let bad = [
            "passed 3 of 3 groups".to_owned(),
            "4fab17b7: passed 3 of 3 groups".to_owned(),
            format!("4fab17b7: passed (sha256:{}", this.as_str()),
            format!("4fab17b7: passed (sha256:{}) and more", this.as_str()),
            format!("passed (sha256:{})", this.as_str()),
        ];
        for said in bad {
            assert_eq!(hear(&seen(State::Success, said.clone()), Some(&this)), None, "{said}");
        }
        let superseded = say(Some(&this), State::Canceled, "superseded by auth-w-st-9f2c1a77-2");
        assert_eq!(hear(&seen(State::Canceled, superseded), Some(&this)), Some(Word::Left));
    }
}
