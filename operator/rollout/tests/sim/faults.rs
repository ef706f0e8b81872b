//! Ways in which an operator's writes go wrong.

/// What goes wrong during a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Faults {
    /// Nothing.
    None,
    /// Every write in turn: of each `of` writes, those at `at` fail.
    Failing { at: usize, of: usize },
    /// The operator dies after each single write, and a new one plans afresh.
    Dying,
    /// A second operator acts on what was stored one plan ago, before each plan.
    Stale,
}

/// All of them.
pub const ALL: [Faults; 6] = [
    Faults::Failing { at: 0, of: 2 },
    Faults::Failing { at: 1, of: 2 },
    Faults::Failing { at: 0, of: 3 },
    Faults::Failing { at: 2, of: 3 },
    Faults::Dying,
    Faults::Stale,
];
