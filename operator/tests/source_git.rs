//! Repositories over real git: what polls see, cost and refuse.
#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping")]

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use sluice_config::Environment::{Production, Staging};
use sluice_crds::RepositorySpec;
use sluice_operator::artifacts::Authority;
use sluice_operator::source::{BranchError, Credentials, Options, RepositoryId, Source, SourceError};

mod source_support;
use source_support::{
    component,
    git_server::{GitServer, Mood, git},
};

const FLAGS: &[u8] = b"apiVersion: sluice.dev/v1alpha1\nkind: Config\nmetadata: {name: flags}\nspec: {data: {a: b}}\n";
const WORKER: &[u8] = b"apiVersion: sluice.dev/v1alpha1\nkind: Worker\nmetadata: {name: hello}\n\
    spec: {wasm: hello.wasm, chain: {stage: edge}}\n";

fn id() -> RepositoryId {
    RepositoryId { namespace: "edge-team".into(), name: "edge".into() }
}

fn spec(url: &str) -> RepositorySpec {
    serde_json::from_value(serde_json::json!({"url": url})).unwrap()
}

/// A source whose clones end with the test.
struct Fixture {
    server: GitServer,
    spec: RepositorySpec,
    work: tempfile::TempDir,
    source: Source,
}

impl Fixture {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut Options)) -> Self {
        let server = GitServer::start().await;
        let work = tempfile::tempdir().unwrap();
        let mut options = Options::new(work.path().join("clones"));
        options.allow_loopback = true;
        change(&mut options);
        Self { spec: spec(&server.url()), server, work, source: Source::new(options).unwrap() }
    }

    async fn poll(&self) -> Result<sluice_operator::source::Heads, SourceError> {
        self.source.poll(&id(), &self.spec, None).await
    }

    async fn refusal(&self) -> String {
        self.poll().await.unwrap_err().to_string()
    }

    async fn blob(&self, commit: &str, path: &str) -> Result<Vec<u8>, SourceError> {
        self.source.fetch_blob_at(&id(), &self.spec, None, commit, path).await
    }

    /// As after a restart of the process.
    fn restarted(&mut self) {
        let mut options = Options::new(self.work.path().join("clones"));
        options.allow_loopback = true;
        self.source = Source::new(options).unwrap();
    }

    fn clone_folder(&self) -> std::path::PathBuf {
        self.work.path().join("clones/edge-team_edge")
    }
}

#[tokio::test]
async fn both_branches_are_read_and_an_unchanged_one_costs_one_request() {
    let f = Fixture::new().await;
    let first = f.server.push("staging", &[("config/flags.yaml", FLAGS), ("README.md", b"hello")]);
    f.server
        .push("production", &[("workers/hello/worker.yaml", WORKER), ("workers/hello/hello.wasm", &component("1"))]);
    f.server.git(&["tag", "v1", "refs/heads/staging"]);
    let heads = f.poll().await.unwrap();
    assert_eq!(f.server.requests(), 2);
    let staging = heads[&Staging].as_ref().unwrap();
    assert_eq!(
        (staging.commit.sha.as_str(), staging.commit.author.as_str(), staging.commit.subject.as_str()),
        (first.as_str(), "Ann Example", "Change staging")
    );
    assert_eq!(staging.commit.time.as_second(), 1_700_000_000);
    assert_eq!(staging.units.len(), 1);
    let production = heads[&Production].as_ref().unwrap();
    let worker = production.units[0].result.as_ref().unwrap();
    let at = worker.artifact.as_ref().unwrap();
    let bytes = f.source.read_artifact(&id(), &f.spec, None, at).await.unwrap();
    assert_eq!(bytes, component("1"));
    assert_eq!(f.server.requests(), 0, "the artifact is in the clone");

    let again = f.poll().await.unwrap();
    assert_eq!(f.server.requests(), 1);
    assert!(Arc::ptr_eq(staging, again[&Staging].as_ref().unwrap()));
    let kept = git(&f.clone_folder(), &["for-each-ref", "--format=%(refname)"]);
    assert_eq!(kept, "refs/sluice/production\nrefs/sluice/staging", "no tag, no other branch");
    assert!(!f.clone_folder().join("README.md").exists() && !f.clone_folder().join("hooks").exists());
}

