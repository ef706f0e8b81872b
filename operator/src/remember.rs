//! The planner's memory of units, in Units' specs. What branches want is written by [`crate::publish`].

use std::collections::BTreeMap;

use kube::ResourceExt;
use sluice_crds::Unit;
use sluice_rollout::{Environment, UnitId, UnitMemory};

use crate::{
    convert::{ids, memory},
    execute::{Hands, conflict, version},
    writer::WriteError,
};

/// Replaces what is remembered, under the version that the plan saw.
///
/// # Errors
/// A conflict, or what the API server said.
pub async fn update(
    hands: &Hands,
    id: &UnitId,
    resource_version: &str,
    memories: &BTreeMap<Environment, UnitMemory>,
) -> Result<String, WriteError> {
    let unit_ref = ids::wire_unit(id);
    let stored = hands.stores.unit(&unit_ref);
    let stored = stored.filter(|unit| unit.resource_version().as_deref() == Some(resource_version));
    let mut unit = Unit::clone(&*stored.ok_or_else(|| conflict("Unit", &unit_ref.object_name()))?);
    for (environment, remembered) in memories {
        let environments = &mut unit.spec.environments;
        memory::write(
            remembered,
            match environment {
                Environment::Staging => &mut environments.staging,
                Environment::Production => &mut environments.production,
            },
        );
    }
    let written = hands.writer.replace(&hands.api(&id.namespace), &hands.stores.units, unit).await?;
    Ok(version(&written))
}
