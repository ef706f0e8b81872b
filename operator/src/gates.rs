//! What is measured for gates: nodes' counters, Prometheus, Jobs. Nothing is judged here.

pub mod counters;
pub mod jobs;
pub mod measure;
pub mod prometheus;
pub mod promql;
