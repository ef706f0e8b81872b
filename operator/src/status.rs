//! What people see of groups and units: written only where it differs.

use std::{collections::BTreeMap, fmt::Write as _};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{ResourceExt, runtime::reflector::ObjectRef};
use sluice_crds as crd;
use sluice_rollout::{Environment, Group, Phase, Plan, Snapshot, UnitId, UnitReport};

use crate::{
    at_once,
    conditions::{self, Truth},
    convert::ids,
    execute::Hands,
    groups::GroupError,
    polls::Reports,
    source::RepositoryId,
    writer::WriteError,
};

/// Status of every group.
///
/// # Errors
/// The worst. What one group is refused for stops no other.
pub async fn groups(
    hands: &Hands,
    snapshot: &Snapshot,
    errors: &BTreeMap<String, GroupError>,
) -> Result<(), WriteError> {
    let changed = snapshot.groups.iter().filter_map(|(name, group)| {
        let stored = hands.stores.groups.get(&ObjectRef::new(name))?;
        let before = stored.status.clone().unwrap_or_default();
        let next =
            group_status(name, group, snapshot, errors.get(name), &before.conditions, stored.metadata.generation);
        (stored.status.as_ref() != Some(&next)).then_some((stored, next))
    });
    let writes = changed.map(|(stored, next)| async move {
        let mut object = crd::DeploymentGroup::clone(&stored);
        object.status = Some(next);
        hands.writer.replace_status(&hands.cluster_api(), &hands.stores.groups, &object).await
    });
    at_once::worst(at_once::writes(writes).await)
}

fn group_status(
    name: &str,
    group: &Group,
    snapshot: &Snapshot,
    error: Option<&GroupError>,
    before: &[Condition],
    generation: Option<i64>,
) -> crd::DeploymentGroupStatus {
    let assigned = group.assignment.as_ref();
    let live = group.nodes.values().filter(|node| node.live).count();
    let current = |generation: u64| {
        let lagging = |node: &&sluice_rollout::Node| {
            node.live && node.report.as_ref().is_none_or(|r| r.group != name || r.generation < generation)
        };
        group.nodes.values().filter(lagging).count()
    };
    let behind = current(assigned.map_or(0, |a| a.generation));
    let mut conditions = before.to_vec();
    let waits = error.filter(|error| matches!(error, GroupError::Waits(_))).map(ToString::to_string);
    let text = error.filter(|error| !matches!(error, GroupError::Waits(_))).map(ToString::to_string);
    let ready = match (&text, live, behind) {
        (Some(text), _, _) => Truth::of(false, "NoDaemonSet", text),
        (None, 0, _) => Truth::of(false, "NoLiveNodes", "no node of the group is live"),
        (None, _, 0) => Truth::of(true, "UpToDate", "every live node runs what is assigned"),
        // No number here: each node that catches up would be a write.
        (None, _, _) => Truth::of(false, "CatchingUp", "some live nodes do not run what is assigned yet"),
    };
    conditions::set(&mut conditions, "Ready", ready, generation);
    let stalled = text.as_ref().map(|text| Truth::of(true, "NoDaemonSet", text));
    conditions::set_or_drop(&mut conditions, "Stalled", stalled, generation);
    let reconciling = waits.as_ref().map(|text| Truth::of(true, "DataplaneWaits", text));
    conditions::set_or_drop(&mut conditions, "Reconciling", reconciling, generation);
    crd::DeploymentGroupStatus {
        nodes: format!("{live}/{}", group.nodes.len()),
        units: assigned.map_or(0, |a| count(a.entries.values().filter(|entry| entry.revision.is_some()))),
        rolling: count(snapshot.rollouts.values().filter(|rollout| is_in(rollout, name))),
        observed_generation: generation,
        conditions,
    }
}

fn count<T>(items: impl Iterator<Item = T>) -> i64 {
    i64::try_from(items.count()).unwrap_or(i64::MAX)
}

fn is_in(rollout: &sluice_rollout::Rollout, group: &str) -> bool {
    let under_way = match rollout.status.phase {
        Phase::Progressing | Phase::Paused | Phase::Reverting => true,
        Phase::Pending | Phase::Succeeded | Phase::Reverted | Phase::Aborted | Phase::Superseded => false,
    };
    under_way && rollout.status.groups.iter().any(|g| g.name == group && g.entered_at.is_some())
}

