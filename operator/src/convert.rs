//! Between custom resources and the planner's types. What the planner wrote comes back unchanged.

pub mod gates;
pub mod ids;
pub mod memory;
pub mod rollout;
