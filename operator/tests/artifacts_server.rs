//! Artifacts over TLS: who gets them, and what a replica does that lacks one.
#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping")]

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use sluice_config::{Artifact, Digest};
use sluice_operator::{
    artifacts::{
        Authorities, Caller, Identity, Peers, ReviewError, ReviewTokens, ServeOptions, Store, Supplied, Supply, serve,
    },
    source::{Options, Source},
};
use tokio::{io::AsyncReadExt, net::TcpListener};

const SERVER_NAME: &str = "sluice-operator-artifacts.sluice-system.svc";

/// Tokens are the names of service accounts; `down` finds no API server.
#[derive(Default)]
struct Reviewer {
    asked: AtomicUsize,
}

#[async_trait]
impl ReviewTokens for Reviewer {
    async fn review(&self, token: &str) -> Result<Option<Caller>, ReviewError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        match token {
            "down" => Err(ReviewError("no API server".into())),
            "nobody" => Ok(None),
            name => Ok(Some(Caller { username: format!("system:serviceaccount:sluice-system:{name}") })),
        }
    }
}

struct Replica {
    store: Store,
    identity: Identity,
    reviewer: Arc<Reviewer>,
    address: SocketAddr,
    folder: tempfile::TempDir,
}

impl Replica {
    async fn start(authorities: &Authorities) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().join("artifacts")).await.unwrap();
        let identity = Identity::of(authorities.clone(), vec![SERVER_NAME.into()], Timestamp::now()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let reviewer = Arc::new(Reviewer::default());
        let callers = ["dataplane", "operator"].map(|name| format!("system:serviceaccount:sluice-system:{name}"));
        let options = ServeOptions {
            store: store.clone(),
            identity: identity.clone(),
            reviewer: reviewer.clone(),
            callers: BTreeSet::from(callers),
        };
        tokio::spawn(serve(listener, options, std::future::pending()));
        Self { store, identity, reviewer, address, folder }
    }

    fn client(&self) -> reqwest::Client {
        let trusted = reqwest::Certificate::from_pem_bundle(self.identity.bundle_pem().as_bytes()).unwrap();
        let builder = reqwest::Client::builder().tls_certs_only(trusted).no_proxy();
        builder.resolve(SERVER_NAME, self.address).build().unwrap()
    }

    async fn get(&self, path: &str, token: Option<&str>) -> (u16, Vec<u8>) {
        let mut request = self.client().get(format!("https://{SERVER_NAME}:{}{path}", self.address.port()));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.bytes().await.unwrap().to_vec())
    }
}

fn authorities() -> Authorities {
    Authorities::generate(Timestamp::now()).unwrap()
}

#[tokio::test]
async fn only_the_named_accounts_get_artifacts() {
    let replica = Replica::start(&authorities()).await;
    let bytes = vec![7; 3 << 20];
    let digest = Digest::of(&bytes);
    replica.store.put(&digest, bytes.clone()).await.unwrap();
    let path = format!("/v1/artifacts/{digest}");
    for (token, expected) in
        [(None, 401), (Some(""), 401), (Some("nobody"), 401), (Some("other"), 403), (Some("down"), 503)]
    {
        assert_eq!(replica.get(&path, token).await, (expected, vec![]), "{token:?}");
    }
    assert!(replica.get(&path, Some("dataplane")).await == (200, bytes));
    for path in
        ["/", "/v1/artifacts/", "/v1/artifacts/../../etc/passwd", &format!("/v1/artifacts/{}", Digest::of(b"x"))]
    {
        assert_eq!(replica.get(path, Some("dataplane")).await.0, 404, "{path}");
    }
    let long = "x".repeat(9000);
    assert_eq!(replica.get(&path, Some(&long)).await.0, 401);
    let url = format!("https://{SERVER_NAME}:{}{path}", replica.address.port());
    let deleted = replica.client().delete(url).bearer_auth("operator").send().await.unwrap();
    assert_eq!(deleted.status().as_u16(), 405);
}

