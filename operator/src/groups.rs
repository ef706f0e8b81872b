//! What each group consists of in the cluster: a DaemonSet from the chart's template and a headless Service,
//! both owned by the DeploymentGroup, so that they go with it.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::{apps::v1::DaemonSet, core::v1::Service};
use kube::{Api, Resource, ResourceExt, runtime::reflector::ObjectRef};
use serde_json::{Value, json};
use sluice_config::{Digest, Environment};
use sluice_crds::DeploymentGroup;

use crate::{
    config::Config,
    labels,
    observe::node_ready,
    stores::Stores,
    writer::{WriteError, Writer},
};

/// Key of the template in its ConfigMap.
pub const TEMPLATE_KEY: &str = "daemonset.yaml";

/// Why a group has no DaemonSet.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// The chart's ConfigMap is not there.
    #[error("ConfigMap {name} with key {TEMPLATE_KEY} is missing: install it with the chart")]
    NoTemplate {
        /// Its name.
        name: String,
    },
    /// It is no DaemonSet.
    #[error("the template of DaemonSets cannot be read: {0}")]
    Template(String),
    /// Another version of the dataplane goes the way of everything else: lowest impact first.
    #[error("its dataplane is replaced once group {0} runs the new one")]
    Waits(String),
    /// A write failed.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Makes groups' objects be as they should.
#[derive(Debug)]
pub struct Groups {
    namespace: String,
    template: String,
    group_label: String,
    /// What was applied last, and as which generation it is stored: the API server adds defaults, so that
    /// what is stored never equals what was applied.
    applied: BTreeMap<String, (Digest, Option<i64>)>,
}

