//! Steady state: nothing is written but Leases, and what the operator uses meanwhile.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{
    numbers::{count, rounded},
    world::World,
};
use crate::{
    figures::Figures,
    parts::api_proxy::{ApiProxy, Verb},
    wait::{Look, until},
};

/// What asks about tokens stores nothing.
const STORES_NOTHING: [&str; 2] = ["tokenreviews", "subjectaccessreviews"];

pub(super) async fn measure(world: &World<'_>, watched: Duration, figures: &mut Figures) -> Result<()> {
    let (operator, proxy, metrics) = (world.operator_process()?, world.proxy()?, &world.operator.metrics);
    proxy.forget();
    let polls = metrics.sum("sluice_operator_polls_total").await?;
    let (began, cpu) = (Instant::now(), operator.cpu()?);
    until("the time to pass", watched * 2, || async {
        let passed = began.elapsed();
        Ok(if passed >= watched { Look::Done(()) } else { Look::NotYet(format!("{passed:?}")) })
    })
    .await?;
    let (used, passed) = (operator.cpu()?.saturating_sub(cpu), began.elapsed());
    let polled = metrics.sum("sluice_operator_polls_total").await? - polls;
    ensure!(polled >= 1.0, "git was not asked");
    let name = |what: &str| format!("steady state, {} s: {what}", watched.as_secs());
    figures.add_at_most(name("writes but Leases"), count(writes(proxy)), "writes", 0.0);
    figures.add(name("git asked"), polled, "times");
    figures.add(name("operator's CPU"), rounded(100.0 * used.as_secs_f64() / passed.as_secs_f64()), "% of a core");
    figures.add(name("operator's memory"), rounded(operator.memory_mib()?), "MiB");
    Ok(())
}

/// Requests that were to store something, whether or not they did; Events too.
pub(super) fn writes(proxy: &ApiProxy) -> usize {
    let requests = proxy.requests().into_iter();
    let stores = |(verb, resource): &(Verb, String)| {
        verb.writes() && resource != "leases" && !STORES_NOTHING.contains(&resource.as_str())
    };
    requests.filter(|(what, _)| stores(what)).map(|(_, times)| times).sum()
}
