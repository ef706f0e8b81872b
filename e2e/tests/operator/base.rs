//! The state of a cluster to which rounds of a test return, so that each begins alike without a new cluster.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Result, ensure};
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams, PostParams},
    core::NamespaceResourceScope,
};
use sluice_crds::{Assignment, DataplaneNode, DeploymentGroup, Repository, Revision, Rollout, Unit};
use sluice_e2e::wait::{Look, until};

use crate::world::SYSTEM;

const LIMIT: Duration = Duration::from_secs(30);

/// Objects of one kind as they were.
struct Kept {
    resource: ApiResource,
    is_namespaced: bool,
    objects: BTreeMap<String, DynamicObject>,
}

/// All that operators wrote, as it was at one moment. No operator may run when it is restored.
pub(crate) struct Base {
    client: Client,
    kinds: Vec<Kept>,
}

impl Base {
    pub(crate) async fn keep(client: &Client) -> Result<Self> {
        // Nodes apply what Assignments say, so these come before what nodes report.
        let mut kinds = vec![kind::<Assignment>(), kind::<DataplaneNode>(), kind::<DeploymentGroup>()];
        kinds.extend([namespaced::<Unit>(), namespaced::<Rollout>(), namespaced::<Revision>()]);
        kinds.push(namespaced::<Repository>());
        for kept in &mut kinds {
            kept.objects = stored(client, &kept.resource).await?;
        }
        Ok(Self { client: client.clone(), kinds })
    }

    /// Makes everything be as it was, and waits until the nodes have followed.
    pub(crate) async fn restore(&self) -> Result<()> {
        self.remove_jobs().await?;
        for kept in &self.kinds {
            let mut present = stored(&self.client, &kept.resource).await?;
            for (key, wanted) in &kept.objects {
                self.put(kept, present.remove(key), wanted).await?;
            }
            for object in present.into_values() {
                self.api(kept, &object).delete(&object.name_any(), &DeleteParams::default()).await?;
            }
        }
        nodes_follow(&self.client).await
    }

    fn api(&self, kept: &Kept, object: &DynamicObject) -> Api<DynamicObject> {
        match object.namespace() {
            Some(namespace) if kept.is_namespaced => {
                Api::namespaced_with(self.client.clone(), &namespace, &kept.resource)
            }
            _ => Api::all_with(self.client.clone(), &kept.resource),
        }
    }

    async fn put(&self, kept: &Kept, present: Option<DynamicObject>, wanted: &DynamicObject) -> Result<()> {
        let (api, name, params) = (self.api(kept, wanted), wanted.name_any(), PostParams::default());
        let mut stored = match present {
            Some(present) => present,
            None => {
                let mut object = wanted.clone();
                object.metadata.resource_version = None;
                object.metadata.uid = None;
                api.create(&params, &object).await?
            }
        };
        for part in ["spec", "status"] {
            if stored.data[part] == wanted.data[part] {
                continue;
            }
            // A node may write its report at the same time.
            stored = until(&format!("{name} to be as it was"), LIMIT, || async {
                let mut object = api.get(&name).await?;
                object.data[part] = wanted.data[part].clone();
                let put = match part {
                    "spec" => api.replace(&name, &params, &object).await,
                    _ => api.replace_status(&name, &params, &object).await,
                };
                match put {
                    Ok(stored) => Ok(Look::Done(stored)),
                    Err(kube::Error::Api(error)) if error.is_conflict() => Ok(Look::NotYet(error.message.clone())),
                    Err(error) => Err(error.into()),
                }
            })
            .await?;
        }
        ensure!(stored.data["spec"] == wanted.data["spec"], "{name} is not as it was: {}", stored.data);
        Ok(())
    }

    /// Jobs have the same names in each round.
    async fn remove_jobs(&self) -> Result<()> {
        let jobs: Api<Job> = Api::namespaced(self.client.clone(), SYSTEM);
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), SYSTEM);
        let everything = ListParams::default();
        let of_gates = ListParams::default().labels("app.kubernetes.io/component=gate");
        jobs.delete_collection(&DeleteParams::background(), &everything).await?;
        until("Jobs to be gone", LIMIT, || async {
            let left = jobs.list(&everything).await?.items.len() + pods.list(&of_gates).await?.items.len();
            Ok(if left == 0 { Look::Done(()) } else { Look::NotYet(format!("{left} Jobs and pods are left")) })
        })
        .await
    }
}

fn kind<K: Resource<DynamicType = ()>>() -> Kept {
    Kept { resource: ApiResource::erase::<K>(&()), is_namespaced: false, objects: BTreeMap::new() }
}

fn namespaced<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>() -> Kept {
    Kept { is_namespaced: true, ..kind::<K>() }
}

async fn stored(client: &Client, resource: &ApiResource) -> Result<BTreeMap<String, DynamicObject>> {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), resource);
    let objects = api.list(&ListParams::default()).await?.items;
    Ok(objects.into_iter().map(|object| (object.name_any(), object)).collect())
}

/// Waits until every node reports what its group is told.
pub(crate) async fn nodes_follow(client: &Client) -> Result<()> {
    let nodes: Api<DataplaneNode> = Api::all(client.clone());
    let assignments: Api<Assignment> = Api::all(client.clone());
    until("every node to run what is assigned", LIMIT, || async {
        for node in nodes.list(&ListParams::default()).await? {
            let told = assignments.get_opt(&node.spec.group).await?.map_or(0, |a| a.spec.wire.generation);
            let runs = node.status.as_ref().map_or(0, |status| status.report.applied_generation);
            if runs != told {
                return Ok(Look::NotYet(format!("{} runs {runs}, not {told}", node.name_any())));
            }
        }
        Ok(Look::Done(()))
    })
    .await
}
