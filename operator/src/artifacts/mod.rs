//! Artifacts on this replica: kept by digest, served to nodes over HTTPS, fetched from peers or git.
//!
//! ```text
//! let store = Store::open(dir).await?;                          // verified when written and when read
//! let identity = Identity::establish(&client, namespace, names).await?; // Secret, ConfigMap `sluice-artifacts-ca`
//! tokio::spawn(identity.clone().keep_fresh(client, …));
//! tokio::spawn(serve(listener, ServeOptions { … }, shutdown));
//! let supply = Supply::new(store, Some(peers), source);
//! supply.ensure(&artifact, Some(&from)).await?;                 // disk, else a peer, else git
//! ready = store.missing(&assigned).is_empty();
//! store.collect(needed).await?;                                 // keeps exactly these
//! ```

mod auth;
mod authority;
mod ca;
mod peers;
mod server;
mod store;
mod supply;

pub use auth::{AUDIENCE, Caller, KubeReviewer, ReviewError, ReviewTokens};
pub use authority::{Authorities, Authority, AuthorityError, Issued};
pub use ca::{CA_NAME, CaError, Identity};
pub use peers::{PeerError, Peers};
pub use server::{ServeOptions, serve};
pub use store::{Store, StoreError};
pub use supply::{FromGit, Supplied, Supply, SupplyError};
