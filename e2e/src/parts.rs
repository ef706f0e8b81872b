//! The real parts around a cluster: git over HTTP, Prometheus, the application behind the workers, client traffic; and a
//! proxy that breaks what stands before the API server.

pub mod api_proxy;
pub mod git_server;
pub mod prometheus;
pub mod targets;
pub mod traffic;
pub mod upstream;
