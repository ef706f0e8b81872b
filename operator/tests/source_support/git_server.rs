//! A git server on loopback: `git http-backend` behind a few lines of HTTP, and pushes by fast-import.

use std::{
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;

/// What the server does with the next requests.
#[derive(Clone, Debug)]
pub enum Mood {
    /// Serve.
    Serve,
    /// Serve those who know the password.
    Password(&'static str),
    /// Answer with a status, and a Location if any.
    Status(u16, Option<String>),
    /// Never answer.
    Stall,
    /// Answer 200 with this content type and body.
    Say(&'static str, &'static str),
}

/// The server; ends with the value.
pub struct GitServer {
    pub address: SocketAddr,
    root: tempfile::TempDir,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

struct Shared {
    mood: Mutex<Mood>,
    requests: AtomicUsize,
    with_credentials: AtomicUsize,
    root: PathBuf,
}

impl Drop for GitServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl GitServer {
    /// One repository, `edge.git`, without a branch.
    pub async fn start() -> Self {
        Self::start_with(None).await
    }

    /// The same over TLS.
    pub async fn start_tls(config: Arc<rustls::ServerConfig>) -> Self {
        Self::start_with(Some(config)).await
    }

    async fn start_with(tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let root = tempfile::tempdir().unwrap();
        git(root.path(), &["init", "--quiet", "--bare", "edge.git"]);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            mood: Mutex::new(Mood::Serve),
            requests: AtomicUsize::new(0),
            with_credentials: AtomicUsize::new(0),
            root: root.path().to_owned(),
        });
        let for_task = shared.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (shared, tls) = (for_task.clone(), tls.clone());
                tokio::spawn(async move {
                    let service = service_fn(move |request| answer(shared.clone(), request));
                    let http1 = hyper::server::conn::http1::Builder::new();
                    let _closed_by_client = match tls {
                        None => http1.serve_connection(TokioIo::new(stream), service).await,
                        Some(config) => match tokio_rustls::TlsAcceptor::from(config).accept(stream).await {
                            Ok(stream) => http1.serve_connection(TokioIo::new(stream), service).await,
                            Err(_refused_by_client) => return,
                        },
                    };
                });
            }
        });
        Self { address, root, shared, task }
    }

    pub fn url(&self) -> String {
        format!("http://{}/edge.git", self.address)
    }

    pub fn set(&self, mood: Mood) {
        *self.shared.mood.lock().unwrap() = mood;
    }

    /// Requests since the last call.
    pub fn requests(&self) -> usize {
        self.shared.requests.swap(0, Ordering::Relaxed)
    }

    /// Requests with credentials, ever.
    pub fn with_credentials(&self) -> usize {
        self.shared.with_credentials.load(Ordering::Relaxed)
    }

    pub fn git(&self, args: &[&str]) -> String {
        git(&self.root.path().join("edge.git"), args)
    }

    /// Commits exactly these files on top of a branch; answers the commit.
    pub fn push(&self, branch: &str, files: &[(&str, &[u8])]) -> String {
        self.import(branch, files, true)
    }

    /// The same without any history: a forced push.
    pub fn force(&self, branch: &str, files: &[(&str, &[u8])]) -> String {
        self.import(branch, files, false)
    }

    /// Paths may carry a mode: `120000:link`, `160000:submodule` (content: the commit).
    fn import(&self, branch: &str, files: &[(&str, &[u8])], on_top: bool) -> String {
        let mut stream = Vec::new();
        let exists = !self.git(&["for-each-ref", &format!("refs/heads/{branch}")]).is_empty();
        write!(stream, "commit refs/heads/{branch}\ncommitter Ann Example <ann@example.com> 1700000000 +0000\n")
            .unwrap();
        let message = format!("Change {branch}\n\nAt length.\n");
        write!(stream, "data {}\n{message}\n", message.len()).unwrap();
        if on_top && exists {
            writeln!(stream, "from refs/heads/{branch}^0").unwrap();
        }
        stream.extend_from_slice(b"deleteall\n");
        for (path, content) in files {
            let (mode, path) = path.split_once(':').unwrap_or(("100644", path));
            if mode == "160000" {
                writeln!(stream, "M {mode} {} {path}", String::from_utf8_lossy(content)).unwrap();
                continue;
            }
            write!(stream, "M {mode} inline {path}\ndata {}\n", content.len()).unwrap();
            stream.extend_from_slice(content);
            stream.push(b'\n');
        }
        let folder = self.root.path().join("edge.git");
        let mut child = command(&folder, &["fast-import", "--quiet", "--force"]).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(&stream).unwrap();
        assert!(child.wait().unwrap().success());
        self.git(&["rev-parse", &format!("refs/heads/{branch}")])
    }

    /// A commit whose tree git itself would not make: raw entries of mode, name, id.
    pub fn push_raw_tree(&self, branch: &str, name: &str) {
        let folder = self.root.path().join("edge.git");
        let blob = pipe(&folder, &["hash-object", "-w", "--stdin"], b"x");
        let mut tree = format!("100644 {name}\0").into_bytes();
        tree.extend((0..20).map(|i| u8::from_str_radix(&blob[2 * i..2 * i + 2], 16).unwrap()));
        let tree = pipe(&folder, &["hash-object", "-w", "-t", "tree", "--literally", "--stdin"], &tree);
        let commit = git(&folder, &["commit-tree", &tree, "-m", "trap"]);
        git(&folder, &["update-ref", &format!("refs/heads/{branch}"), &commit]);
    }
}