#[tokio::test]
async fn who_was_let_in_is_not_reviewed_each_time() {
    let replica = Replica::start(&authorities()).await;
    for _ in 0..5 {
        replica.get("/v1/artifacts/x", Some("dataplane")).await;
    }
    assert_eq!(replica.reviewer.asked.load(Ordering::Relaxed), 1);
    for _ in 0..3 {
        replica.get("/v1/artifacts/x", Some("nobody")).await;
    }
    assert_eq!(replica.reviewer.asked.load(Ordering::Relaxed), 4, "a refusal is not remembered");
}

#[tokio::test]
async fn plain_http_and_strangers_certificates_get_nowhere() {
    let replica = Replica::start(&authorities()).await;
    let mut plain = tokio::net::TcpStream::connect(replica.address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut plain, b"GET /v1/artifacts/x HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _reset_or_end = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"));
    let stranger = Replica::start(&authorities()).await;
    let url = format!("https://{SERVER_NAME}:{}/", replica.address.port());
    let trusting_another = stranger.client();
    assert!(trusting_another.get(url).send().await.is_err());
}

#[tokio::test]
async fn a_replica_that_lacks_an_artifact_gets_it_from_its_peer() {
    let authorities = authorities();
    let (first, second) = (Replica::start(&authorities).await, Replica::start(&authorities).await);
    let artifact = Artifact { digest: Digest::of(b"one"), size: 3 };
    first.store.put(&artifact.digest, b"one".to_vec()).await.unwrap();
    let token_file = second.folder.path().join("token");
    std::fs::write(&token_file, "operator\n").unwrap();
    let peers = Peers {
        service: "localhost".into(),
        port: first.address.port(),
        server_name: SERVER_NAME.into(),
        own_addresses: vec![],
        token_file,
        identity: second.identity.clone(),
    };
    let source = Source::new(Options::new(second.folder.path().join("git"))).unwrap();
    let supply = Supply::new(second.store.clone(), Some(peers), source);
    assert_eq!(supply.ensure(&artifact, None).await.unwrap(), Supplied::Peer);
    assert_eq!(second.store.get(&artifact.digest).await.unwrap(), Some(b"one".to_vec()));
    assert_eq!(supply.ensure(&artifact, None).await.unwrap(), Supplied::Disk);

    let nowhere = Artifact { digest: Digest::of(b"two"), size: 3 };
    let said = supply.ensure(&nowhere, None).await.unwrap_err().to_string();
    assert_eq!(
        said,
        format!(
            "artifact {} is on no other replica, and its Repository is gone: create the Repository again",
            nowhere.digest
        )
    );
    // A peer that sends more than there should be is not believed.
    first.store.put(&Digest::of(b"three"), b"three".to_vec()).await.unwrap();
    let short = Artifact { digest: Digest::of(b"three"), size: 3 };
    assert!(supply.ensure(&short, None).await.is_err());
}

#[test]
fn an_authority_is_succeeded_before_it_ends() {
    let born = Timestamp::now();
    let later = |days: i64| born.checked_add(SignedDuration::from_hours(24 * days)).unwrap();
    let first = Authorities::generate(born).unwrap();
    assert_eq!(first.advanced(later(3 * 365)).unwrap(), first);
    let announced = first.advanced(later(4 * 365)).unwrap();
    assert_eq!(announced.current, first.current, "nodes learn of the successor before it signs");
    assert_eq!(announced.bundle_pem().matches("BEGIN CERTIFICATE").count(), 2);
    assert_eq!(announced.advanced(later(4 * 365 + 1)).unwrap(), announced);
    let succeeded = announced.advanced(later(5 * 365 - 100)).unwrap();
    assert_eq!(Some(&succeeded.current), announced.next.as_ref());
    assert!(succeeded.bundle_pem().contains(&first.current.cert_pem), "what it signed is still believed");
    assert_eq!(succeeded.advanced(later(5 * 365)).unwrap(), succeeded);
}
