//! What git providers are told beside git: the statuses of commits.

mod dialect;

use sluice_crds::{CommitStatus, Provider};

use crate::source::{SourceError, Web};

pub use dialect::{State, Status};

/// What is shown of an answer.
const SAYS_CHARS_MAX: usize = 200;

/// Why a status cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// Where to is not allowed, or nobody answers there.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The URL of the repository has no owner and name.
    #[error("{0} does not end in an owner and a name: write https://host/owner/name into spec.url")]
    NoProject(String),
    /// 401, 403, or 404, with which providers hide what a token may not see.
    #[error(
        "{host} answers {status} ({says}): see that the token in the Secret is in force and may write commit statuses of this repository"
    )]
    Refused {
        /// Host of the API.
        host: String,
        /// The answer.
        status: u16,
        /// Its first characters.
        says: String,
    },
    /// Any other status.
    #[error("{host} answers {status} ({says}): check spec.commitStatus")]
    Answer {
        /// Host of the API.
        host: String,
        /// The answer.
        status: u16,
        /// Its first characters.
        says: String,
    },
}

impl ProviderError {
    /// In one word, for conditions.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Source(error) => error.reason(),
            Self::NoProject(_) => "NoProject",
            Self::Refused { .. } => "Refused",
            Self::Answer { .. } => "NotTaken",
        }
    }
}

/// One repository of a provider.
#[derive(Clone, Copy, Debug)]
pub struct Project<'a> {
    /// URL from which git is fetched.
    pub url: &'a str,
    /// Whose API, and where.
    pub api: &'a CommitStatus,
    /// What lets us in.
    pub token: &'a str,
}

/// Writes the status of a commit in its context; one that is there is replaced.
///
/// # Errors
/// See [`ProviderError`].
pub async fn tell(web: &Web, project: &Project<'_>, commit: &str, status: &Status) -> Result<(), ProviderError> {
    let request = dialect::write(project, commit, status)?;
    let authorization = dialect::authorization(project.api.provider, project.token);
    let (host, answer) = web.post(("spec.commitStatus.api", &request.url), authorization, &request.body).await?;
    let status = answer.status();
    if status.is_success() {
        return Ok(());
    }
    let text = answer.text().await.unwrap_or_default();
    // GitLab takes no status twice.
    if project.api.provider == Provider::GitLab && text.contains("Cannot transition status") {
        return Ok(());
    }
    let says: String = text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(SAYS_CHARS_MAX).collect();
    let status = status.as_u16();
    Err(match status {
        401 | 403 | 404 => ProviderError::Refused { host, status, says },
        _ => ProviderError::Answer { host, status, says },
    })
}