#[tokio::test]
async fn a_new_commit_and_a_forced_push_are_followed() {
    let mut f = Fixture::new().await;
    let files: &[(&str, &[u8])] = &[("config/flags.yaml", FLAGS)];
    f.server.push("staging", files);
    f.server.push("production", files);
    f.poll().await.unwrap();
    let pushed = f.server.push("staging", &[("config/flags.yaml", FLAGS), ("config/more.yaml", FLAGS)]);
    let heads = f.poll().await.unwrap();
    let staging = heads[&Staging].as_ref().unwrap();
    assert_eq!((staging.commit.sha.as_str(), staging.units.len()), (pushed.as_str(), 2));
    let forced = f.server.force("staging", files);
    let heads = f.poll().await.unwrap();
    let staging = heads[&Staging].as_ref().unwrap();
    assert_eq!((staging.commit.sha.as_str(), staging.units.len()), (forced.as_str(), 1));

    f.restarted();
    f.server.requests();
    f.poll().await.unwrap();
    assert_eq!(f.server.requests(), 1, "a restart finds its clone");
}

#[tokio::test]
async fn a_branch_that_is_gone_does_not_hold_up_the_other() {
    let mut f = Fixture::new().await;
    f.server.push("staging", &[("config/flags.yaml", FLAGS)]);
    f.server.push("production", &[("config/flags.yaml", FLAGS)]);
    f.poll().await.unwrap();
    f.server.git(&["update-ref", "-d", "refs/heads/staging"]);
    let heads = f.poll().await.unwrap();
    assert!(heads[&Production].is_ok());
    let gone = heads[&Staging].as_ref().unwrap_err();
    assert_eq!(gone, &BranchError::Missing { branch: "staging".into() });
    assert_eq!(gone.to_string(), "there is no branch `staging`: push it, or name another in spec.branches");

    f.spec.path = "/edge".into();
    let heads = f.poll().await.unwrap();
    assert_eq!(
        heads[&Production].as_ref().unwrap_err().to_string(),
        "branch `production` has no folder `/edge`: correct spec.path, or add the folder"
    );
}

#[tokio::test]
async fn what_the_server_refuses_is_told_with_a_remedy() {
    let f = Fixture::new().await;
    assert_eq!(f.refusal().await, "the repository is empty: push a branch");
    for (mood, expected) in [
        (
            Mood::Status(401, None),
            "the server answers 401 and no credentials were sent: name a Secret with username and password in spec.secretRef",
        ),
        (
            Mood::Status(404, None),
            "the server answers 404, there is no such repository or the credentials may not see it: check spec.url and what the token may read",
        ),
        (Mood::Status(503, None), "the server answers 503: it is asked again at the next poll"),
        (
            Mood::Say("text/html", "<html>"),
            "no git server answers there (the content type is text/html): check that spec.url is the URL that `git clone` takes",
        ),
        (
            Mood::Say("application/x-git-upload-pack-advertisement", "hello"),
            "no git server answers there (the answer is no pkt-line): check that spec.url is the URL that `git clone` takes",
        ),
        (Mood::Say("application/x-git-upload-pack-advertisement", "000eERR broken"), "the git server refuses: broken"),
    ] {
        f.server.set(mood);
        assert_eq!(f.refusal().await, expected);
    }
}

#[tokio::test]
async fn credentials_go_to_the_named_server_only() {
    let f = Fixture::new().await;
    f.server.push("staging", &[("config/flags.yaml", FLAGS)]);
    // bob:s3cret
    f.server.set(Mood::Password("Basic Ym9iOnMzY3JldA=="));
    let credentials = |password: &str| Credentials { username: "bob".into(), password: password.into() };
    let heads = f.source.poll(&id(), &f.spec, Some(&credentials("s3cret"))).await.unwrap();
    assert!(heads[&Staging].is_ok());
    let refused = f.source.poll(&id(), &f.spec, Some(&credentials("wrong"))).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the server answers 401, it refuses the credentials: renew username and password in the Secret that spec.secretRef names"
    );
    assert!(!format!("{:?}", credentials("s3cret")).contains("s3cret"));

    let elsewhere = GitServer::start().await;
    let to = format!("{}/info/refs?service=git-upload-pack", elsewhere.url());
    f.server.set(Mood::Status(301, Some(to)));
    let moved = f.source.poll(&id(), &f.spec, Some(&credentials("s3cret"))).await.unwrap_err();
    let expected =
        format!("the server answers 301, the repository has moved to {}: write that into spec.url", elsewhere.url());
    assert_eq!(moved.to_string(), expected);
    assert_eq!((elsewhere.requests(), elsewhere.with_credentials()), (0, 0));
}

