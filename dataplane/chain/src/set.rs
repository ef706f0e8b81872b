//! A set of workers, by their place in the chain.

/// Bits, one a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WorkerSet(Box<[u64]>);

impl WorkerSet {
    /// The empty set of a chain of this length.
    pub(crate) fn empty(workers: usize) -> Self {
        Self(vec![0; workers.div_ceil(64)].into())
    }

    pub(crate) fn insert(&mut self, worker: usize) {
        self.0[worker / 64] |= 1 << (worker % 64);
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (word, more) in self.0.iter_mut().zip(&other.0) {
            *word |= more;
        }
    }

    /// The first worker at this place or after it.
    pub(crate) fn first_from(&self, place: usize) -> Option<usize> {
        let mut word = place / 64;
        let mut bits = self.0.get(word)? & (u64::MAX << (place % 64));
        loop {
            if bits != 0 {
                return Some(word * 64 + bits.trailing_zeros() as usize);
            }
            word += 1;
            bits = *self.0.get(word)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walks_in_order_across_words() {
        let mut set = WorkerSet::empty(200);
        for worker in [130, 0, 63, 64, 199] {
            set.insert(worker);
        }
        let mut seen = Vec::new();
        let mut place = 0;
        while let Some(worker) = set.first_from(place) {
            seen.push(worker);
            place = worker + 1;
        }
        assert_eq!(seen, [0, 63, 64, 130, 199]);
        assert_eq!(WorkerSet::empty(0).first_from(0), None);
        assert_eq!(WorkerSet::empty(64).first_from(64), None);
    }
}
