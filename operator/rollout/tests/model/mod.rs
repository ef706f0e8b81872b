//! The planner's surroundings as a state machine: every order of events within some bounds is tried.

pub mod check;
pub mod events;
pub mod happens;
pub mod hash;
pub mod operator;
pub mod promises;
pub mod rest;
pub mod setting;
pub mod state;
pub mod writes;
