//! What git providers are told beside git: the statuses of commits.

mod dialect;

use std::{error::Error, time::Duration};

use sluice_crds::{CommitStatus, Provider};

use crate::source::{SourceError, Web};

pub use dialect::{State, Status};

/// Of one request, its answer included.
const TIMEOUT: Duration = Duration::from_secs(20);
/// What is shown of an answer.
const SAYS_CHARS_MAX: usize = 200;

/// Why a status cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// Where to is not known, or not allowed.
    #[error(transparent)]
    Address(#[from] SourceError),
    /// The URL of the repository has no owner and name.
    #[error("{0} does not end in an owner and a name: nobody knows which repository of the provider it is")]
    NoProject(String),
    /// No answer.
    #[error("{host} cannot be reached ({reason}): check spec.commitStatus.api, DNS and network policies")]
    Unreachable {
        /// Host of the API.
        host: String,
        /// What went wrong below.
        reason: String,
    },
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
            Self::Address(_) | Self::NoProject(_) => "BadAddress",
            Self::Unreachable { .. } => "Unreachable",
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
    let host = web.check("spec.commitStatus.api", &request.url)?;
    let (header, value) = dialect::authorization(project.api.provider, project.token);
    let sent = web.client().post(&request.url).timeout(TIMEOUT).header(header, value).json(&request.body).send().await;
    let answer = sent.map_err(|error| unreachable(&host, &error))?;
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

fn unreachable(host: &str, error: &reqwest::Error) -> ProviderError {
    let mut cause: &dyn Error = error;
    // The innermost cause says it best.
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    ProviderError::Unreachable { host: host.to_owned(), reason: cause.to_string().chars().take(160).collect() }
}
