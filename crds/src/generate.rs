//! Writes the committed schemas: resource definitions and the manifests' JSON Schemas.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

use crate::{
    Assignment, DataplaneNode, DeploymentGroup, Repository, Revision, Rollout, Unit,
    manifests::{BundleManifest, RoutesManifest, WorkerManifest},
};

/// All resource definitions.
#[must_use]
pub fn definitions() -> Vec<CustomResourceDefinition> {
    vec![
        Assignment::crd(),
        DataplaneNode::crd(),
        DeploymentGroup::crd(),
        Repository::crd(),
        Revision::crd(),
        Rollout::crd(),
        Unit::crd(),
    ]
}

/// Name and content of every generated file.
///
/// # Errors
/// When a schema does not serialise, which a test would show.
pub fn files() -> Result<Vec<(String, String)>, Box<dyn std::error::Error>> {
    let mut files = Vec::new();
    for crd in definitions() {
        let name = format!("{}.yaml", crd.spec.names.plural);
        files.push((name, serde_saphyr::to_string(&crd)?));
    }
    let schemas = [
        ("worker.schema.json", schemars::schema_for!(WorkerManifest)),
        ("routes.schema.json", schemars::schema_for!(RoutesManifest)),
        ("config.schema.json", schemars::schema_for!(BundleManifest)),
    ];
    for (name, schema) in schemas {
        files.push((name.to_owned(), format!("{}\n", serde_json::to_string_pretty(&schema)?)));
    }
    Ok(files)
}
