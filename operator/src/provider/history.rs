//! What providers tell of commits: which ones changed a path, and what statuses they have.
//!
//! - GitHub: <https://docs.github.com/rest/commits/commits#list-commits>,
//!   <https://docs.github.com/rest/commits/statuses#list-commit-statuses-for-a-reference>
//! - GitLab: <https://docs.gitlab.com/api/commits/#list-repository-commits>,
//!   <https://docs.gitlab.com/api/commits/#list-commit-statuses>
//! - Gitea and Forgejo: `/api/swagger` of any instance, `repoGetAllCommits`, `repoListStatusesByRef`

use jiff::Timestamp;
use serde_json::Value;
use sluice_crds::Provider;

use super::{Project, ProviderError, State, dialect::place};

/// Characters of a description that are read: no provider takes as many.
const TEXT_CHARS_MAX: usize = 1000;

/// A commit, as a provider lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Its whole name.
    pub sha: String,
    /// When it was committed, as it says itself.
    pub time: Option<Timestamp>,
}

/// A status that a commit has, or had before another of the same context came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The provider counts them up.
    pub number: u64,
    /// Whose word it is.
    pub context: String,
    /// How the commit stands.
    pub state: State,
    /// In a sentence.
    pub description: String,
    /// Whose token wrote it; empty where the provider does not say.
    pub account: String,
}