#[tokio::test]
async fn https_is_believed_only_from_a_known_authority() {
    let authority = Authority::generate(Timestamp::now()).unwrap();
    let issued = authority.issue(&["localhost".into()], Timestamp::now()).unwrap();
    let server = GitServer::start_tls(issued.config).await;
    server.push("staging", &[("config/flags.yaml", FLAGS)]);
    let url = format!("https://localhost:{}/edge.git", server.address.port());
    let mut f = Fixture::with(|options| options.extra_ca_pem = Some(authority.cert_pem.into_bytes())).await;
    f.spec.url.clone_from(&url);
    assert!(f.poll().await.unwrap()[&Staging].is_ok());
    let mut stranger = Fixture::new().await;
    stranger.spec.url = url;
    assert_eq!(
        stranger.refusal().await,
        "localhost cannot be reached (invalid peer certificate: UnknownIssuer): check the URL, DNS and network policies"
    );
}

#[tokio::test]
async fn no_name_leads_to_a_refused_address() {
    let mut f = Fixture::with(|options| options.allow_loopback = false).await;
    let port = f.server.address.port();
    let literal = f.refusal().await;
    assert_eq!(literal, "127.0.0.1 is 127.0.0.1, the operator's own loopback address: name a git server elsewhere");
    f.spec.url = format!("http://localhost:{port}/edge.git");
    let named = f.refusal().await;
    assert!(named.starts_with("localhost is ") && named.ends_with("name a git server elsewhere"), "{named}");
    assert_eq!(f.server.requests(), 0);
}

#[tokio::test]
async fn links_submodules_and_traps_are_refused() {
    let f = Fixture::new().await;
    let files: &[(&str, &[u8])] = &[
        ("workers/hello/worker.yaml", WORKER),
        ("120000:workers/hello/hello.wasm", b"/etc/passwd"),
        ("120000:config/flags.yaml", b"../../secret"),
        ("160000:workers/other", b"1111111111111111111111111111111111111111"),
        ("160000:vendor", b"1111111111111111111111111111111111111111"),
        (".gitmodules", b"[submodule \"vendor\"]\npath = vendor\nurl = ext::sh -c id\n"),
    ];
    f.server.push("staging", files);
    f.server.push("production", &[("120000:workers", b"/etc"), ("config/flags.yaml", FLAGS)]);
    let heads = f.poll().await.unwrap();
    let said: Vec<String> =
        heads[&Staging].as_ref().unwrap().units.iter().map(|u| u.result.as_ref().unwrap_err().to_string()).collect();
    assert_eq!(
        said,
        [
            "workers/hello/worker.yaml:4:14: wasm: `workers/hello/hello.wasm` is a symbolic link: put the file itself there: links are not followed",
            "config/flags.yaml:1:1: `config/flags.yaml` is a symbolic link: put the file itself there: links are not followed",
        ]
    );
    let refused = heads[&Production].as_ref().unwrap_err().to_string();
    assert!(refused.ends_with("is refused: `workers` is a symbolic link; put a folder there"), "{refused}");
    for trap in ["..", ".git", ".GIT", "."] {
        f.server.push_raw_tree("production", trap);
        let heads = f.poll().await.unwrap();
        let refused = heads[&Production].as_ref().unwrap_err().to_string();
        assert!(refused.ends_with(&format!("is refused: its tree has an entry `{trap}`")), "{refused}");
    }
}

#[tokio::test]
async fn a_repository_over_a_limit_is_refused_and_leaves_nothing() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut noise = Vec::with_capacity(300_000);
    while noise.len() < 300_000 {
        // Xorshift: nothing that zlib could squeeze.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        noise.extend_from_slice(&state.to_le_bytes());
    }
    let zeros = vec![0; 20 << 20];
    let big: &[(&str, &[u8])] = &[("big", &noise)];
    let bomb: &[(&str, &[u8])] = &[("bomb", &zeros)];
    type Files<'a> = &'a [(&'a str, &'a [u8])];
    type Change = fn(&mut Options);
    let cases: [(Files<'_>, Change, &str); 4] = [
        (big, |o| o.fetch_bytes_max = 100_000, "the server's answer is over the limit of 100000 bytes"),
        (bomb, |o| o.object_bytes_max = 1 << 20, "a file is over the limit of 1048576 bytes"),
        (bomb, |o| o.unpacked_bytes_max = 1 << 20, "the repository unpacked is over the limit of 1048576 bytes"),
        (big, |o| o.objects_max = 2, "the number of files and folders is over the limit of 2"),
    ];
    for (files, change, expected) in cases {
        let f = Fixture::with(change).await;
        f.server.push("staging", files);
        let said = f.refusal().await;
        assert_eq!(said, format!("{expected}: make the repository smaller, or split it"));
        let packs = std::fs::read_dir(f.clone_folder().join("objects/pack")).unwrap().count();
        assert_eq!((packs, f.clone_folder().join("sluice-incoming").exists()), (0, false));
    }
}