impl Groups {
    /// As flags say.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self {
            namespace: config.namespace.clone(),
            template: config.dataplane_template.clone(),
            group_label: config.group_label.clone(),
            applied: BTreeMap::new(),
        }
    }

    /// Applies what differs. One group's trouble does not keep another from being served; another template goes
    /// to a group only when all that come before it run it: staging first, then by order.
    pub async fn ensure(&mut self, writer: &Writer, stores: &Stores) -> BTreeMap<String, GroupError> {
        let mut errors = BTreeMap::new();
        let mut groups = stores.groups.state();
        groups.retain(|group| group.metadata.deletion_timestamp.is_none());
        let place = |group: &DeploymentGroup| (group.spec.environment == Environment::Production, group.spec.order);
        groups.sort_by_key(|group| (place(group), group.name_any()));
        for group in &groups {
            let mut earlier = groups.iter().filter(|other| place(other) < place(group));
            let waits_for = earlier.find(|other| !self.runs_template(stores, other)).map(|other| other.name_any());
            if let Err(error) = self.ensure_one(writer, stores, group, waits_for).await {
                errors.insert(group.name_any(), error);
            }
        }
        errors
    }

    /// The template, as an annotation of what was made from it.
    fn template_digest(&self, stores: &Stores) -> Option<String> {
        let template = stores.templates.get(&ObjectRef::new(&self.template).within(&self.namespace))?;
        let text = template.data.as_ref()?.get(TEMPLATE_KEY)?;
        Some(Digest::of(text.as_bytes()).short().to_owned())
    }

    fn stored_set(&self, stores: &Stores, group: &DeploymentGroup) -> Option<Arc<DaemonSet>> {
        let name = format!("sluice-dataplane-{}", group.name_any());
        stores.daemon_sets.get(&ObjectRef::new(&name).within(&self.namespace))
    }

    /// Whether every pod of a group is of the present template, and available.
    fn runs_template(&self, stores: &Stores, group: &DeploymentGroup) -> bool {
        let Some(set) = self.stored_set(stores, group) else { return false };
        let name = group.name_any();
        let lost =
            stores.nodes.state_filter(|node| node.labels().get(&self.group_label) == Some(&name) && !node_ready(node));
        let lost = i32::try_from(lost.len()).unwrap_or(i32::MAX);
        is_of_template(&set, self.template_digest(stores).as_deref()) && is_rolled_out(&set, lost)
    }

    async fn ensure_one(
        &mut self,
        writer: &Writer,
        stores: &Stores,
        group: &DeploymentGroup,
        waits_for: Option<String>,
    ) -> Result<(), GroupError> {
        let name = format!("sluice-group-{}", group.name_any());
        let service = self.service(&name, group);
        let live = stores.services.get(&ObjectRef::new(&name).within(&self.namespace));
        if self.differs(&format!("Service {name}"), &service, live.as_deref(), None) {
            let api: Api<Service> = Api::namespaced(writer.client().clone(), &self.namespace);
            let stored = writer.apply(&api, &stores.services, &name, &service).await?;
            self.remember(&format!("Service {name}"), &service, stored.metadata.generation);
        }
        let live = self.stored_set(stores, group);
        if let (Some(live), Some(other)) = (&live, waits_for)
            && !is_of_template(live, self.template_digest(stores).as_deref())
        {
            return Err(GroupError::Waits(other));
        }
        let (name, set) = self.daemon_set(stores, group)?;
        let generation = live.as_ref().and_then(|live| live.metadata.generation);
        if self.differs(&format!("DaemonSet {name}"), &set, live.as_deref(), generation) {
            let api: Api<DaemonSet> = Api::namespaced(writer.client().clone(), &self.namespace);
            let stored = writer.apply(&api, &stores.daemon_sets, &name, &set).await?;
            self.remember(&format!("DaemonSet {name}"), &set, stored.metadata.generation);
        }
        Ok(())
    }

    /// Whether something else is stored than what we want. What we applied ourselves, unchanged since, is the
    /// same; otherwise every field that we want must be there as we want it.
    fn differs<K: serde::Serialize>(
        &self,
        key: &str,
        wanted: &Value,
        live: Option<&K>,
        generation: Option<i64>,
    ) -> bool {
        let Some(live) = live.and_then(|live| serde_json::to_value(live).ok()) else { return true };
        let same = self.applied.get(key).is_some_and(|(digest, stored)| {
            *digest == Digest::of(wanted.to_string().as_bytes()) && stored.is_some() && *stored == generation
        });
        !same && !holds(&live, wanted)
    }

    fn remember(&mut self, key: &str, wanted: &Value, generation: Option<i64>) {
        let digest = Digest::of(wanted.to_string().as_bytes());
        self.applied.insert(key.to_owned(), (digest, generation));
    }

    fn metadata(&self, name: &str, group: &DeploymentGroup) -> Value {
        json!({
            "name": name,
            "namespace": self.namespace,
            "labels": {
                labels::MANAGED_BY.0: labels::MANAGED_BY.1,
                labels::COMPONENT: labels::DATAPLANE,
                labels::GROUP: group.name_any(),
                labels::ENVIRONMENT: group.spec.environment.as_str(),
            },
            "ownerReferences": group.controller_owner_ref(&()).map(|owner| vec![owner]),
        })
    }

    /// Reaches the pods of one group: what gates use.
    fn service(&self, name: &str, group: &DeploymentGroup) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": self.metadata(name, group),
            "spec": {
                "clusterIP": "None",
                "selector": {labels::COMPONENT: labels::DATAPLANE, labels::GROUP: group.name_any()},
                "ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}],
            },
        })
    }

    fn daemon_set(&self, stores: &Stores, group: &DeploymentGroup) -> Result<(String, Value), GroupError> {
        let template = stores.templates.get(&ObjectRef::new(&self.template).within(&self.namespace));
        let text = template.as_ref().and_then(|map| map.data.as_ref()?.get(TEMPLATE_KEY));
        let text = text.ok_or_else(|| GroupError::NoTemplate { name: self.template.clone() })?;
        let group_name = group.name_any();
        let digest = Digest::of(text.as_bytes());
        let text = text.replace("${GROUP}", &group_name).replace("${ENVIRONMENT}", group.spec.environment.as_str());
        let set: DaemonSet = serde_saphyr::from_str(&text).map_err(|e| GroupError::Template(e.to_string()))?;
        let mut set = serde_json::to_value(set).map_err(|e| GroupError::Template(e.to_string()))?;
        let name = format!("sluice-dataplane-{group_name}");
        set["apiVersion"] = json!("apps/v1");
        set["kind"] = json!("DaemonSet");
        // What a group's pods are does not depend on what the template says.
        merge(&mut set["metadata"], &self.metadata(&name, group));
        merge(&mut set["metadata"]["annotations"], &json!({labels::TEMPLATE: digest.short()}));
        let identity = json!({
            labels::MANAGED_BY.0: labels::MANAGED_BY.1,
            labels::COMPONENT: labels::DATAPLANE,
            labels::GROUP: group_name,
            labels::ENVIRONMENT: group.spec.environment.as_str(),
        });
        merge(&mut set["spec"]["template"]["metadata"]["labels"], &identity);
        merge(&mut set["spec"]["template"]["spec"]["nodeSelector"], &json!({&self.group_label: group_name}));
        let selector = json!({labels::COMPONENT: labels::DATAPLANE, labels::GROUP: group_name});
        merge(&mut set["spec"]["selector"]["matchLabels"], &selector);
        if let Some(set) = set.as_object_mut() {
            set.remove("status");
        }
        Ok((name, set))
    }
}

