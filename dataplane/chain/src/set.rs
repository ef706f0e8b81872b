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

    pub(crate) fn contains(&self, worker: usize) -> bool {
        self.0[worker / 64] & (1 << (worker % 64)) != 0
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

    /// Whether it has a worker at this place or after it that the other has not.
    pub(crate) fn has_beyond(&self, other: &Self, place: usize) -> bool {
        let mut words = self.0.iter().zip(&other.0).map(|(mine, theirs)| mine & !theirs).skip(place / 64);
        words.next().is_some_and(|first| first & (u64::MAX << (place % 64)) != 0) || words.any(|more| more != 0)
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

    #[test]
    fn tells_what_it_has_beyond_another_from_a_place_on() {
        let of = |workers: &[usize]| {
            let mut set = WorkerSet::empty(200);
            workers.iter().for_each(|worker| set.insert(*worker));
            set
        };
        let set = of(&[3, 64, 130]);
        assert!(set.contains(64) && !set.contains(65) && !set.contains(199));
        for (other, place, expected) in [
            (&[][..], 0, true),
            (&[], 130, true),
            (&[], 131, false),
            (&[], 200, false),
            (&[130], 4, true),
            (&[64, 130], 3, true),
            (&[64, 130], 4, false),
            (&[3, 64], 65, true),
            (&[3, 64, 130, 131], 0, false),
        ] {
            assert_eq!(set.has_beyond(&of(other), place), expected, "{other:?} from {place}");
        }
        assert!(!WorkerSet::empty(64).has_beyond(&WorkerSet::empty(64), 64));
    }
}
