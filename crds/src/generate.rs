//! Writes the committed schemas: resource definitions and the manifests' JSON Schemas.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;

use crate::{
    Assignment, DataplaneNode, DeploymentGroup, Repository, Revision, Rollout, Unit,
    manifests::{BundleManifest, RoutesManifest, WorkerManifest},
};

/// JSON's numbers are exact up to here, whoever reads them.
const WHOLE_MAX: f64 = 9_007_199_254_740_991.0;

/// All resource definitions.
#[must_use]
pub fn definitions() -> Vec<CustomResourceDefinition> {
    let mut definitions = vec![
        Assignment::crd(),
        DataplaneNode::crd(),
        DeploymentGroup::crd(),
        Repository::crd(),
        Revision::crd(),
        Rollout::crd(),
        Unit::crd(),
    ];
    let versions = definitions.iter_mut().flat_map(|definition| &mut definition.spec.versions);
    let schemas = versions.filter_map(|version| version.schema.as_mut()?.open_api_v3_schema.as_mut());
    schemas.for_each(bound);
    definitions
}

/// What the API server lets in, the operator must be able to read: it checks limits, but no number's format.
fn bound(schema: &mut JSONSchemaProps) {
    let limits = match schema.format.as_deref() {
        Some("int32") => Some((f64::from(i32::MIN), f64::from(i32::MAX))),
        Some("uint32") => Some((0.0, f64::from(u32::MAX))),
        Some("int64") => Some((-WHOLE_MAX, WHOLE_MAX)),
        Some("uint64") => Some((0.0, WHOLE_MAX)),
        Some(_) | None => None,
    };
    if let Some((lowest, highest)) = limits {
        schema.minimum.get_or_insert(lowest);
        schema.maximum.get_or_insert(highest);
    }
    schema.properties.iter_mut().flat_map(|properties| properties.values_mut()).for_each(bound);
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => bound(items),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => items.iter_mut().for_each(bound),
        None => {}
    }
    match &mut schema.additional_properties {
        Some(JSONSchemaPropsOrBool::Schema(values)) => bound(values),
        Some(JSONSchemaPropsOrBool::Bool(_)) | None => {}
    }
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