fn is_of_template(set: &DaemonSet, digest: Option<&str>) -> bool {
    digest.is_some() && set.annotations().get(labels::TEMPLATE).map(String::as_str) == digest
}

/// Whether the DaemonSet's controller has seen the newest generation and replaced every pod by an available one,
/// but for those of lost nodes, which nobody waits for.
fn is_rolled_out(set: &DaemonSet, lost: i32) -> bool {
    let Some(status) = &set.status else { return false };
    let wanted = status.desired_number_scheduled.saturating_sub(lost);
    status.observed_generation == set.metadata.generation
        && status.updated_number_scheduled.unwrap_or(0) >= wanted
        && status.number_available.unwrap_or(0) >= wanted
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

/// Whether every field of `wanted` is in `stored`; lists must have the same length.
fn holds(stored: &Value, wanted: &Value) -> bool {
    match (stored, wanted) {
        (Value::Object(stored), Value::Object(wanted)) => wanted.iter().all(|(key, value)| match stored.get(key) {
            Some(stored) => holds(stored, value),
            // Left out where it is empty.
            None => value.is_null() || value.as_object().is_some_and(serde_json::Map::is_empty),
        }),
        (Value::Array(stored), Value::Array(wanted)) => {
            stored.len() == wanted.len() && stored.iter().zip(wanted).all(|(stored, wanted)| holds(stored, wanted))
        }
        (stored, wanted) => stored == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_api_server_added_is_no_difference() {
        let wanted = json!({"spec": {"ports": [{"port": 80}], "labels": {}}});
        assert!(holds(&json!({"spec": {"ports": [{"port": 80, "protocol": "TCP"}], "x": 1}, "status": {}}), &wanted));
        assert!(!holds(&json!({"spec": {"ports": [{"port": 81}]}}), &wanted));
        assert!(!holds(&json!({"spec": {"ports": [{"port": 80}, {"port": 81}]}}), &wanted));
        assert!(!holds(&json!({}), &wanted));
    }

    #[test]
    fn what_we_want_replaces_what_the_template_says() {
        let mut set = json!({"labels": {"a": "1", "group": "other"}});
        merge(&mut set, &json!({"labels": {"group": "canary"}, "selector": {"x": "y"}}));
        assert_eq!(set, json!({"labels": {"a": "1", "group": "canary"}, "selector": {"x": "y"}}));
    }

    #[test]
    fn a_group_has_a_template_when_every_pod_is_of_it_and_available() {
        let set = |updated: i32, available: i32, seen: i64| -> DaemonSet {
            serde_json::from_value(json!({
                "metadata": {"generation": 4, "annotations": {labels::TEMPLATE: "9f2c1a77"}},
                "status": {"desiredNumberScheduled": 3, "updatedNumberScheduled": updated, "numberAvailable": available,
                    "observedGeneration": seen, "currentNumberScheduled": 3, "numberMisscheduled": 0, "numberReady": 3},
            }))
            .unwrap()
        };
        assert!(is_rolled_out(&set(3, 3, 4), 0));
        assert!(!is_rolled_out(&set(2, 3, 4), 0) && !is_rolled_out(&set(3, 2, 4), 0));
        assert!(!is_rolled_out(&set(3, 3, 3), 0), "the controller has not looked yet");
        assert!(is_rolled_out(&set(2, 2, 4), 1), "a lost node is not waited for");
        assert!(is_of_template(&set(3, 3, 4), Some("9f2c1a77")) && !is_of_template(&set(3, 3, 4), Some("00000000")));
        assert!(!is_of_template(&DaemonSet::default(), None));
    }
}
