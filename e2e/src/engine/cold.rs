//! Cold reconcile: from the start of an operator that knows nothing, with all units in the branch, until every group
//! runs all of them as stable.

use std::collections::BTreeSet;

use anyhow::Result;
use jiff::Timestamp;
use kube::ResourceExt;
use sluice_crds::Phase;

use super::{
    numbers::{count, rounded, seconds},
    sights::{Sights, What},
    units,
    world::{GROUPS, World},
};
use crate::{figures::Figures, rollouts};

/// When what was so.
pub(super) struct Cold {
    began: Timestamp,
    told: Timestamp,
    ended: Timestamp,
}

pub(super) async fn measure(world: &mut World<'_>, units: usize, figures: &mut Figures) -> Result<()> {
    let Cold { began, told, ended } = reconcile(world, units).await?;
    let operator = world.operator_process()?;
    let name = |what: &str| format!("cold, {units} units in {} groups: {what}", GROUPS.len());
    figures.add(name("first group told"), rounded(seconds(began, told)), "s");
    figures.add_at_most(name("stable everywhere"), rounded(seconds(began, ended)), "s", 60.0);
    figures.add(name("operator's CPU"), rounded(operator.cpu()?.as_secs_f64()), "s");
    let last = world.last_write().await?;
    figures.add(name("every Event said, too"), rounded(seconds(began, last)), "s");
    figures.add_at_most(name("operator's memory at most"), rounded(operator.peak_mib()?), "MiB", 150.0);
    figures.add(name("writes a unit, with Events"), rounded(world.writes().await? / count(units)), "writes");
    Ok(())
}

/// Publishes so many units, starts the operator cold, and waits until all is stable.
pub(super) async fn reconcile(world: &mut World<'_>, units: usize) -> Result<Cold> {
    world.stop()?;
    // Staging is another matter: its branch is there, and empty.
    world.team.write("README.md", "Nothing is here yet.\n")?;
    world.team.commit("Begin")?;
    world.team.merge_to("staging")?;
    units::write(&world.team, units)?;
    world.team.commit("All units")?;
    world.team.merge_to("production")?;
    world.follow_repository().await?;
    let mut sights = Sights::start(&world.client);
    let began = Timestamp::now();
    world.start_cold()?;
    let (mut told, mut stable) = (None, BTreeSet::new());
    let mut succeeded = BTreeSet::new();
    while stable.len() < GROUPS.len() || succeeded.len() < units {
        let waiting_for = format!("{} units succeeded, stable in {stable:?}", succeeded.len());
        let sight = sights.next(&waiting_for).await?;
        match sight.what {
            What::Told { group, entries, stable: of, .. } => {
                if group == GROUPS[0] && entries == units {
                    told.get_or_insert(sight.at);
                }
                if of == units {
                    stable.insert(group);
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
    Ok(Cold { began, told: told.unwrap_or(ended), ended })
}
