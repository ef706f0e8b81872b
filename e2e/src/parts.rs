//! The real parts around a cluster: git over HTTP, Prometheus, the application behind the workers, client traffic; and
//! what stands in between: a proxy before the API server that breaks things, a tap that looks.

pub mod api_proxy;
pub mod git_server;
pub mod prometheus;
pub mod tap;
pub mod targets;
pub mod traffic;
pub mod upstream;
