//! The demo: workers travel from a `git push` through staging and four production groups, a bad one is caught and
//! taken back by itself. Every sentence that it prints is checked; it fails where something is not as told.

mod clients;
mod measure;
mod scenery;
mod story;
mod watch;

pub use clients::{Clients, WORKER_HEADER};
pub use scenery::{Version, groups, publish_headers, publish_request_id, publish_route};
pub use story::{Ending, tell};