fn command(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new("git");
    command
        .args(args)
        .current_dir(folder)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", folder)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .envs(["AUTHOR", "COMMITTER"].map(|who| (format!("GIT_{who}_NAME"), "Ann")))
        .envs(["AUTHOR", "COMMITTER"].map(|who| (format!("GIT_{who}_EMAIL"), "ann@example.com")));
    command
}

/// Runs git; answers what it prints.
pub fn git(folder: &Path, args: &[&str]) -> String {
    let out = command(folder, args).output().unwrap();
    assert!(out.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

fn pipe(folder: &Path, args: &[&str], input: &[u8]) -> String {
    let mut child = command(folder, args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success());
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, std::io::Error> {
    shared.requests.fetch_add(1, Ordering::Relaxed);
    let authorization = request.headers().get("authorization").map(|v| v.to_str().unwrap().to_owned());
    if authorization.is_some() {
        shared.with_credentials.fetch_add(1, Ordering::Relaxed);
    }
    let mood = shared.mood.lock().unwrap().clone();
    let status = |code: u16| Response::builder().status(code);
    match mood {
        Mood::Serve => {}
        Mood::Password(expected) if authorization.as_deref() == Some(expected) => {}
        Mood::Password(_) => return Ok(status(401).body(Full::default()).unwrap()),
        Mood::Status(code, None) => return Ok(status(code).body(Full::default()).unwrap()),
        Mood::Status(code, Some(to)) => return Ok(status(code).header("location", to).body(Full::default()).unwrap()),
        Mood::Stall => std::future::pending().await,
        Mood::Say(kind, body) => {
            return Ok(status(200).header("content-type", kind).body(Full::from(body)).unwrap());
        }
    }
    backend(&shared.root, request).await
}

/// Runs `git http-backend` as CGI does.
async fn backend(root: &Path, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, std::io::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
    let mut backend = tokio::process::Command::from(command(root, &["http-backend"]));
    backend
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("PATH_INFO", head.uri.path())
        .env("QUERY_STRING", head.uri.query().unwrap_or_default())
        .env("REQUEST_METHOD", head.method.as_str())
        .env("CONTENT_LENGTH", body.len().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    if let Some(kind) = head.headers.get("content-type") {
        backend.env("CONTENT_TYPE", kind.to_str().unwrap());
    }
    let mut child = backend.spawn()?;
    let mut stdin = child.stdin.take().unwrap();
    let write = tokio::spawn(async move { stdin.write_all(&body).await });
    let out = child.wait_with_output().await?.stdout;
    // A backend that refuses early does not read all.
    let _refused_early = write.await;
    let end = out.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or(out.len());
    let mut response = Response::builder();
    for line in String::from_utf8_lossy(&out[..end]).lines() {
        match line.split_once(": ") {
            Some(("Status", status)) => response = response.status(status[..3].parse::<u16>().unwrap()),
            Some((name, value)) => response = response.header(name, value),
            None => {}
        }
    }
    Ok(response.body(Full::from(out.get(end + 4..).unwrap_or_default().to_vec())).unwrap())
}
