//! How each provider wants it said.
//!
//! - GitHub: <https://docs.github.com/rest/commits/statuses>, <https://docs.github.com/rest/pulls/pulls#create-a-pull-request>
//! - GitLab: <https://docs.gitlab.com/api/commits/#set-commit-pipeline-status>, <https://docs.gitlab.com/api/merge_requests/#create-mr>
//! - Gitea and Forgejo: `/api/swagger` of any instance, `repoCreateStatus`, `repoCreatePullRequest`

use reqwest::Url;
use serde_json::{Value, json};
use sluice_crds::Provider;

use super::{Project, ProviderError};

/// Characters of a description: GitHub takes no more.
const DESCRIPTION_CHARS_MAX: usize = 140;

/// How a commit stands, in one context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Whose word it is; one status a context.
    pub context: String,
    /// How it stands.
    pub state: State,
    /// In a sentence; what is beyond 140 characters is cut.
    pub description: String,
}

/// How a commit stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nobody knows yet.
    Pending,
    /// Well.
    Success,
    /// Not well.
    Failure,
    /// Nobody will know: something newer came.
    Canceled,
}

/// A branch that is to be merged into another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullRequest {
    /// The branch.
    pub head: String,
    /// The other.
    pub base: String,
    /// In a line.
    pub title: String,
    /// The rest.
    pub text: String,
}

/// What to send where.
#[derive(Debug, PartialEq)]
pub(super) struct Request {
    pub(super) url: String,
    pub(super) body: Value,
}

/// Header and value that let us in.
pub(super) fn authorization(provider: Provider, token: &str) -> (&'static str, String) {
    match provider {
        Provider::GitHub => ("authorization", format!("Bearer {token}")),
        Provider::GitLab => ("private-token", token.to_owned()),
        Provider::Gitea => ("authorization", format!("token {token}")),
    }
}

/// Opens a pull request.
pub(super) fn open(project: &Project<'_>, pull: &PullRequest) -> Result<Request, ProviderError> {
    let provider = project.api.provider;
    let (base, name) = place(provider, project.url, project.api.api.as_deref())?;
    let PullRequest { head, base: into, title, text } = pull;
    Ok(match provider {
        Provider::GitHub | Provider::Gitea => Request {
            url: format!("{base}/repos/{name}/pulls"),
            body: json!({"head": head, "base": into, "title": title, "body": text}),
        },
        Provider::GitLab => Request {
            url: format!("{base}/projects/{}/merge_requests", name.replace('/', "%2F")),
            body: json!({"source_branch": head, "target_branch": into, "title": title, "description": text,
                "remove_source_branch": true}),
        },
    })
}

/// Where people find a pull request that was opened.
pub(super) fn page(provider: Provider, answer: &Value) -> String {
    let field = match provider {
        Provider::GitHub | Provider::Gitea => "html_url",
        Provider::GitLab => "web_url",
    };
    answer[field].as_str().unwrap_or_default().chars().take(300).collect()
}

/// Writes a status.
pub(super) fn write(project: &Project<'_>, commit: &str, status: &Status) -> Result<Request, ProviderError> {
    let provider = project.api.provider;
    let (base, name) = place(provider, project.url, project.api.api.as_deref())?;
    let (state, description) = (state(provider, status.state), cut(&status.description));
    Ok(match provider {
        Provider::GitHub | Provider::Gitea => Request {
            url: format!("{base}/repos/{name}/statuses/{commit}"),
            body: json!({"state": state, "context": status.context, "description": description}),
        },
        Provider::GitLab => Request {
            url: format!("{base}/projects/{}/statuses/{commit}", name.replace('/', "%2F")),
            body: json!({"state": state, "name": status.context, "description": description}),
        },
    })
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(DESCRIPTION_CHARS_MAX) {
        Some(_) => text.chars().take(DESCRIPTION_CHARS_MAX - 1).chain(['…']).collect(),
        None => text.to_owned(),
    }
}

fn state(provider: Provider, state: State) -> &'static str {
    match (provider, state) {
        (Provider::GitHub | Provider::Gitea, State::Pending) => "pending",
        (Provider::GitHub | Provider::Gitea, State::Failure) => "failure",
        (Provider::GitHub | Provider::Gitea, State::Canceled) => "error",
        (Provider::GitLab, State::Pending) => "running",
        (Provider::GitLab, State::Failure) => "failed",
        (Provider::GitLab, State::Canceled) => "canceled",
        (Provider::GitHub | Provider::GitLab | Provider::Gitea, State::Success) => "success",
    }
}

