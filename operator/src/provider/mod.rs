//! What git providers are told and asked beside git: the statuses of commits, pull requests, which commits changed a path.

mod dialect;
mod history;

use std::cmp::Reverse;

use reqwest::{Response, header::LINK};
use serde_json::Value;
use sluice_crds::{CommitStatus, Provider};

use crate::source::{SourceError, Web};

pub use dialect::{PullRequest, State, Status};
pub use history::{Commit, Seen};

/// What is shown of an answer.
const SAYS_CHARS_MAX: usize = 200;
/// Bytes of an answer: a page of what is asked has a few hundred kilobytes.
const ANSWER_BYTES_MAX: usize = 8 << 20;
/// Pages of a commit's statuses that are read, the newest first.
const STATUS_PAGES_MAX: u32 = 5;

/// Why a provider cannot be told or asked.
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
    /// More statuses than are read, and none of those that were says what was looked for.
    #[error(
        "commit {commit} has over {STATUS_PAGES_MAX} pages of statuses, and nothing of it is in the newest at {host}"
    )]
    TooMany {
        /// Host of the API.
        host: String,
        /// The commit.
        commit: String,
    },
    /// Nothing that anybody could read.
    #[error("{host} answers what cannot be read ({why}): check spec.commitStatus")]
    Unreadable {
        /// Host of the API.
        host: String,
        /// Why not.
        why: String,
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
            Self::Answer { .. } | Self::Unreadable { .. } | Self::TooMany { .. } => "NotTaken",
        }
    }

    /// Whether it may only mean that there is no such commit. Who may not see the repository hears the same.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. } | Self::Answer { status: 422, .. })
    }

    /// Whether it is the trouble of one commit, and others may well be read.
    #[must_use]
    pub fn is_of_one_commit(&self) -> bool {
        self.is_not_found() || matches!(self, Self::TooMany { .. })
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

impl Project<'_> {
    /// Whether the provider's API is reached over TLS.
    #[must_use]
    pub fn is_over_tls(&self) -> bool {
        let place = dialect::place(self.api.provider, self.url, self.api.api.as_deref());
        place.is_ok_and(|(base, _)| base.starts_with("https://"))
    }
}

/// The commits that changed a path, newest first: of this commit and what lies behind it.
///
/// # Errors
/// See [`ProviderError`].
pub async fn commits(
    web: &Web,
    project: &Project<'_>,
    start: &str,
    path: &str,
    count: usize,
) -> Result<Vec<Commit>, ProviderError> {
    let question = history::commits(project, start, path, count)?;
    let (host, answer, _) = match ask(web, project, &question, "read commits").await {
        // Gitea says so of a path that no commit ever had.
        Err(ProviderError::Refused { status: 404, .. }) if project.api.provider == Provider::Gitea => {
            return Ok(Vec::new());
        }
        asked => asked?,
    };
    let mut commits = history::read_commits(project.api.provider, &answer).ok_or_else(|| no_list(host))?;
    commits.truncate(count);
    Ok(commits)
}

/// The statuses of a commit, as many as are read.
#[derive(Debug, Default)]
pub struct Statuses {
    /// The newest first.
    pub seen: Vec<Seen>,
    /// The host that has more of them, if so.
    pub more_at: Option<String>,
}

/// The statuses of a commit. `requests` counts what they took.
///
/// # Errors
/// See [`ProviderError`].
pub async fn statuses(
    web: &Web,
    project: &Project<'_>,
    commit: &str,
    requests: &mut u32,
) -> Result<Statuses, ProviderError> {
    let mut statuses = Statuses::default();
    for page in 1..=STATUS_PAGES_MAX {
        *requests += 1;
        let question = history::statuses(project, commit, page)?;
        let (host, answer, is_last) = ask(web, project, &question, "read commit statuses").await?;
        let read = history::read_statuses(project.api.provider, &answer);
        statuses.seen.extend(read.ok_or_else(|| no_list(host.clone()))?);
        statuses.more_at = (!is_last).then_some(host);
        if is_last {
            break;
        }
    }
    statuses.seen.sort_by_key(|seen| Reverse(seen.number));
    Ok(statuses)
}

/// Whether this is the whole name of a commit.
#[must_use]
pub fn is_commit(text: &str) -> bool {
    history::is_name(text)
}

fn no_list(host: String) -> ProviderError {
    ProviderError::Unreadable { host, why: "it is no list".to_owned() }
}

/// Who answered, what, and whether that is the last page of it.
async fn ask(
    web: &Web,
    project: &Project<'_>,
    question: &history::Question,
    needs: &'static str,
) -> Result<(String, Value, bool), ProviderError> {
    let authorization = dialect::authorization(project.api.provider, project.token);
    let (host, answer) = web.get(("spec.commitStatus.api", &question.url), &question.query, authorization).await?;
    let link = answer.headers().get(LINK).and_then(|value| value.to_str().ok());
    let is_last = !link.is_some_and(|link| link.contains("rel=\"next\""));
    let unreadable = |why: String| ProviderError::Unreadable { host: host.clone(), why };
    let status = answer.status();
    let body = read(answer).await.map_err(unreadable)?;
    if !status.is_success() {
        return Err(refusal(host, status.as_u16(), &String::from_utf8_lossy(&body), needs));
    }
    let answer = serde_json::from_slice(&body).map_err(|error| unreadable(error.to_string()))?;
    Ok((host, answer, is_last))
}

async fn read(mut answer: Response) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(piece) = answer.chunk().await.map_err(|error| error.without_url().to_string())? {
        if body.len() + piece.len() > ANSWER_BYTES_MAX {
            return Err(format!("it has over {ANSWER_BYTES_MAX} bytes"));
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
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
) -> Result<Value, ProviderError> {
    let authorization = dialect::authorization(project.api.provider, project.token);
    let (host, answer) = web.post(("spec.commitStatus.api", &request.url), authorization, &request.body).await?;
    let status = answer.status();
    if status.is_success() {
        return Ok(answer.json().await.unwrap_or_default());
    }
    let text = answer.text().await.unwrap_or_default();
    Err(refusal(host, status.as_u16(), &text, needs))
}

fn refusal(host: String, status: u16, text: &str, needs: &'static str) -> ProviderError {
    let says: String = text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(SAYS_CHARS_MAX).collect();
    match status {
        401 | 403 | 404 => ProviderError::Refused { host, status, says, needs },
        _ => ProviderError::Answer { host, status, says },
    }
}
