//! Who may fetch artifacts: service accounts whose tokens Kubernetes vouches for.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::{Api, Client, api::PostParams};
use sluice_config::Digest;
use tokio::sync::Semaphore;

/// Audience that tokens must be for: one for the API server is refused here, and this one there.
pub const AUDIENCE: &str = "sluice-artifacts";

/// A review is believed this long; a revoked token ends within it.
const BELIEVED_FOR: Duration = Duration::from_secs(60);
/// Tokens that are remembered.
const REMEMBERED_MAX: usize = 10_000;
/// Reviews asked of the API server at one time, whatever strangers send.
const REVIEWS_MAX: usize = 8;
/// Longer than any token of Kubernetes.
const TOKEN_BYTES_MAX: usize = 8 << 10;
/// How long a caller waits for the API server.
const REVIEW_TIMEOUT: Duration = Duration::from_secs(10);

/// A caller that Kubernetes vouches for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// `system:serviceaccount:<namespace>:<name>`.
    pub username: String,
}

/// The API server cannot tell now.
#[derive(Debug, thiserror::Error)]
#[error("tokens cannot be reviewed: {0}")]
pub struct ReviewError(pub String);

/// Asks whose token it is. A trait only so that tests need no cluster.
#[async_trait]
pub trait ReviewTokens: Send + Sync {
    /// Whose token for [`AUDIENCE`] this is; `None` if nobody's.
    async fn review(&self, token: &str) -> Result<Option<Caller>, ReviewError>;
}

/// Asks the API server.
pub struct KubeReviewer {
    api: Api<TokenReview>,
}

impl KubeReviewer {
    /// Reviews with this client, which needs `create` on `tokenreviews`.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { api: Api::all(client) }
    }
}

#[async_trait]
impl ReviewTokens for KubeReviewer {
    async fn review(&self, token: &str) -> Result<Option<Caller>, ReviewError> {
        let review = TokenReview {
            spec: TokenReviewSpec { token: Some(token.to_owned()), audiences: Some(vec![AUDIENCE.to_owned()]) },
            ..TokenReview::default()
        };
        let review = self.api.create(&PostParams::default(), &review).await.map_err(|e| ReviewError(e.to_string()))?;
        let status = review.status.unwrap_or_default();
        // A server that ignores audiences names none: then the token is for itself, not for us.
        let for_us = status.audiences.unwrap_or_default().iter().any(|a| a == AUDIENCE);
        let username = status.user.and_then(|user| user.username);
        Ok(username.filter(|_| for_us && status.authenticated == Some(true)).map(|username| Caller { username }))
    }
}

/// What a request may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Allowed,
    Unauthenticated,
    Forbidden,
    /// Ask again later.
    Unknown,
}

/// Decides, and remembers for a while whom it let in.
pub(super) struct Doorkeeper {
    reviewer: Arc<dyn ReviewTokens>,
    callers: BTreeSet<String>,
    believed: Mutex<BTreeMap<Digest, Instant>>,
    reviews: Semaphore,
}

impl Doorkeeper {
    pub(super) fn new(reviewer: Arc<dyn ReviewTokens>, callers: BTreeSet<String>) -> Self {
        Self { reviewer, callers, believed: Mutex::default(), reviews: Semaphore::new(REVIEWS_MAX) }
    }

    /// What the holder of a token may do.
    pub(super) async fn decide(&self, token: Option<&str>) -> Decision {
        let Some(token) = token.filter(|t| !t.is_empty() && t.len() <= TOKEN_BYTES_MAX) else {
            return Decision::Unauthenticated;
        };
        // The digest, so that no token lies in memory longer than its request.
        let digest = Digest::of(token.as_bytes());
        if self.is_believed(&digest) {
            return Decision::Allowed;
        }
        let Ok(_turn) = self.reviews.acquire().await else { return Decision::Unknown };
        if self.is_believed(&digest) {
            return Decision::Allowed;
        }
        match tokio::time::timeout(REVIEW_TIMEOUT, self.reviewer.review(token)).await {
            Ok(Ok(Some(caller))) if self.callers.contains(&caller.username) => {
                self.believe(digest);
                Decision::Allowed
            }
            Ok(Ok(Some(_))) => Decision::Forbidden,
            Ok(Ok(None)) => Decision::Unauthenticated,
            Ok(Err(error)) => {
                tracing::warn!(%error, "artifact request not decided");
                Decision::Unknown
            }
            Err(_) => Decision::Unknown,
        }
    }

    fn is_believed(&self, digest: &Digest) -> bool {
        let believed = self.believed.lock().unwrap_or_else(PoisonError::into_inner);
        believed.get(digest).is_some_and(|since| since.elapsed() < BELIEVED_FOR)
    }

    fn believe(&self, digest: Digest) {
        let mut believed = self.believed.lock().unwrap_or_else(PoisonError::into_inner);
        if believed.len() >= REMEMBERED_MAX {
            believed.retain(|_, since| since.elapsed() < BELIEVED_FOR);
        }
        if believed.len() < REMEMBERED_MAX {
            believed.insert(digest, Instant::now());
        }
    }
}