/// Base of the API, and the repository's name there.
pub(super) fn place(provider: Provider, url: &str, api: Option<&str>) -> Result<(String, String), ProviderError> {
    let no_project = || ProviderError::NoProject(url.to_owned());
    let parsed = Url::parse(url).map_err(|_| no_project())?;
    let path = parsed.path().trim_matches('/');
    let path = path.strip_suffix(".git").unwrap_or(path);
    let mut parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    if parts.len() < 2 {
        return Err(no_project());
    }
    // GitLab has groups in groups; the others may stand below a folder.
    let above = match provider {
        Provider::GitLab => 0,
        Provider::GitHub | Provider::Gitea => parts.len() - 2,
    };
    let name = parts.split_off(above).join("/");
    if let Some(api) = api {
        return Ok((api.trim_end_matches('/').to_owned(), name));
    }
    let origin = parsed.origin().ascii_serialization();
    let folder: String = parts.iter().map(|part| format!("/{part}")).collect();
    let base = match provider {
        Provider::GitHub if parsed.host_str() == Some("github.com") => "https://api.github.com".to_owned(),
        Provider::GitHub => format!("{origin}{folder}/api/v3"),
        Provider::GitLab => format!("{origin}/api/v4"),
        Provider::Gitea => format!("{origin}{folder}/api/v1"),
    };
    Ok((base, name))
}

#[cfg(test)]
mod tests {
    use sluice_crds::CommitStatus;

    use super::*;

    fn api_of(provider: Provider, api: Option<&str>) -> CommitStatus {
        let api = api.map(str::to_owned);
        CommitStatus { provider, api, secret_ref: None, revert_pull_request: true, evidence_from: None }
    }

    fn written(provider: Provider, url: &str, api: Option<&str>, state: State) -> Request {
        let api = api_of(provider, api);
        let status = Status { context: "sluice/production/auth".into(), state, description: "x".repeat(141) };
        write(&Project { url, api: &api, token: "t" }, "4fab17b7", &status).unwrap()
    }

    #[test]
    fn each_provider_is_told_in_its_own_words() {
        let hub = written(Provider::GitHub, "https://github.com/team/edge.git", None, State::Canceled);
        assert_eq!(hub.url, "https://api.github.com/repos/team/edge/statuses/4fab17b7");
        assert_eq!(hub.body["state"], "error");
        assert_eq!(hub.body["description"].as_str().unwrap().chars().count(), 140);
        let lab = written(Provider::GitLab, "https://lab.example/a/b/edge/", None, State::Failure);
        assert_eq!(lab.url, "https://lab.example/api/v4/projects/a%2Fb%2Fedge/statuses/4fab17b7");
        assert_eq!((&lab.body["state"], &lab.body["name"]), (&json!("failed"), &json!("sluice/production/auth")));
        let tea = written(Provider::Gitea, "http://git.example:3000/git/team/edge.git", None, State::Pending);
        assert_eq!(tea.url, "http://git.example:3000/git/api/v1/repos/team/edge/statuses/4fab17b7");
        let own = written(Provider::GitHub, "https://hub.example/team/edge", Some("https://api.x/v3/"), State::Success);
        assert_eq!(own.url, "https://api.x/v3/repos/team/edge/statuses/4fab17b7");
        assert_eq!(own.body["context"], "sluice/production/auth");
    }

    #[test]
    fn each_provider_is_asked_to_merge_in_its_own_words() {
        let pull = PullRequest { head: "h".into(), base: "b".into(), title: "t".into(), text: "x".into() };
        let opened = |provider, url| {
            let api = api_of(provider, None);
            open(&Project { url, api: &api, token: "t" }, &pull).unwrap()
        };
        let hub = opened(Provider::GitHub, "https://github.com/team/edge");
        assert_eq!(hub.url, "https://api.github.com/repos/team/edge/pulls");
        assert_eq!(hub.body, json!({"head": "h", "base": "b", "title": "t", "body": "x"}));
        let lab = opened(Provider::GitLab, "https://lab.example/team/edge");
        assert_eq!(lab.url, "https://lab.example/api/v4/projects/team%2Fedge/merge_requests");
        assert_eq!((&lab.body["source_branch"], &lab.body["target_branch"]), (&json!("h"), &json!("b")));
        assert_eq!(page(Provider::GitLab, &json!({"web_url": "https://lab.example/1"})), "https://lab.example/1");
        assert_eq!(page(Provider::Gitea, &json!({})), "");
    }

    #[test]
    fn a_url_without_owner_and_name_is_told() {
        let api = api_of(Provider::GitHub, None);
        let status = Status { context: String::new(), state: State::Pending, description: String::new() };
        let project = Project { url: "https://git.example/edge.git", api: &api, token: "t" };
        let error = write(&project, "4fab17b7", &status).unwrap_err();
        assert!(error.to_string().starts_with("https://git.example/edge.git does not end in"), "{error}");
    }
}
