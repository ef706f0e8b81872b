//! The one writer of Rollouts and of their status.

use std::collections::BTreeMap;

use kube::{ResourceExt, api::ObjectMeta, runtime::reflector::ObjectRef};
use sluice_config::UnitRef;
use sluice_crds as crd;
use sluice_rollout::{Environment, Phase, RolloutId, RolloutSpec, RolloutStatus, Target, UnitId};

use crate::{
    conditions::{self, Truth},
    convert::{ids, rollout},
    execute::{Hands, conflict, version},
    gates::promql::{self, Variables},
    labels,
    writer::WriteError,
};

/// Creates a rollout.
///
/// # Errors
/// A conflict where it exists already: its name tells what it is to do, and the watches have yet to show it. Or what the API
/// server said.
pub async fn create(hands: &Hands, id: &RolloutId, spec: &RolloutSpec) -> Result<String, WriteError> {
    let subject =
        spec.units.first().map_or_else(String::new, |change| subject(hands, &change.unit, spec, &change.target));
    let mut object = crd::Rollout::new(&id.name, rollout::write_spec(spec, &subject));
    let unit = spec.units.first().map(|change| ids::wire_unit(&change.unit).object_name());
    object.metadata = ObjectMeta {
        name: Some(id.name.clone()),
        namespace: Some(id.namespace.clone()),
        labels: unit.filter(|name| name.len() <= 63).map(|name| BTreeMap::from([(labels::UNIT.to_owned(), name)])),
        ..ObjectMeta::default()
    };
    let created = hands.writer.create(&hands.api(&id.namespace), Some(&hands.stores.rollouts), &object).await?;
    Ok(version(&created))
}

/// First line of the commit's message, as it was read with the head.
fn subject(hands: &Hands, unit: &UnitId, spec: &RolloutSpec, target: &Target) -> String {
    let Some(unit) = hands.stores.unit(&ids::wire_unit(unit)) else { return String::new() };
    let memory = match spec.environment {
        Environment::Staging => &unit.spec.environments.staging,
        Environment::Production => &unit.spec.environments.production,
    };
    let head = memory.head.as_ref().filter(|head| ids::target(head.digest.as_ref()) == *target);
    head.map_or_else(String::new, |head| head.subject.clone())
}

/// Replaces a rollout's status, under the version that the plan saw.
///
/// # Errors
/// A conflict, or what the API server said.
pub async fn status(
    hands: &Hands,
    id: &RolloutId,
    resource_version: &str,
    status: &RolloutStatus,
) -> Result<String, WriteError> {
    let stored = hands.stores.rollouts.get(&ObjectRef::<crd::Rollout>::new(&id.name).within(&id.namespace));
    let stored = stored.filter(|rollout| rollout.resource_version().as_deref() == Some(resource_version));
    let mut object = crd::Rollout::clone(&*stored.ok_or_else(|| conflict("Rollout", &id.name))?);
    let before = object.status.take().unwrap_or_default();
    let mut next = rollout::write_status(status);
    next.observed_generation = object.metadata.generation;
    next.conditions = before.conditions.clone();
    conditions(&mut next, status, object.metadata.generation);
    queries(hands, &object, &mut next);
    count_verdicts(hands, &before, &next);
    object.status = Some(next);
    let written = hands.writer.replace_status(&hands.api(&id.namespace), &hands.stores.rollouts, &object).await?;
    Ok(version(&written))
}

/// The text of each query, so that people can run it themselves.
fn queries(hands: &Hands, rollout: &crd::Rollout, next: &mut crd::RolloutStatus) {
    let (Some(unit), Some(namespace)) = (rollout.spec.units.first(), rollout.namespace()) else { return };
    let unit_name = UnitRef::new(unit.kind, namespace.clone(), unit.name.clone()).to_string();
    for progress in &mut next.groups {
        let Some(group) = hands.stores.groups.get(&ObjectRef::<crd::DeploymentGroup>::new(&progress.name)) else {
            continue;
        };
        let variables = Variables {
            unit: &unit_name,
            namespace: &namespace,
            group: &progress.name,
            revision: unit.revision.as_ref().map_or("removed", |digest| digest.short()),
            environment: rollout.spec.environment.as_str(),
        };
        for gate in &mut progress.gates {
            let spec = group.spec.gates.iter().find(|spec| spec.name == gate.name);
            let query = spec.and_then(|spec| spec.prometheus.as_ref());
            gate.query = query.map(|query| promql::substitute(&query.query, &variables));
        }
    }
}

fn conditions(next: &mut crd::RolloutStatus, status: &RolloutStatus, generation: Option<i64>) {
    let waiting = if status.message.is_empty() { status.waiting_for.clone() } else { status.message.clone() };
    let (ready, reconciling, stalled, reason) = match status.phase {
        Phase::Pending => (false, true, false, "Pending"),
        Phase::Progressing => (false, true, false, "Progressing"),
        Phase::Paused => (false, false, true, "Paused"),
        Phase::Reverting => (false, true, false, "Reverting"),
        Phase::Succeeded => (true, false, false, "Succeeded"),
        Phase::Reverted => (false, false, true, "Reverted"),
        Phase::Aborted => (false, false, true, "Aborted"),
        Phase::Superseded => (true, false, false, "Superseded"),
    };
    let all = &mut next.conditions;
    conditions::set(all, "Ready", Truth::of(ready, reason, &waiting), generation);
    conditions::set_or_drop(all, "Reconciling", reconciling.then_some(Truth::of(true, reason, "")), generation);
    conditions::set_or_drop(all, "Stalled", stalled.then_some(Truth::of(true, reason, &waiting)), generation);
}

/// Verdicts that were not so before.
fn count_verdicts(hands: &Hands, before: &crd::RolloutStatus, next: &crd::RolloutStatus) {
    let of = |status: &crd::RolloutStatus| -> BTreeMap<(String, String), crd::Verdict> {
        let gates = status.groups.iter().flat_map(|g| g.gates.iter().map(|gate| (g.name.clone(), gate)));
        gates.map(|(group, gate)| ((group, gate.name.clone()), gate.verdict)).collect()
    };
    let known = of(before);
    for (gate, verdict) in of(next) {
        if known.get(&gate) != Some(&verdict) {
            hands.writer.metrics().verdict(&gate.0, format!("{verdict:?}"));
        }
    }
}
