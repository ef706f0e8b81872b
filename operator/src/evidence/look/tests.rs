//! Looked at on a provider that answers what a test wants.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State as With,
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header::LINK},
};
use serde_json::{Value, json};
use sluice_crds::{CommitStatus, Provider};

use super::*;
use crate::source::{Options, Source};

fn digest(first: &str) -> Digest {
    first.repeat(8).parse().unwrap()
}

fn subject() -> Subject {
    Subject {
        revision: Some(digest("4fab17b7")),
        context: "sluice/staging/auth".into(),
        paths: Vec::new(),
        staging: None,
        seen: None,
        production: None,
    }
}

fn seen(state: State, revision: &str, account: &str) -> Seen {
    let description = word::say(Some(&digest(revision)), state, "a sentence");
    Seen { number: 1, context: "sluice/staging/auth".into(), state, description, account: account.into() }
}

fn word_of(statuses: &[Seen], from: Option<&str>) -> Option<Word> {
    match decide(statuses, &subject(), from) {
        Decision::Passed => Some(Word::Passed),
        Decision::Tried(_) => Some(Word::Tried),
        Decision::Failed(_) => Some(Word::Failed),
        Decision::Other(_) | Decision::Nothing => None,
    }
}

#[test]
fn the_newest_word_about_the_revision_decides() {
    let passed = seen(State::Success, "4fab17b7", "bot");
    let failed = seen(State::Failure, "4fab17b7", "bot");
    let of_another = seen(State::Success, "9f2c1a77", "bot");
    let tried = seen(State::Pending, "4fab17b7", "bot");
    let left = seen(State::Canceled, "4fab17b7", "bot");
    assert_eq!(word_of(&[failed.clone(), passed.clone()], None), Some(Word::Failed));
    assert_eq!(word_of(&[tried.clone(), left.clone(), tried.clone(), passed.clone()], None), Some(Word::Tried));
    // Another took the place of the second attempt at it: the first has passed.
    assert_eq!(word_of(&[of_another.clone(), left.clone(), tried.clone(), passed], None), Some(Word::Passed));
    assert_eq!(word_of(&[left.clone(), tried.clone(), failed.clone()], None), Some(Word::Failed));
    let other = decide(&[of_another], &subject(), None);
    assert!(matches!(&other, Decision::Other(says) if says.starts_with("success: 9f2c1a77: a sentence")), "{other:?}");
    assert_eq!(decide(&[Seen { context: "ci".into(), ..failed }], &subject(), None), Decision::Nothing);
    assert_eq!(word_of(&[left, tried], None), None);
}

#[test]
fn only_the_named_account_is_believed() {
    let forged = seen(State::Success, "4fab17b7", "mallory");
    assert_eq!(word_of(std::slice::from_ref(&forged), None), Some(Word::Passed));
    let other = decide(std::slice::from_ref(&forged), &subject(), Some("bot"));
    assert!(matches!(&other, Decision::Other(says) if says.ends_with("from mallory, not from bot")), "{other:?}");
    let failed = seen(State::Failure, "4fab17b7", "bot");
    assert_eq!(word_of(&[forged, failed], Some("bot")), Some(Word::Failed), "nor does it hide what is");
}

#[test]
fn a_units_files_are_where_its_name_says() {
    let unit = |kind| UnitRef::new(kind, "team", "auth");
    assert_eq!(paths("/", &unit(UnitKind::Worker), Some("workers/auth/auth.wasm")), ["workers/auth"]);
    assert_eq!(
        paths("/edge", &unit(UnitKind::Worker), Some("dist/auth.wasm")),
        ["edge/workers/auth", "dist/auth.wasm"]
    );
    assert_eq!(paths("/edge/", &unit(UnitKind::Routes), None), ["edge/routes/auth.yaml"]);
}

