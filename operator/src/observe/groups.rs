//! Groups, their nodes, and what they are told to run.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::core::v1::{Node as KubeNode, Pod};
use kube::{ResourceExt, runtime::reflector::ObjectRef};
use sluice_config as wire;
use sluice_crds as crd;
use sluice_rollout::{Assignment, Entry, Exception, ExceptionKind, Group, Node, NodeReport, OnGateFailure};

use super::Seen;
use crate::{
    convert::{gates, ids},
    labels,
    stores::Stores,
    times,
};

/// The groups. Their assignments are those that they had before, where those did not change.
pub(super) fn groups(
    stores: &Stores,
    before: BTreeMap<String, Group>,
    seen: &mut Seen<String, crd::Assignment>,
) -> BTreeMap<String, Group> {
    let mut nodes = nodes(stores);
    let assigned = before.into_iter().filter_map(|(name, group)| Some((name, group.assignment?)));
    let mut assignments: BTreeMap<String, Assignment> = assigned.collect();
    seen.refresh(&mut assignments, stores.assignments.state(), |object| Some(object.name_any()), assignment);
    let read = |object: Arc<crd::DeploymentGroup>| {
        if object.metadata.deletion_timestamp.is_some() {
            return None;
        }
        let (name, spec) = (object.name_any(), &object.spec);
        let group = Group {
            environment: ids::environment(spec.environment),
            order: spec.order,
            optional: spec.optional,
            gates: gates::read_specs(&spec.gates),
            on_gate_failure: match spec.on_gate_failure {
                crd::OnGateFailure::Revert => OnGateFailure::Revert,
                crd::OnGateFailure::Pause => OnGateFailure::Pause,
            },
            apply_deadline: spec.apply_deadline.duration(),
            hold_limit: spec.hold_limit.duration(),
            rollback_window: spec.rollback_window.map(|window| window.duration()),
            nodes: nodes.remove(&name).unwrap_or_default(),
            assignment: assignments.remove(&name),
        };
        Some((name, group))
    };
    stores.groups.state().into_iter().filter_map(read).collect()
}

fn assignment(object: &crd::Assignment) -> Option<Assignment> {
    let entries = object.spec.wire.entries.iter();
    let entries = entries.map(|entry| {
        let unit = ids::unit(entry.kind, &entry.namespace, &entry.name);
        let (revision, stable) = (entry.revision.as_ref().map(ids::digest), entry.stable.as_ref().map(ids::digest));
        (unit, Entry { revision, stable, since: entry.since })
    });
    Some(Assignment {
        resource_version: object.resource_version()?,
        generation: believed(object.spec.wire.generation),
        entries: entries.collect(),
    })
}

/// No operator gets this far. The next number of every group is higher than what any group shows: one that somebody
/// wrote into a single group must not use up the numbers of all.
const GENERATION_MAX: u64 = 1 << 52;

fn believed(generation: u64) -> u64 {
    if generation < GENERATION_MAX { generation } else { 0 }
}

/// By group, then by name.
fn nodes(stores: &Stores) -> BTreeMap<String, BTreeMap<String, Node>> {
    let mut groups: BTreeMap<String, BTreeMap<String, Node>> = BTreeMap::new();
    for object in stores.dataplane_nodes.state() {
        let name = object.name_any();
        let ready = stores.nodes.get(&ObjectRef::new(&name)).is_some_and(|node| node_ready(&node));
        let pods = live_pods(stores, &name, &object.spec.group);
        let report = object.status.as_ref().map(|status| &status.report);
        // A report outlives its pod: it counts only while a live pod stands behind it.
        let report = report.filter(|r| pods.iter().any(|pod| pod.name_any() == r.pod));
        let keeps = object.spec.keep_stable.iter();
        let node = Node {
            live: ready && !pods.is_empty(),
            report: report.map(read_report),
            resource_version: object.resource_version().unwrap_or_default(),
            joined_at: object.spec.joined_at.as_ref().map(times::from_micro),
            keeps_stable: keeps.map(|unit| ids::unit(unit.kind, &unit.namespace, &unit.name)).collect(),
        };
        groups.entry(object.spec.group.clone()).or_default().insert(name, node);
    }
    groups
}

fn read_report(report: &wire::NodeReport) -> NodeReport {
    let exception = |e: &wire::Exception| Exception {
        unit: ids::unit(e.kind, &e.namespace, &e.name),
        digest: ids::digest(&e.revision),
        kind: match e.reason {
            wire::ExceptionKind::Refused => ExceptionKind::Refused,
            wire::ExceptionKind::LocalTrouble => ExceptionKind::LocalTrouble,
        },
        message: e.message.clone(),
    };
    NodeReport {
        group: report.group.clone(),
        generation: report.applied_generation,
        exceptions: report.exceptions.iter().map(exception).collect(),
        unlisted: usize::try_from(report.exceptions_total).is_ok_and(|total| total > report.exceptions.len()),
        last_error: report.last_error.clone(),
    }
}

/// Whether the kubelet of a node answers.
#[must_use]
pub fn node_ready(node: &KubeNode) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

fn pod_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

/// The ready pods of the dataplane on a node, as members of a group.
fn live_pods(stores: &Stores, node: &str, group: &str) -> Vec<Arc<Pod>> {
    stores.pods.state_filter(|pod| {
        let label = |key: &str| pod.labels().get(key).map(String::as_str);
        label(labels::COMPONENT) == Some(labels::DATAPLANE)
            && label(labels::GROUP) == Some(group)
            && pod.spec.as_ref().and_then(|s| s.node_name.as_deref()) == Some(node)
            && pod.metadata.deletion_timestamp.is_none()
            && pod_ready(pod)
    })
}

/// The ready pod that stands behind a node's report.
#[must_use]
pub fn live_pod(stores: &Stores, node: &crd::DataplaneNode) -> Option<Arc<Pod>> {
    let report = &node.status.as_ref()?.report;
    live_pods(stores, &node.name_any(), &node.spec.group).into_iter().find(|pod| pod.name_any() == report.pod)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_generation_that_nobody_can_have_reached_uses_up_no_numbers() {
        let generation = |generation: u64| {
            let spec = json!({"format": 1, "environment": "staging", "generation": generation, "stages": [],
                "entries": ""});
            let object = json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "Assignment",
                "metadata": {"name": "canary", "resourceVersion": "1"}, "spec": spec});
            let object: crd::Assignment = serde_json::from_value(object).unwrap();
            assignment(&object).map(|assignment| assignment.generation)
        };
        assert_eq!(generation(4711), Some(4711));
        assert_eq!(generation((1 << 53) - 1), Some(0));
    }
}
