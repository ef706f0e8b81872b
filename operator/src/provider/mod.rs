//! What git providers are told beside git: the statuses of commits, and pull requests.

mod dialect;

use sluice_crds::{CommitStatus, Provider};

use crate::source::{SourceError, Web};

pub use dialect::{PullRequest, State, Status};

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
        "{host} answers {status} ({says}): see that the token in the Secret is in force and may {needs} in this repository"
    )]
    Refused {
        /// Host of the API.
        host: String,
        /// The answer.
        status: u16,
        /// Its first characters.
        says: String,
        /// What the token has to be allowed.
        needs: &'static str,
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
    match send(web, project, &request, "write commit statuses").await {
        // GitLab takes no status twice.
        Err(ProviderError::Answer { says, .. })
            if project.api.provider == Provider::GitLab && says.contains("Cannot transition status") =>
        {
            Ok(())
        }
        done => done.map(drop),
    }
}

/// Opens a pull request; one of that branch that is open already will do. The page that shows it, if the provider says.
///
/// # Errors
/// See [`ProviderError`].
pub async fn open(web: &Web, project: &Project<'_>, pull: &PullRequest) -> Result<String, ProviderError> {
    let request = dialect::open(project, pull)?;
    match send(web, project, &request, "open pull requests").await {
        // GitHub says 422 to much that is wrong, the others 409 to this alone.
        Err(ProviderError::Answer { status: 409, .. }) => Ok(String::new()),
        Err(ProviderError::Answer { status: 422, says, .. }) if says.contains("already exists") => Ok(String::new()),
        Err(error) => Err(error),
        Ok(answer) => Ok(dialect::page(project.api.provider, &answer)),
    }
}

/// What was answered, if it was a success.
async fn send(
    web: &Web,
    project: &Project<'_>,
    request: &dialect::Request,
    needs: &'static str,
) -> Result<serde_json::Value, ProviderError> {
    let authorization = dialect::authorization(project.api.provider, project.token);
    let (host, answer) = web.post(("spec.commitStatus.api", &request.url), authorization, &request.body).await?;
    let status = answer.status();
    if status.is_success() {
        return Ok(answer.json().await.unwrap_or_default());
    }
    let text = answer.text().await.unwrap_or_default();
    let says: String = text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(SAYS_CHARS_MAX).collect();
    let status = status.as_u16();
    Err(match status {
        401 | 403 | 404 => ProviderError::Refused { host, status, says, needs },
        _ => ProviderError::Answer { host, status, says },
    })
}
