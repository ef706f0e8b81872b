//! Clusters on one machine, made of real parts, for integration tests, scenario tests and the demo.
//!
//! [`Cluster::up`] gives a Kubernetes with nodes, each in namespaces of its own; [`parts`] holds the git server,
//! Prometheus, the application behind the workers and the traffic that tests send.

pub mod address;
mod cgroup;
pub mod cluster;
pub mod control_plane;
pub mod demo;
mod dns;
pub mod engine;
mod external;
pub mod figures;
pub mod image;
pub mod kubelet;
mod network;
mod node;
pub mod operators;
pub mod parts;
pub mod pki;
pub mod pods;
pub mod process;
pub mod rollouts;
pub mod run;
pub mod stage;
pub mod state;
pub mod team;
pub mod teardown;
pub mod tools;
pub mod wait;

pub use crate::{
    cluster::{Cluster, Options},
    image::Image,
    process::Spawn,
};
