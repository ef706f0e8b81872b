//! A git provider that is played: the endpoints of Gitea for commit statuses, pull requests and lists of commits, and what
//! it was told there.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{
    Method, Request, Response, StatusCode,
    header::{AUTHORIZATION, LINK},
};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use serde_json::{Value, json};
use sluice_e2e::{
    Cluster,
    pki::{Identity, Pki},
    run,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

/// What it takes, as it comes in the header, and whose that is.
pub(crate) const TOKEN: &str = "told-you-so";
pub(crate) const ACCOUNT: &str = "sluice-staging";
const TOKENS: [(&str, &str); 2] = [(TOKEN, ACCOUNT), (OTHER_TOKEN, "sluice-production")];
pub(crate) const OTHER_TOKEN: &str = "what-did-they-say";

/// One status, as it was told.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Told {
    pub(crate) commit: String,
    pub(crate) context: String,
    pub(crate) state: String,
    pub(crate) description: String,
    pub(crate) account: String,
}

/// One pull request, as it was opened.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Pull {
    pub(crate) head: String,
    pub(crate) base: String,
    pub(crate) title: String,
    pub(crate) body: String,
}

/// Where it says that pull requests are shown.
pub(crate) const PAGE: &str = "http://provider.example/team/edge/pulls/1";
const REPOSITORY: &str = "/api/v1/repos/team/edge/";
/// So few that a page is rarely all of it.
const STATUSES_A_PAGE: usize = 2;

/// It ends when this is dropped.
pub(crate) struct Provider {
    shared: Arc<Shared>,
    address: SocketAddr,
    scheme: &'static str,
    _server: JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    /// What it lists commits from.
    repository: PathBuf,
    refuses: AtomicBool,
    told: Mutex<Vec<Told>>,
    pulls: Mutex<Vec<Pull>>,
}

impl Provider {
    pub(crate) async fn start(listen: IpAddr) -> Result<Self> {
        Self::serve(listen, None, Shared::default()).await
    }

    /// One over TLS that knows the repository's history; and whose word its certificate is.
    pub(crate) async fn over_tls(cluster: &Cluster, repository: PathBuf) -> Result<(Self, PathBuf)> {
        let (ip, pki) = (cluster.bridge_ip()?, Pki::of(cluster.folder()?)?);
        let identity = Identity::server("provider", vec![ip.to_string()]);
        let (certificate, key) = pki.issue("provider", &identity)?;
        let certificates = CertificateDer::pem_file_iter(certificate)?.collect::<Result<_, _>>()?;
        let key = PrivateKeyDer::from_pem_file(key)?;
        let tls = ServerConfig::builder().with_no_client_auth().with_single_cert(certificates, key)?;
        let shared = Shared { repository, ..Shared::default() };
        Ok((Self::serve(ip.into(), Some(Arc::new(tls).into()), shared).await?, pki.ca()))
    }

    async fn serve(listen: IpAddr, tls: Option<TlsAcceptor>, shared: Shared) -> Result<Self> {
        let listener = TcpListener::bind((listen, 0)).await?;
        let (address, shared) = (listener.local_addr()?, Arc::new(shared));
        let scheme = if tls.is_some() { "https" } else { "http" };
        let mut server = JoinSet::new();
        server.spawn(serve(listener, tls, Arc::clone(&shared)));
        Ok(Self { shared, address, scheme, _server: server })
    }

    /// Base of its API.
    pub(crate) fn api(&self) -> String {
        format!("{}://{}/api/v1", self.scheme, self.address)
    }

    /// Whether it refuses everybody.
    pub(crate) fn refuse(&self, refuses: bool) {
        self.shared.refuses.store(refuses, Ordering::Relaxed);
    }

    /// What it was told of a commit, in order.
    pub(crate) fn told(&self, commit: &str) -> Vec<Told> {
        let told = self.shared.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.iter().filter(|told| told.commit == commit).cloned().collect()
    }

    /// Takes a status from somebody.
    pub(crate) fn take(&self, told: Told) {
        self.shared.told.lock().unwrap_or_else(PoisonError::into_inner).push(told);
    }