#[test]
fn of_changes_of_several_paths_the_newest_comes_first() {
    let commit = |sha: &str, time: &str| Commit { sha: sha.into(), time: time.parse().ok() };
    let (old, new) = (commit("a", "2026-11-23T10:00:00Z"), commit("b", "2026-11-23T11:00:00Z"));
    let timeless = commit("c", "");
    let sorted = newest_first(vec![timeless.clone(), old.clone(), new.clone()]);
    assert_eq!(sorted, [new, old, timeless]);
}

/// A commit by its number.
fn sha(number: u8) -> String {
    format!("{number:040x}")
}

/// What a provider says of commits: which changed the files, newest first, by where to start; and the statuses of each.
#[derive(Default)]
struct Played {
    lists: BTreeMap<u8, Vec<u8>>,
    /// Commits that it does not know.
    unknown: Vec<u8>,
    /// Commits with a next page of statuses, whichever is asked.
    endless: Vec<u8>,
    statuses: BTreeMap<u8, Result<Vec<Seen>, u16>>,
}

impl Played {
    fn answer(&self, uri: &Uri) -> (StatusCode, HeaderMap, Json<Value>) {
        let (path, query) = (uri.path(), uri.query().unwrap_or_default());
        let of = |commit: u8| path.ends_with(&format!("/commits/{}/statuses", sha(commit)));
        let more = self.endless.iter().any(|commit| of(*commit));
        let links = more.then(|| (LINK, HeaderValue::from_static("<https://git.example/next>; rel=\"next\"")));
        let status =
            |code: u16| (StatusCode::from_u16(code).unwrap(), HeaderMap::new(), Json(json!({"message": "no"})));
        let list = |items: Vec<Value>| (StatusCode::OK, links.clone().into_iter().collect(), Json(Value::Array(items)));
        if path.ends_with("/commits") {
            let starts_at = |start: &u8| query.contains(&format!("sha={}", sha(*start)));
            if self.unknown.iter().any(starts_at) {
                return status(422);
            }
            let Some((_, commits)) = self.lists.iter().find(|(start, _)| starts_at(start)) else { return status(404) };
            let commits = commits.iter().zip((0..60).rev()).map(|(commit, minute)| {
                let date = format!("2026-11-23T12:{minute:02}:00Z");
                json!({"sha": sha(*commit), "commit": {"committer": {"date": date}}})
            });
            return list(commits.collect());
        }
        match self.statuses.iter().find(|(commit, _)| of(**commit)).map(|(_, statuses)| statuses) {
            None => list(Vec::new()),
            Some(Err(code)) => status(*code),
            Some(Ok(statuses)) => list(statuses.iter().map(written).collect()),
        }
    }
}

/// As Gitea writes it.
fn written(seen: &Seen) -> Value {
    let state = match seen.state {
        State::Pending => "pending",
        State::Success => "success",
        State::Failure => "failure",
        State::Canceled => "error",
    };
    json!({"id": seen.number, "context": seen.context, "status": state, "description": seen.description,
        "creator": {"login": seen.account}})
}

/// Looks twice at the same, with what the first look has kept: what is the case, and the requests of both.
async fn look(played: Played, subject: Subject) -> (Result<Elsewhere, ProviderError>, u32, u32) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let played = Arc::new(played);
    let answer = |With(played): With<Arc<Played>>, uri: Uri| async move { played.answer(&uri) };
    let server = Router::new().fallback(answer).with_state(played);
    let server = tokio::spawn(async move { axum::serve(listener, server).await });
    let folder = tempfile::tempdir().unwrap();
    let source = Source::new(Options { allow_loopback: true, ..Options::new(folder.path().join("git")) }).unwrap();
    let api = CommitStatus {
        provider: Provider::Gitea,
        api: None,
        secret_ref: None,
        revert_pull_request: false,
        evidence_from: None,
    };
    let url = format!("http://{address}/team/edge");
    let (project, mut lists) = (Project { url: &url, api: &api, token: "t" }, Lists::new());
    let (there, first) = {
        let mut look = Look::new(source.web(), project, &mut lists);
        (look.at(&subject).await, look.requests)
    };
    let mut again = Look::new(source.web(), project, &mut lists);
    assert_eq!(again.at(&subject).await.ok(), there.as_ref().ok().cloned());
    let second = again.requests;
    server.abort();
    (there, first, second)
}

