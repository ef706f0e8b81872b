//! Cold reconcile: from the start of an operator that knows nothing, with all units in the branch, until every group
//! runs all of them as stable.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use jiff::Timestamp;
use kube::ResourceExt;
use sluice_crds::Phase;

use super::{
    Scale,
    numbers::{count, rounded, seconds},
    sights::{Sights, What},
    units,
    world::{GROUPS, World},
};
use crate::{figures::Figures, rollouts};

pub(super) async fn measure(world: &mut World<'_>, scale: &Scale, figures: &mut Figures) -> Result<()> {
    world.stop()?;
    // Staging is another matter: its branch is there, and empty.
    world.team.write("README.md", "Nothing is here yet.\n")?;
    world.team.commit("Begin")?;
    world.team.merge_to("staging")?;
    units::write(&world.team, scale.units)?;
    world.team.commit("All units")?;
    world.team.merge_to("production")?;
    world.follow_repository().await?;
    let mut sights = Sights::start(&world.client);
    let began = Timestamp::now();
    world.start_cold()?;
    let (mut told, mut stable) = (None, BTreeMap::new());
    let mut succeeded = BTreeSet::new();
    while stable.len() < GROUPS.len() || succeeded.len() < scale.units {
        let waiting_for = format!("{} units succeeded, stable in {:?}", succeeded.len(), stable.keys());
        let sight = sights.next(&waiting_for).await?;
        match sight.what {
            What::Told { group, entries, stable: of, .. } => {
                if group == GROUPS[0] && entries == scale.units {
                    told.get_or_insert(sight.at);
                }
                if of == scale.units {
                    stable.entry(group).or_insert(sight.at);
                }
            }
            What::Rollout(rollout) => {
                if rollouts::status(&rollout).phase == Phase::Succeeded {
                    succeeded.insert(rollout.name_any());
                }
            }
            What::Runs { .. } => {}
        }
    }
    let ended = Timestamp::now();
    let (operator, units) = (world.operator_process()?, scale.units);
    let name = |what: &str| format!("cold, {units} units in {} groups: {what}", GROUPS.len());
    figures.add(name("first group told"), rounded(seconds(began, told.unwrap_or(ended))), "s");
    figures.add_at_most(name("stable everywhere"), rounded(seconds(began, ended)), "s", 60.0);
    figures.add_at_most(name("operator's memory at most"), rounded(operator.peak_mib()?), "MiB", 150.0);
    figures.add(name("operator's CPU"), rounded(operator.cpu()?.as_secs_f64()), "s");
    let writes = world.operator.metrics.sum("sluice_operator_writes_total").await?;
    figures.add(name("writes a unit"), rounded(writes / count(units)), "writes");
    world.set_gates().await
}
