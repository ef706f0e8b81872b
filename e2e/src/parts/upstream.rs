//! The HTTP application behind the workers, as a Deployment and a Service; tests can make it fail.

use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{Api, api::ListParams};
use serde_json::{Value, json};

use crate::{
    cluster::Cluster,
    image::{Image, UPSTREAM},
    tools,
    wait::{Look, until},
};

/// The port that the application and its Service listen on.
pub const PORT: u16 = 8080;

const READY_LIMIT: Duration = Duration::from_secs(60);

/// The image of the `upstream` binary beside the running program.
pub fn image() -> Result<Image> {
    Image::of_program(UPSTREAM, &tools::own_binary("upstream")?)
}

/// Deployment and Service of one application: `<name>.<namespace>.svc:8080`.
pub fn manifest(namespace: &str, name: &str, replicas: u8) -> Value {
    let labels = json!({"app.kubernetes.io/name": name});
    let metadata = json!({"name": name, "namespace": namespace, "labels": labels});
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {
            "selector": labels,
            "ports": [{"name": "http", "port": PORT, "targetPort": PORT}],
        }},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {
                "automountServiceAccountToken": false,
                "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [{
                    "name": "upstream",
                    "image": UPSTREAM,
                    "imagePullPolicy": "Never",
                    "env": [
                        {"name": "UPSTREAM_NAME", "value": name},
                        {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    ],
                    "ports": [{"name": "http", "containerPort": PORT}],
                    // Without a share of the CPU, whatever else the machine does makes it slow, and the proxies get the blame.
                    "resources": {"requests": {"cpu": "100m", "memory": "16Mi"}},
                    "readinessProbe": {"httpGet": {"path": "/upstream/ready", "port": PORT}, "periodSeconds": 1},
                    "securityContext": {
                        "allowPrivilegeEscalation": false,
                        "capabilities": {"drop": ["ALL"]},
                        "readOnlyRootFilesystem": true,
                    },
                }],
            }},
        }},
    ]})
}

/// Imports the image, deploys, and waits until all replicas are ready.
pub async fn deploy(cluster: &Cluster, namespace: &str, name: &str, replicas: u8) -> Result<()> {
    cluster.import_image(&image()?).await?;
    cluster.apply(&manifest(namespace, name, replicas)).await?;
    let deployments: Api<Deployment> = Api::namespaced(cluster.client().await?, namespace);
    until(&format!("{namespace}/{name}"), READY_LIMIT, || async {
        let status = deployments.get(name).await?.status.unwrap_or_default();
        let ready = status.ready_replicas.unwrap_or_default();
        Ok(if ready >= i32::from(replicas) { Look::Done(()) } else { Look::NotYet(format!("{ready} pods are ready")) })
    })
    .await
}

/// Makes every pod of an application answer with this status until told otherwise; 200 ends it.
pub async fn set_status(cluster: &Cluster, namespace: &str, name: &str, status: u16) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(cluster.client().await?, namespace);
    let list = pods.list(&ListParams::default().labels(&format!("app.kubernetes.io/name={name}"))).await?;
    for pod in list.items {
        let ip = pod.status.and_then(|status| status.pod_ip).context("a pod of the application has no address yet")?;
        let url = format!("http://{ip}:{PORT}/upstream/status?{status}");
        reqwest::Client::new().post(url).send().await?.error_for_status()?;
    }
    Ok(())
}
