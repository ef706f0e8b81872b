//! Turns what the watches show into the planner's snapshot. Nothing else does, and nothing is decided here.

mod groups;
mod units;

use std::collections::BTreeMap;

use kube::ResourceExt;
use sluice_rollout::{GateRef, RolloutId, Sample, Snapshot, Time};

use crate::{
    convert::{ids, rollout},
    stores::Stores,
};

pub use groups::{live_pod, node_ready};

/// Turns stores into snapshots; keeps what it parsed of revisions, which never change.
#[derive(Debug, Default)]
pub struct Observer {
    revisions: units::Revisions,
}

impl Observer {
    /// All that is known now.
    pub fn snapshot(
        &mut self,
        stores: &Stores,
        samples: BTreeMap<GateRef, Vec<Sample>>,
        watching_since: Time,
    ) -> Snapshot {
        let units = units::units(stores);
        let rollouts = rollouts(stores);
        Snapshot {
            watching_since,
            groups: groups::groups(stores),
            repositories: units::repositories(stores),
            revisions: self.revisions.of(stores, &units, &rollouts),
            units,
            rollouts,
            samples,
        }
    }
}

fn rollouts(stores: &Stores) -> BTreeMap<RolloutId, sluice_rollout::Rollout> {
    let read = |object: std::sync::Arc<sluice_crds::Rollout>| {
        let namespace = object.namespace()?;
        let version = object.resource_version()?;
        let status = object.status.clone().unwrap_or_default();
        let id = ids::rollout(&namespace, &object.name_any());
        Some((id, rollout::read(&namespace, &version, &object.spec, &status)))
    };
    stores.rollouts.state().into_iter().filter_map(read).collect()
}