#[tokio::test]
async fn a_stalled_server_holds_up_itself_alone() {
    let f = Fixture::with(|options| options.timeout = Duration::from_secs(2)).await;
    let healthy = GitServer::start().await;
    healthy.push("staging", &[("config/flags.yaml", FLAGS)]);
    f.server.set(Mood::Stall);
    let started = Instant::now();
    let other = RepositoryId { name: "other".into(), ..id() };
    let other_spec = spec(&healthy.url());
    let (stalled, (polled, took)) = tokio::join!(f.poll(), async {
        let polled = f.source.poll(&other, &other_spec, None).await;
        (polled, started.elapsed())
    });
    assert!(polled.unwrap()[&Staging].is_ok());
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!(
        stalled.unwrap_err().to_string(),
        "127.0.0.1 did not answer in full within 2 s: it is asked again at the next poll"
    );
}

#[tokio::test]
async fn a_damaged_clone_is_fetched_anew() {
    let mut f = Fixture::new().await;
    f.server.push("staging", &[("config/flags.yaml", FLAGS), ("README.md", b"one")]);
    f.poll().await.unwrap();
    for entry in std::fs::read_dir(f.clone_folder().join("objects/pack")).unwrap() {
        let path = entry.unwrap().path();
        let length = std::fs::metadata(&path).unwrap().len();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, vec![7; usize::try_from(length).unwrap()]).unwrap();
    }
    f.restarted();
    let heads = f.poll().await.unwrap();
    assert!(heads[&Staging].as_ref().unwrap().units[0].result.is_ok());
    std::fs::remove_file(f.clone_folder().join("HEAD")).unwrap();
    f.restarted();
    assert!(f.poll().await.unwrap()[&Staging].is_ok());
}

#[tokio::test]
async fn another_url_gets_another_clone_and_a_deleted_repository_none() {
    let mut f = Fixture::new().await;
    f.server.push("staging", &[("config/flags.yaml", FLAGS)]);
    f.poll().await.unwrap();
    let moved = GitServer::start().await;
    moved.push("staging", &[("config/other.yaml", FLAGS)]);
    f.spec.url = moved.url();
    let heads = f.poll().await.unwrap();
    assert_eq!(heads[&Staging].as_ref().unwrap().units[0].unit.name, "other");
    f.source.retain(&BTreeSet::from([id()])).await.unwrap();
    assert!(f.clone_folder().exists());
    f.source.retain(&BTreeSet::new()).await.unwrap();
    assert!(!f.clone_folder().exists());
    assert!(f.poll().await.is_ok(), "and comes back when asked for");
}

#[tokio::test]
async fn the_artifact_of_an_old_commit_can_be_had_again() {
    for any_commit in [false, true] {
        let f = Fixture::new().await;
        f.server.git(&["config", "uploadpack.allowReachableSHA1InWant", &any_commit.to_string()]);
        let old = f.server.push("production", &[("workers/hello/hello.wasm", b"one")]);
        let next = f.server.push("production", &[("workers/hello/hello.wasm", b"two")]);
        f.server.push("production", &[("config/flags.yaml", FLAGS)]);
        f.poll().await.unwrap();
        f.server.requests();
        assert_eq!(f.blob(&old, "workers/hello/hello.wasm").await.unwrap(), b"one");
        assert_eq!(f.server.requests(), 2, "refs and one fetch");
        assert_eq!(f.blob(&next, "workers/hello/hello.wasm").await.unwrap(), b"two");
        // With the history at hand nothing more is asked.
        assert_eq!(f.server.requests(), if any_commit { 2 } else { 0 });
        let none = f.blob(&next, "workers/hello").await.unwrap_err();
        assert_eq!(none.to_string(), format!("in commit {next} `workers/hello` is a folder"));
        let gone = "1111111111111111111111111111111111111111";
        assert_eq!(f.blob(gone, "x").await.unwrap_err(), SourceError::CommitGone(gone.into()));
        assert!(f.poll().await.unwrap()[&Production].is_ok(), "the clone is as good as before");
    }
}