/// Staging's branch is at 20, production's commit is 30; 13, 12 and 11 changed the files on the former, 12 and 5 on the latter.
fn branches() -> Played {
    Played { lists: [(20, vec![13, 12, 11]), (30, vec![12, 5])].into(), ..Played::default() }
}

fn wanted(revision: Option<&str>) -> Subject {
    Subject {
        revision: revision.map(digest),
        paths: vec!["workers/auth".into()],
        staging: Some(sha(20)),
        production: Some(sha(30)),
        ..subject()
    }
}

#[tokio::test]
async fn the_newest_commit_with_a_word_about_it_decides() {
    let mut played = branches();
    played.statuses.insert(13, Ok(vec![seen(State::Success, "9f2c1a77", "bot")]));
    played.statuses.insert(12, Ok(vec![seen(State::Failure, "4fab17b7", "bot")]));
    played.statuses.insert(11, Ok(vec![seen(State::Success, "4fab17b7", "bot")]));
    let (there, first, second) = look(played, wanted(Some("4fab17b7"))).await;
    assert!(matches!(&there, Ok(Elsewhere::Failed(told)) if told.commit == sha(12)), "{there:?}");
    assert_eq!((first, second), (4, 2), "lists of commits are asked once");
}

#[tokio::test]
async fn evidence_behind_productions_commit_counts_as_well() {
    let mut played = branches();
    played.lists.remove(&20);
    played.statuses.insert(5, Ok(vec![seen(State::Success, "4fab17b7", "bot")]));
    let (there, ..) = look(played, wanted(Some("4fab17b7"))).await;
    assert!(matches!(there, Ok(Elsewhere::Passed)), "{there:?}");
}

#[tokio::test]
async fn what_only_others_have_is_shown_and_passes_nothing() {
    let mut played = branches();
    played.statuses.insert(12, Ok(vec![seen(State::Success, "9f2c1a77", "bot")]));
    let (there, ..) = look(played, wanted(Some("4fab17b7"))).await;
    let Ok(Elsewhere::Untold { commit, others, says: Some(says), .. }) = there else { panic!("{there:?}") };
    assert_eq!((commit, others), (Some(sha(12)), 4));
    assert!(says.starts_with("success: 9f2c1a77: a sentence"), "{says}");
}

#[tokio::test]
async fn a_commit_that_is_gone_says_nothing_but_what_cannot_be_read_might() {
    let passed = || Ok(vec![seen(State::Success, "4fab17b7", "bot")]);
    let mut played = branches();
    played.statuses = [(13, Err(404)), (12, passed())].into();
    let (there, ..) = look(played, wanted(Some("4fab17b7"))).await;
    assert!(matches!(there, Ok(Elsewhere::Passed)), "{there:?}");
    let mut played = branches();
    played.statuses = [(13, Err(500)), (12, passed())].into();
    let (there, ..) = look(played, wanted(Some("4fab17b7"))).await;
    assert!(matches!(there, Err(ProviderError::Answer { status: 500, .. })), "{there:?}");
    let mut played = branches();
    played.statuses = [13, 12, 11, 30, 5].map(|commit| (commit, Err(404))).into();
    let (there, ..) = look(played, wanted(Some("4fab17b7"))).await;
    assert!(
        matches!(there, Err(ProviderError::Refused { status: 404, .. })),
        "who sees no commit sees nothing: {there:?}"
    );
}

