//! The real parts around a cluster: git over HTTP, Prometheus, the application behind the workers, client traffic.

pub mod git_server;
pub mod prometheus;
pub mod targets;
pub mod traffic;
pub mod upstream;
