//! What each group consists of in the cluster: a DaemonSet from the chart's template and a headless Service,
//! both owned by the DeploymentGroup, so that they go with it.

use std::collections::BTreeMap;

use k8s_openapi::api::{apps::v1::DaemonSet, core::v1::Service};
use kube::{Api, Resource, ResourceExt, runtime::reflector::ObjectRef};
use serde_json::{Value, json};
use sluice_config::Digest;
use sluice_crds::DeploymentGroup;

use crate::{
    config::Config,
    labels,
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

    /// Applies what differs. One group's trouble does not keep another from being served.
    pub async fn ensure(&mut self, writer: &Writer, stores: &Stores) -> BTreeMap<String, GroupError> {
        let mut errors = BTreeMap::new();
        for group in stores.groups.state() {
            if group.metadata.deletion_timestamp.is_none()
                && let Err(error) = self.ensure_one(writer, stores, &group).await
            {
                errors.insert(group.name_any(), error);
            }
        }
        errors
    }

    async fn ensure_one(
        &mut self,
        writer: &Writer,
        stores: &Stores,
        group: &DeploymentGroup,
    ) -> Result<(), GroupError> {
        let name = format!("sluice-group-{}", group.name_any());
        let service = self.service(&name, group);
        let live = stores.services.get(&ObjectRef::new(&name).within(&self.namespace));
        if self.differs(&format!("Service {name}"), &service, live.as_deref(), None) {
            let api: Api<Service> = Api::namespaced(writer.client().clone(), &self.namespace);
            let stored = writer.apply(&api, &stores.services, &name, &service).await?;
            self.remember(&format!("Service {name}"), &service, stored.metadata.generation);
        }
        let (name, set) = self.daemon_set(stores, group)?;
        let live = stores.daemon_sets.get(&ObjectRef::new(&name).within(&self.namespace));
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
        let text = text.replace("${GROUP}", &group_name).replace("${ENVIRONMENT}", group.spec.environment.as_str());
        let set: DaemonSet = serde_saphyr::from_str(&text).map_err(|e| GroupError::Template(e.to_string()))?;
        let mut set = serde_json::to_value(set).map_err(|e| GroupError::Template(e.to_string()))?;
        let name = format!("sluice-dataplane-{group_name}");
        set["apiVersion"] = json!("apps/v1");
        set["kind"] = json!("DaemonSet");
        // What a group's pods are does not depend on what the template says.
        merge(&mut set["metadata"], &self.metadata(&name, group));
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
}
