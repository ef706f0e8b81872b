//! Turns what the watches show into the planner's snapshot. Nothing else does, and nothing is decided here.

mod groups;
mod units;

use std::{collections::BTreeMap, sync::Arc};

use kube::ResourceExt;
use sluice_crds as crd;
use sluice_rollout::{GateRef, RolloutId, Sample, Snapshot, Time, UnitId};

use crate::{
    convert::{ids, rollout},
    evidence::Known,
    published::Whole,
    stores::Stores,
};

pub use groups::{live_pod, node_ready};

/// Turns stores into snapshots. Of thousands of objects few change between two plans: what did not change since the last
/// snapshot is not read again.
#[derive(Debug, Default)]
pub struct Observer {
    snapshot: Arc<Snapshot>,
    units: Seen<UnitId, crd::Unit>,
    rollouts: Seen<RolloutId, crd::Rollout>,
    assignments: Seen<String, crd::Assignment>,
}

impl Observer {
    /// All that is known now. `whole` says, once the units are read, of which commits they are all there.
    pub fn snapshot(
        &mut self,
        stores: &Stores,
        samples: BTreeMap<GateRef, Vec<Sample>>,
        elsewhere: Known,
        whole: impl FnOnce() -> Whole,
        watching_since: Time,
    ) -> Arc<Snapshot> {
        // Its own, where whoever had the last one has let go of it.
        let snapshot = Arc::make_mut(&mut self.snapshot);
        // Its name says whose memory a unit is: what the spec says can be edited into another unit's.
        self.units.refresh(&mut snapshot.units, stores.units.state(), ids::unit_of, units::read);
        self.rollouts.refresh(&mut snapshot.rollouts, stores.rollouts.state(), rollout_id, read_rollout);
        units::refresh_revisions(stores, snapshot);
        snapshot.groups = groups::groups(stores, std::mem::take(&mut snapshot.groups), &mut self.assignments);
        snapshot.repositories = units::repositories(stores, &whole());
        (snapshot.samples, snapshot.elsewhere) = (samples, elsewhere);
        snapshot.watching_since = watching_since;
        Arc::clone(&self.snapshot)
    }
}

fn rollout_id(object: &crd::Rollout) -> Option<RolloutId> {
    Some(ids::rollout(&object.namespace()?, &object.name_any()))
}

fn read_rollout(object: &crd::Rollout) -> Option<sluice_rollout::Rollout> {
    let (namespace, version) = (object.namespace()?, object.resource_version()?);
    let status = object.status.clone().unwrap_or_default();
    Some(rollout::read(&namespace, &version, &object.spec, &status))
}

/// Objects of one kind as they were read last.
#[derive(Debug)]
struct Seen<K, O> {
    objects: BTreeMap<K, Arc<O>>,
}

impl<K, O> Default for Seen<K, O> {
    fn default() -> Self {
        Self { objects: BTreeMap::new() }
    }
}

impl<K: Ord + Clone, O> Seen<K, O> {
    /// Brings values up to date with what the watch shows now: a store has the same `Arc` until the object changes. A value
    /// that somebody took away is read again.
    fn refresh<V>(
        &mut self,
        values: &mut BTreeMap<K, V>,
        now: Vec<Arc<O>>,
        key: impl Fn(&O) -> Option<K>,
        read: impl Fn(&O) -> Option<V>,
    ) {
        let mut before = std::mem::take(&mut self.objects);
        for object in now {
            let Some(key) = key(&object) else { continue };
            let is_known = before.remove(&key).is_some_and(|known| Arc::ptr_eq(&known, &object));
            if !is_known || !values.contains_key(&key) {
                match read(&object) {
                    Some(value) => values.insert(key.clone(), value),
                    None => values.remove(&key),
                };
            }
            self.objects.insert(key, object);
        }
        for gone in before.keys() {
            values.remove(gone);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn what_did_not_change_is_not_read_again_and_what_is_gone_goes() {
        let (mut seen, mut values, reads) = (Seen::default(), BTreeMap::new(), Cell::new(0));
        let mut refresh = |now: &[&Arc<(char, i32)>], taken: Option<char>| {
            taken.map(|key| values.remove(&key));
            let read = |object: &(char, i32)| {
                reads.set(reads.get() + 1);
                (object.1 >= 0).then_some(object.1)
            };
            seen.refresh(&mut values, now.iter().map(|object| Arc::clone(object)).collect(), |o| Some(o.0), read);
            (values.clone(), reads.take())
        };
        let (a, b) = (Arc::new(('a', 1)), Arc::new(('b', 2)));
        assert_eq!(refresh(&[&a, &b], None), ([('a', 1), ('b', 2)].into(), 2));
        assert_eq!(refresh(&[&b, &a], None), ([('a', 1), ('b', 2)].into(), 0));
        assert_eq!(refresh(&[&b, &a], Some('b')), ([('a', 1), ('b', 2)].into(), 1));
        let changed = Arc::new(('a', 3));
        assert_eq!(refresh(&[&changed, &b], None), ([('a', 3), ('b', 2)].into(), 1));
        assert_eq!(refresh(&[&changed], None), ([('a', 3)].into(), 0));
        let unreadable = Arc::new(('a', -1));
        assert_eq!(refresh(&[&unreadable, &b], None), ([('b', 2)].into(), 2));
        assert_eq!(refresh(&[], None), ([].into(), 0));
    }
}
