//! The demo's table, from what the clients saw and what the rollouts say.

use anyhow::{Context, Result};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use sluice_crds::{Rollout, RolloutStatus};

use super::{
    clients::{Answer, Seen},
    scenery::Version,
};
use crate::{figures::Figures, rollouts};

/// What the story leaves behind to be measured.
#[derive(Debug)]
pub(super) struct Record {
    /// When v1 had been pushed to staging, and to production.
    pub(super) pushed: [Timestamp; 2],
    /// v1's way through production.
    pub(super) good: Rollout,
    /// v2's.
    pub(super) bad: Rollout,
    /// When the clients were last asked before v2 was over.
    pub(super) bad_reverted: Timestamp,
}

/// Seconds between two moments.
pub(super) fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64()
}

fn time(of: Option<&MicroTime>, what: &str) -> Result<Timestamp> {
    of.map(|time| time.0).with_context(|| format!("the rollout does not say when it {what}"))
}

/// Measures.
pub(super) fn figures(record: &Record, seen: &Seen) -> Result<Figures> {
    let mut figures = Figures::new();
    let v1 = Version::V1.mark();
    let [staging, production] = record.pushed;
    figures.add_at_most("push → running on staging", seconds(staging, seen.first("staging", &v1)?), "s", 10.0);
    let first = seconds(production, seen.first("internal", &v1)?);
    figures.add_at_most("push → first production group", first, "s", 10.0);
    for (group, spent) in time_in_groups(&rollouts::status(&record.good))? {
        figures.add(format!("time in {group}"), spent, "s");
    }
    bad_version(&mut figures, record, seen)?;
    figures.add("requests sent", count(seen.answers().len()), "requests");
    figures.add("requests failed", count(seen.failed().count()), "requests");
    figures.add_at_most(
        "failed for any other reason than the bad worker",
        count(strangers(seen).len()),
        "requests",
        0.0,
    );
    Ok(figures)
}

/// The requests that failed, and not by the bad worker.
pub(super) fn strangers(seen: &Seen) -> Vec<&Answer> {
    let v2 = Version::V2.mark();
    seen.failed().filter(|answer| answer.worker.as_deref() != Some(v2.as_str())).collect()
}

fn bad_version(figures: &mut Figures, record: &Record, seen: &Seen) -> Result<()> {
    let v2 = Version::V2.mark();
    let verdict = time(rollouts::status(&record.bad).ended_at.as_ref(), "was given up")?;
    let first_bad = seen.by(&v2).filter(|answer| answer.outcome.failed()).map(|answer| answer.ended).min();
    let first_bad = first_bad.context("the bad version never gave a bad answer")?;
    figures.add_at_most("bad version: first bad answer → verdict", seconds(first_bad, verdict), "s", 15.0);
    // Staging passed it: only production goes back.
    let production = seen.by(&v2).filter(|answer| answer.group != "staging");
    let last = production.map(|answer| answer.ended).max().context("the bad version was never in production")?;
    figures.add_at_most("bad version: verdict → last answer by it", seconds(verdict, last).max(0.0), "s", 2.0);
    figures.add_at_most(
        "bad version: verdict → off every node, confirmed",
        seconds(verdict, record.bad_reverted),
        "s",
        5.0,
    );
    Ok(())
}

/// How long an attempt was in each group: until it entered the next one, or ended.
fn time_in_groups(status: &RolloutStatus) -> Result<Vec<(String, f64)>> {
    let mut entered = Vec::new();
    for group in &status.groups {
        entered.push((group.name.clone(), time(group.entered_at.as_ref(), "entered a group")?));
    }
    let end = time(status.ended_at.as_ref(), "ended")?;
    let ends = entered.iter().skip(1).map(|(_, at)| *at).chain([end]).collect::<Vec<_>>();
    Ok(entered.into_iter().zip(ends).map(|((name, from), to)| (name, seconds(from, to))).collect())
}

#[allow(clippy::cast_precision_loss, reason = "counts of requests are far below 2^52")]
fn count(number: usize) -> f64 {
    number as f64
}
