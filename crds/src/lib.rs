//! Custom resources of `sluice.dev/v1alpha1`, one kind a file, and what users write in repositories.
//!
//! `cargo run -p sluice-crds -- crds/yaml` writes the resource definitions and the manifests' JSON
//! Schemas; a test holds the committed files against the types.
#![warn(missing_docs)]

pub mod generate;
pub mod manifests;
pub mod quantities;
pub mod resources;

pub use resources::*;

/// API group of all kinds.
pub const GROUP: &str = "sluice.dev";
/// Version of all kinds.
pub const VERSION: &str = "v1alpha1";