#[tokio::test]
async fn changes_since_this_cluster_saw_it_are_newer_than_that() {
    let wanted = || Subject { seen: Some(sha(15)), ..wanted(Some("4fab17b7")) };
    let words = |failed: u8| {
        let mut played = branches();
        played.statuses.insert(15, Ok(vec![seen(State::Success, "4fab17b7", "bot")]));
        played.statuses.insert(failed, Ok(vec![seen(State::Failure, "4fab17b7", "bot")]));
        played
    };
    // It has come back with 13, and this cluster was away when it was gone.
    let mut played = words(13);
    played.lists.insert(15, vec![12, 11]);
    let (there, ..) = look(played, wanted()).await;
    assert!(matches!(&there, Ok(Elsewhere::Failed(told)) if told.commit == sha(13)), "{there:?}");
    let mut played = words(12);
    played.lists.insert(15, vec![12, 11]);
    let (there, ..) = look(played, wanted()).await;
    assert!(matches!(there, Ok(Elsewhere::Passed)), "12 is older: {there:?}");
}

#[tokio::test]
async fn what_may_be_there_soon_is_asked_for_again_and_what_is_unknown_hides_nothing() {
    let passed = || Ok(vec![seen(State::Success, "4fab17b7", "bot")]);
    let mut played = branches();
    played.lists.insert(20, Vec::new());
    played.statuses.insert(12, passed());
    let (there, first, second) = look(played, wanted(Some("4fab17b7"))).await;
    assert!(matches!(there, Ok(Elsewhere::Passed)), "{there:?}");
    assert_eq!((first, second), (4, 3), "only the list that had something is kept");
    let mut played = Played { unknown: vec![20], ..branches() };
    played.statuses.insert(12, passed());
    let (there, ..) = look(played, wanted(Some("4fab17b7"))).await;
    assert!(matches!(there, Ok(Elsewhere::Passed)), "{there:?}");
    let (there, ..) = look(Played { unknown: vec![20], ..branches() }, wanted(None)).await;
    assert!(there.as_ref().is_err_and(ProviderError::is_not_found), "who finds no commit sees nothing: {there:?}");
}

#[tokio::test]
async fn a_commit_that_changed_several_paths_counts_once() {
    let mut played = branches();
    played.lists.insert(30, vec![9, 8, 7, 6, 5]);
    played.statuses.insert(5, Ok(vec![seen(State::Success, "4fab17b7", "bot")]));
    let paths = vec!["workers/auth".into(), "dist/auth.wasm".into()];
    let (there, ..) = look(played, Subject { paths, ..wanted(Some("4fab17b7")) }).await;
    assert!(matches!(there, Ok(Elsewhere::Passed)), "{there:?}");
}

#[tokio::test]
async fn a_word_may_be_among_the_statuses_that_are_not_read() {
    let mut played = Played { endless: vec![13], ..branches() };
    played.statuses.insert(13, Ok(vec![seen(State::Success, "9f2c1a77", "bot")]));
    played.statuses.insert(12, Ok(vec![seen(State::Success, "4fab17b7", "bot")]));
    let (there, ..) = look(played, wanted(Some("4fab17b7"))).await;
    assert!(matches!(&there, Err(ProviderError::TooMany { commit, .. }) if *commit == sha(13)), "{there:?}");
    assert!(there.is_err_and(|error| error.is_of_one_commit()), "others may well be read");
    let mut played = Played { endless: vec![13], ..branches() };
    played.statuses.insert(13, Ok(vec![seen(State::Success, "4fab17b7", "bot")]));
    let (there, ..) = look(played, wanted(Some("4fab17b7"))).await;
    assert!(matches!(there, Ok(Elsewhere::Passed)), "{there:?}");
}

#[tokio::test]
async fn that_a_unit_is_gone_only_its_last_change_says() {
    let removed = || {
        let description = word::say(None, State::Success, "passed 1 of 1 groups");
        Ok(vec![Seen { description, ..seen(State::Success, "4fab17b7", "bot") }])
    };
    let mut played = branches();
    played.statuses.insert(12, removed());
    let (there, ..) = look(played, wanted(None)).await;
    assert!(matches!(there, Ok(Elsewhere::Untold { .. })), "it came back with 13: {there:?}");
    let mut played = branches();
    played.statuses.insert(13, removed());
    let (there, ..) = look(played, wanted(None)).await;
    assert!(matches!(there, Ok(Elsewhere::Passed)), "{there:?}");
}