/// Status of every unit: what is wrong with its files, as polls found it, and where it stands. A repository
/// that this process has not polled yet leaves what was said before.
///
/// # Errors
/// The worst. What one unit is refused for stops no other.
pub async fn units(hands: &Hands, snapshot: &Snapshot, plan: &Plan, reports: &Reports) -> Result<(), WriteError> {
    let pending = pending(snapshot, plan);
    let changed = hands.stores.units.state().into_iter().filter_map(|stored| {
        let (namespace, id) = (stored.namespace()?, ids::unit_of(&stored)?);
        let before = stored.status.clone().unwrap_or_default();
        let repository = RepositoryId { namespace, name: stored.spec.repository.clone() };
        let problem = reports.get(&repository).map(|problems| problems.get(&ids::wire_unit(&id)));
        let waiting = waiting(&id, pending.get(&id).map_or(&[], Vec::as_slice), plan);
        let next = unit_status((&id, &stored, &before), snapshot, plan, problem, waiting.as_deref());
        (stored.status.as_ref() != Some(&next)).then_some((repository.namespace, stored, next))
    });
    let writes = changed.map(|(namespace, stored, next)| async move {
        let mut object = crd::Unit::clone(&stored);
        object.status = Some(next);
        match hands.writer.replace_status(&hands.api(&namespace), &hands.stores.units, &object).await {
            // Its head or memory was just written: its status is looked at again with that.
            Ok(_) | Err(WriteError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    });
    at_once::worst(at_once::writes(writes).await)
}

fn unit_status(
    (id, stored, before): (&UnitId, &crd::Unit, &crd::UnitStatus),
    snapshot: &Snapshot,
    plan: &Plan,
    problem: Option<Option<&(String, String)>>,
    waiting: Option<&str>,
) -> crd::UnitStatus {
    let short = |memory: &crd::Memory| {
        let stable = memory.stable.as_ref()?;
        Some(stable.digest.as_ref().map_or_else(|| "removed".to_owned(), |digest| digest.short().to_owned()))
    };
    let environments = &stored.spec.environments;
    let mut conditions = before.conditions.clone();
    if let Some(problem) = problem {
        let truth = problem.map(|(reason, text)| Truth::of(true, reason, text));
        conditions::set_or_drop(&mut conditions, "Stalled", truth, None);
    }
    let stalled = conditions.iter().find(|c| c.type_ == "Stalled").map(|c| (c.reason.clone(), c.message.clone()));
    let rejected = rejected(id, plan);
    let rolling = snapshot.units.get(id).is_some_and(|u| u.memory.values().any(|m| m.in_flight.is_some()));
    let ready = match (&stalled, &rejected, rolling, waiting) {
        (Some((reason, message)), _, _, _) => Truth::of(false, reason, message),
        (None, Some(text), _, _) => Truth::of(false, "Rejected", text),
        (None, None, true, _) => Truth::of(false, "RollingOut", "a rollout is under way"),
        (None, None, false, Some(text)) => Truth::of(false, "Waiting", text),
        (None, None, false, None) => Truth::of(true, "UpToDate", ""),
    };
    conditions::set(&mut conditions, "Ready", ready, None);
    let reconciling = rolling.then_some(Truth::of(true, "RollingOut", "a rollout is under way"));
    conditions::set_or_drop(&mut conditions, "Reconciling", reconciling, None);
    // No observedGeneration: the spec is the operator's own memory, and each of its writes would ask for another.
    crd::UnitStatus {
        staging: short(&environments.staging),
        production: short(&environments.production),
        observed_generation: None,
        conditions,
    }
}

/// What rollouts that have not begun wait for, by unit.
fn pending<'a>(snapshot: &'a Snapshot, plan: &Plan) -> BTreeMap<&'a UnitId, Vec<String>> {
    let mut pending: BTreeMap<&UnitId, Vec<String>> = BTreeMap::new();
    for (id, report) in &plan.rollouts {
        let Some(rollout) = snapshot.rollouts.get(id).filter(|r| r.status.phase == Phase::Pending) else { continue };
        for change in &rollout.spec.units {
            pending.entry(&change.unit).or_default().push(format!("{id}: {}", report.text));
        }
    }
    pending
}

/// What rollouts of the unit that have not begun wait for.
fn waiting(id: &UnitId, pending: &[String], plan: &Plan) -> Option<String> {
    let mut texts = pending.to_vec();
    for environment in Environment::ALL {
        let text = match plan.units.get(&(id.clone(), environment)) {
            Some(UnitReport::Together { unit }) => sluice_rollout::waits_for_together(unit),
            Some(UnitReport::NoRepository { repository }) => sluice_rollout::waits_for_repository(repository),
            Some(UnitReport::HeadUnknown { .. } | UnitReport::Rejected { .. }) | None => continue,
        };
        texts.push(format!("{environment}: {text}"));
    }
    (!texts.is_empty()).then(|| texts.join("; "))
}

/// What the branches want and will not get by themselves.
fn rejected(id: &UnitId, plan: &Plan) -> Option<String> {
    let mut text = String::new();
    for environment in Environment::ALL {
        if let Some(UnitReport::Rejected { target, by, why }) = plan.units.get(&(id.clone(), environment)) {
            let gap = if text.is_empty() { "" } else { "; " };
            let _infallible = write!(text, "{gap}{environment}: {} was rejected by {by}: {why}", target.short());
        }
    }
    (!text.is_empty()).then_some(text)
}