    /// The pull requests that were opened, in order.
    pub(crate) fn pulls(&self) -> Vec<Pull> {
        self.shared.pulls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (shared, tls) = (Arc::clone(&shared), tls.clone());
        connections.spawn(async move {
            match tls {
                None => serve_one(stream, shared).await,
                // Who does not believe the certificate is gone.
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        serve_one(stream, shared).await;
                    }
                }
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn serve_one(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, shared: Arc<Shared>) {
    let answer = service_fn(|request| {
        let shared = Arc::clone(&shared);
        async move {
            let answer = answer(&shared, request).await;
            let Answer { status, body, more } = answer.unwrap_or_else(|error| Answer {
                body: json!({"message": error.to_string()}),
                ..Answer::of(StatusCode::BAD_REQUEST)
            });
            let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
            *response.status_mut() = status;
            if more {
                let next = http::HeaderValue::from_static("<https://provider.example/next>; rel=\"next\"");
                response.headers_mut().insert(LINK, next);
            }
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    // How a connection ends is the client's business.
    drop(http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await);
}

struct Answer {
    status: StatusCode,
    body: Value,
    /// Whether there is another page.
    more: bool,
}

impl Answer {
    fn of(status: StatusCode) -> Self {
        Self { status, body: json!({}), more: false }
    }

    fn list(items: Vec<Value>, more: bool) -> Self {
        Self { status: StatusCode::OK, body: Value::Array(items), more }
    }
}

async fn answer(shared: &Shared, request: Request<Incoming>) -> Result<Answer> {
    let is_of = |token: &str| request.headers().get(AUTHORIZATION).is_some_and(|v| v == &format!("token {token}"));
    let account = TOKENS.into_iter().find(|(token, _)| is_of(token)).map(|(_, account)| account);
    let Some(account) = account.filter(|_| !shared.refuses.load(Ordering::Relaxed)) else {
        return Ok(Answer::of(StatusCode::UNAUTHORIZED));
    };
    let path = request.uri().path().strip_prefix(REPOSITORY).context("another repository")?.to_owned();
    if request.method() == Method::GET {
        let query = request.uri().query().unwrap_or_default().to_owned();
        return match path.strip_prefix("commits/").and_then(|rest| rest.strip_suffix("/statuses")) {
            Some(commit) => Ok(statuses(shared, commit, number(&query, "page")?)),
            None if path == "commits" => commits(&shared.repository, &query),
            None => Ok(Answer::of(StatusCode::NOT_FOUND)),
        };
    }
    let body: Value = serde_json::from_slice(&request.into_body().collect().await?.to_bytes())?;
    let text = |key: &str| body[key].as_str().map(str::to_owned).context("a field is missing");
    if path == "pulls" {
        let pull = Pull { head: text("head")?, base: text("base")?, title: text("title")?, body: text("body")? };
        let mut pulls = shared.pulls.lock().unwrap_or_else(PoisonError::into_inner);
        if pulls.iter().any(|open| open.head == pull.head) {
            return Ok(Answer::of(StatusCode::CONFLICT));
        }
        pulls.push(pull);
        return Ok(Answer { body: json!({"html_url": PAGE}), ..Answer::of(StatusCode::CREATED) });
    }
    let (commit, account) = (path.strip_prefix("statuses/").context("another path")?.to_owned(), account.to_owned());
    let (context, state, description) = (text("context")?, text("state")?, text("description")?);
    let told = Told { commit, context, state, description, account };
    shared.told.lock().unwrap_or_else(PoisonError::into_inner).push(told);
    Ok(Answer::of(StatusCode::CREATED))
}

/// A page of a commit's statuses, the newest first.
fn statuses(shared: &Shared, commit: &str, page: usize) -> Answer {
    let told = shared.told.lock().unwrap_or_else(PoisonError::into_inner);
    let all = told.iter().enumerate().rev().filter(|(_, told)| told.commit == commit);
    let mut items = all.skip((page - 1) * STATUSES_A_PAGE).map(|(index, told)| {
        json!({"id": index + 1, "context": told.context, "status": told.state, "description": told.description,
            "creator": {"login": told.account}})
    });
    let of_page = items.by_ref().take(STATUSES_A_PAGE).collect();
    Answer::list(of_page, items.next().is_some())
}

/// Commits that changed a path, as git itself says.
fn commits(repository: &Path, query: &str) -> Result<Answer> {
    let (sha, path) = (value(query, "sha")?, value(query, "path")?.replace("%2F", "/"));
    let limit = format!("--max-count={}", number(query, "limit")?);
    let git = ["log", "--format=%H %cI", &limit, sha, "--", &path];
    let listed = run::output(Command::new("git").arg("-C").arg(repository).args(git))?;
    let items: Vec<Value> = listed
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(sha, date)| json!({"sha": sha, "commit": {"committer": {"date": date}}}))
        .collect();
    // As Gitea does where nothing ever had that path.
    Ok(if items.is_empty() { Answer::of(StatusCode::NOT_FOUND) } else { Answer::list(items, false) })
}

fn value<'q>(query: &'q str, key: &str) -> Result<&'q str> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(name, _)| *name == key).map(|(_, value)| value).with_context(|| format!("no {key} in {query}"))
}

fn number(query: &str, key: &str) -> Result<usize> {
    let number = value(query, key)?.parse()?;
    ensure!(number > 0, "{key} begins at 1");
    Ok(number)
}
