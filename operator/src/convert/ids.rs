//! Units, digests, environments, and the names of objects.

use kube::ResourceExt;
use sluice_config as wire;
use sluice_rollout::{Digest, Environment, RolloutId, Target, UnitId, UnitKind};

/// A kind, as the planner knows it.
#[must_use]
pub fn kind(kind: wire::UnitKind) -> UnitKind {
    match kind {
        wire::UnitKind::Worker => UnitKind::Worker,
        wire::UnitKind::Routes => UnitKind::Routes,
        wire::UnitKind::Config => UnitKind::Config,
    }
}

/// A kind, as it is stored.
#[must_use]
pub fn wire_kind(kind: UnitKind) -> wire::UnitKind {
    match kind {
        UnitKind::Worker => wire::UnitKind::Worker,
        UnitKind::Routes => wire::UnitKind::Routes,
        UnitKind::Config => wire::UnitKind::Config,
    }
}

/// A unit, as the planner knows it.
#[must_use]
pub fn unit(of: wire::UnitKind, namespace: &str, name: &str) -> UnitId {
    UnitId { kind: kind(of), namespace: namespace.to_owned(), name: name.to_owned() }
}

/// A unit, as it is stored.
#[must_use]
pub fn wire_unit(unit: &UnitId) -> wire::UnitRef {
    wire::UnitRef::new(wire_kind(unit.kind), unit.namespace.clone(), unit.name.clone())
}

/// The unit that an object is the memory of, as its name says.
#[must_use]
pub fn unit_of(object: &sluice_crds::Unit) -> Option<UnitId> {
    let named = wire::UnitRef::of_object(&object.namespace()?, &object.name_any())?;
    Some(unit(named.kind, &named.namespace, &named.name))
}

/// An environment, as the planner knows it.
#[must_use]
pub fn environment(environment: wire::Environment) -> Environment {
    match environment {
        wire::Environment::Staging => Environment::Staging,
        wire::Environment::Production => Environment::Production,
    }
}

/// An environment, as it is stored.
#[must_use]
pub fn wire_environment(environment: Environment) -> wire::Environment {
    match environment {
        Environment::Staging => wire::Environment::Staging,
        Environment::Production => wire::Environment::Production,
    }
}

/// A digest, as the planner knows it.
///
/// # Panics
/// Never: both types hold 64 lower-case hex digits and nothing else.
#[must_use]
pub fn digest(digest: &wire::Digest) -> Digest {
    digest.as_str().parse().expect("a digest is 64 hex digits on both sides")
}

/// A digest, as it is stored.
///
/// # Panics
/// Never: both types hold 64 lower-case hex digits and nothing else.
#[must_use]
pub fn wire_digest(digest: &Digest) -> wire::Digest {
    digest.as_str().parse().expect("a digest is 64 hex digits on both sides")
}

/// What an absent digest stands for: a removal.
#[must_use]
pub fn target(stored: Option<&wire::Digest>) -> Target {
    Target::from(stored.map(digest))
}

/// The digest of a target, as it is stored.
#[must_use]
pub fn wire_target(target: &Target) -> Option<wire::Digest> {
    target.digest().map(wire_digest)
}

/// A rollout by its name.
#[must_use]
pub fn rollout(namespace: &str, name: &str) -> RolloutId {
    RolloutId { namespace: namespace.to_owned(), name: name.to_owned() }
}
