//! One request to a node's admin listener. What a node answers is not trusted.

use std::{net::SocketAddr, time::Duration};

use sluice_config::{Counters, FORMAT};

/// A node that does not answer within this is read again in the next round.
const TIMEOUT: Duration = Duration::from_millis(900);
/// About ten times what 1,000 units take.
const BYTES_MAX: usize = 8 << 20;

/// Why a node's counters could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// No answer, or none in time.
    #[error("no answer: {0}")]
    Http(#[from] reqwest::Error),
    /// Too much.
    #[error("the answer is over {BYTES_MAX} bytes")]
    TooLarge,
    /// Not what counters look like.
    #[error("the answer cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// A later version.
    #[error("the node speaks format {0}, this operator up to {FORMAT}")]
    Format(u32),
}

/// A client for admin listeners: short waits, no proxy, no redirects.
///
/// # Errors
/// When no client can be made at all.
pub fn client() -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .timeout(TIMEOUT)
        .connect_timeout(TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()
}

/// The counters of one node.
///
/// # Errors
/// No answer, or one that is too large or cannot be read.
pub(super) async fn counters(http: &reqwest::Client, address: SocketAddr) -> Result<Counters, ReadError> {
    let mut answer = http.get(format!("http://{address}/counters")).send().await?.error_for_status()?;
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        if bytes.len() + chunk.len() > BYTES_MAX {
            return Err(ReadError::TooLarge);
        }
        bytes.extend_from_slice(&chunk);
    }
    let counters: Counters = serde_json::from_slice(&bytes)?;
    if counters.format > FORMAT { Err(ReadError::Format(counters.format)) } else { Ok(counters) }
}