/// What to ask where.
#[derive(Debug, PartialEq)]
pub(super) struct Question {
    pub(super) url: String,
    pub(super) query: Vec<(&'static str, String)>,
}

/// Which commits changed a path.
pub(super) fn commits(project: &Project<'_>, start: &str, path: &str, count: usize) -> Result<Question, ProviderError> {
    let provider = project.api.provider;
    let (base, name) = place(provider, project.url, project.api.api.as_deref())?;
    let (start, path, count) = (start.to_owned(), path.to_owned(), count.to_string());
    Ok(match provider {
        Provider::GitHub => Question {
            url: format!("{base}/repos/{name}/commits"),
            query: vec![("sha", start), ("path", path), ("per_page", count)],
        },
        Provider::Gitea => {
            let without = ["stat", "verification", "files"].map(|what| (what, "false".to_owned()));
            let query = [("sha", start), ("path", path), ("limit", count)].into_iter().chain(without);
            Question { url: format!("{base}/repos/{name}/commits"), query: query.collect() }
        }
        Provider::GitLab => Question {
            url: format!("{base}/projects/{}/repository/commits", name.replace('/', "%2F")),
            query: vec![("ref_name", start), ("path", path), ("per_page", count)],
        },
    })
}

/// A page of a commit's statuses, the newest first.
pub(super) fn statuses(project: &Project<'_>, commit: &str, page: u32) -> Result<Question, ProviderError> {
    let provider = project.api.provider;
    let (base, name) = place(provider, project.url, project.api.api.as_deref())?;
    let (url, mut query) = match provider {
        Provider::GitHub => {
            (format!("{base}/repos/{name}/commits/{commit}/statuses"), vec![("per_page", "100".to_owned())])
        }
        Provider::Gitea => (
            format!("{base}/repos/{name}/commits/{commit}/statuses"),
            vec![("sort", "highestindex".to_owned()), ("limit", "50".to_owned())],
        ),
        Provider::GitLab => (
            format!("{base}/projects/{}/repository/commits/{commit}/statuses", name.replace('/', "%2F")),
            // Without `all` it tells the newest of each name alone.
            [("all", "true"), ("order_by", "id"), ("sort", "desc"), ("per_page", "100")]
                .map(|(key, value)| (key, value.to_owned()))
                .into(),
        ),
    };
    query.push(("page", page.to_string()));
    Ok(Question { url, query })
}

/// None if it is no list. What in it is no commit is left out.
pub(super) fn read_commits(provider: Provider, answer: &Value) -> Option<Vec<Commit>> {
    let read = |commit: &Value| {
        let (sha, time) = match provider {
            Provider::GitHub | Provider::Gitea => (&commit["sha"], &commit["commit"]["committer"]["date"]),
            Provider::GitLab => (&commit["id"], &commit["committed_date"]),
        };
        let sha = sha.as_str().filter(|sha| is_name(sha))?.to_owned();
        Some(Commit { sha, time: time.as_str().and_then(|time| time.parse().ok()) })
    };
    Some(answer.as_array()?.iter().filter_map(read).collect())
}

/// The name of a commit is put into a path.
pub(super) fn is_name(sha: &str) -> bool {
    matches!(sha.len(), 40 | 64) && sha.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// None if it is no list. What in it is no status is left out.
pub(super) fn read_statuses(provider: Provider, answer: &Value) -> Option<Vec<Seen>> {
    let read = |status: &Value| {
        let (context, state, account) = match provider {
            Provider::GitHub => ("context", "state", &status["creator"]["login"]),
            Provider::Gitea => ("context", "status", &status["creator"]["login"]),
            Provider::GitLab => ("name", "status", &status["author"]["username"]),
        };
        Some(Seen {
            number: status["id"].as_u64()?,
            context: status[context].as_str()?.to_owned(),
            state: state_of(provider, status[state].as_str()?),
            description: status["description"].as_str().unwrap_or_default().chars().take(TEXT_CHARS_MAX).collect(),
            account: account.as_str().unwrap_or_default().to_owned(),
        })
    };
    Some(answer.as_array()?.iter().filter_map(read).collect())
}

/// What is said in no known word is not well, and not over.
fn state_of(provider: Provider, state: &str) -> State {
    match (provider, state) {
        (_, "success") => State::Success,
        (Provider::GitHub | Provider::Gitea, "failure") | (Provider::GitLab, "failed") => State::Failure,
        (Provider::GitHub | Provider::Gitea, "error") | (Provider::GitLab, "canceled") => State::Canceled,
        (Provider::GitHub | Provider::GitLab | Provider::Gitea, _) => State::Pending,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use sluice_crds::CommitStatus;

    use super::*;

    const SHA: &str = "4fab17b74fab17b74fab17b74fab17b74fab17b7";

    fn project(provider: Provider) -> (&'static str, CommitStatus) {
        let api = CommitStatus {
            provider,
            api: None,
            secret_ref: None,
            revert_pull_request: false,
            evidence_from: Some("bot".into()),
        };
        ("https://git.example/team/edge.git", api)
    }

    fn asked(question: &Question) -> String {
        let query: Vec<String> = question.query.iter().map(|(key, value)| format!("{key}={value}")).collect();
        format!("{}?{}", question.url, query.join("&"))
    }

    #[test]
    fn each_provider_is_asked_in_its_own_words() {
        let commits = |provider| {
            let (url, api) = project(provider);
            asked(&commits(&Project { url, api: &api, token: "t" }, SHA, "workers/auth", 5).unwrap())
        };
        let hub = commits(Provider::GitHub);
        assert_eq!(
            hub,
            format!("https://git.example/api/v3/repos/team/edge/commits?sha={SHA}&path=workers/auth&per_page=5")
        );
        let lab = commits(Provider::GitLab);
        let expected = format!(
            "https://git.example/api/v4/projects/team%2Fedge/repository/commits?ref_name={SHA}&path=workers/auth&per_page=5"
        );
        assert_eq!(lab, expected);
        let tea = commits(Provider::Gitea);
        assert!(tea.starts_with("https://git.example/api/v1/repos/team/edge/commits?sha="), "{tea}");
        assert!(tea.ends_with("&path=workers/auth&limit=5&stat=false&verification=false&files=false"), "{tea}");
        let statuses = |provider| {
            let (url, api) = project(provider);
            asked(&statuses(&Project { url, api: &api, token: "t" }, SHA, 2).unwrap())
        };
        let hub = statuses(Provider::GitHub);
        assert_eq!(
            hub,
            format!("https://git.example/api/v3/repos/team/edge/commits/{SHA}/statuses?per_page=100&page=2")
        );
        let lab = statuses(Provider::GitLab);
        assert!(lab.ends_with("/statuses?all=true&order_by=id&sort=desc&per_page=100&page=2"), "{lab}");
        let tea = statuses(Provider::Gitea);
        assert!(tea.ends_with("/statuses?sort=highestindex&limit=50&page=2"), "{tea}");
    }

    #[test]
    fn each_provider_answers_in_its_own_words() {
        let hub = json!([
            {"id": 7, "context": "sluice/staging/auth", "state": "error", "description": "x", "creator": {"login": "bot"}},
            {"id": 6, "context": "ci", "state": "success", "description": null, "creator": null},
            {"no": "status"},
        ]);
        let hub = read_statuses(Provider::GitHub, &hub).unwrap();
        assert_eq!((hub.len(), hub[0].state, hub[0].account.as_str()), (2, State::Canceled, "bot"));
        assert_eq!((hub[1].state, hub[1].description.as_str(), hub[1].account.as_str()), (State::Success, "", ""));
        let tea = json!([{"id": 1, "context": "c", "status": "warning", "creator": {"login": "bot"}}]);
        assert_eq!(read_statuses(Provider::Gitea, &tea).unwrap()[0].state, State::Pending);
        let lab = json!([{"id": 1, "name": "c", "status": "failed", "author": {"username": "bot"}}]);
        let lab = read_statuses(Provider::GitLab, &lab).unwrap();
        assert_eq!((lab[0].state, lab[0].context.as_str(), lab[0].account.as_str()), (State::Failure, "c", "bot"));
        assert_eq!(read_statuses(Provider::GitLab, &json!({"message": "no"})), None);
    }

    #[test]
    fn what_is_no_commit_gets_into_no_url() {
        let date = "2026-11-23T12:00:00+02:00";
        let tea = json!([{"sha": SHA, "commit": {"committer": {"date": date}}}, {"sha": "../../users/1"}]);
        let expected = Commit { sha: SHA.into(), time: Some("2026-11-23T10:00:00Z".parse().unwrap()) };
        assert_eq!(read_commits(Provider::Gitea, &tea), Some(vec![expected]));
        let lab = json!([{"id": SHA, "committed_date": "yesterday"}]);
        assert_eq!(read_commits(Provider::GitLab, &lab), Some(vec![Commit { sha: SHA.into(), time: None }]));
        assert_eq!(read_commits(Provider::GitHub, &json!({})), None);
    }
}
