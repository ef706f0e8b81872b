//! Asks a server for refs and objects, and takes the objects into the clone on disk; gives it the few that are made here.

use std::path::{Path, PathBuf};

use tokio::{io::AsyncWriteExt, sync::Semaphore, task::spawn_blocking, time::Instant};

use super::{
    amend::Amended,
    clone::{BareClone, CloneError},
    http::{Asking, Http, Web},
    pack,
    protocol::{Advertisement, Demux, Want, push_body, pushed},
    url::GitUrl,
};
use crate::source::{Credentials, Options, SourceError};

/// Packs that are received or unpacked at one time; further repositories wait for their turn, and
/// one that stalls gives its turn back after the timeout.
const FETCHES_MAX: usize = 8;
/// Bytes of the answer that lists the refs.
const REFS_BYTES_MAX: u64 = 64 << 20;
/// Bytes of the answer to a push.
const REPORT_BYTES_MAX: u64 = 1 << 20;
/// Where a pack lies until it is checked.
const INCOMING: &str = "sluice-incoming";

/// A repository that is being worked on.
pub(super) struct At<'a> {
    pub(super) url: GitUrl,
    pub(super) credentials: Option<&'a Credentials>,
    /// Of its clone.
    pub(super) folder: PathBuf,
}

impl At<'_> {
    /// Does blocking work on the clone.
    pub(super) async fn on_clone<T: Send + 'static>(
        &self,
        work: impl FnOnce(BareClone) -> Result<T, CloneError> + Send + 'static,
    ) -> Result<T, CloneError> {
        let (folder, url) = (self.folder.clone(), self.url.base.clone());
        blocking(move || work(BareClone::open(&folder, &url)?)).await
    }
}

/// What all fetches share.
pub(super) struct Fetcher {
    http: Http,
    options: Options,
    turns: Semaphore,
}

impl Fetcher {
    pub(super) fn new(options: Options) -> Result<Self, SourceError> {
        Ok(Self { http: Http::new(&options)?, options, turns: Semaphore::new(FETCHES_MAX) })
    }

    pub(super) fn web(&self) -> &Web {
        self.http.web()
    }

    /// What the server has.
    pub(super) async fn refs(&self, at: &At<'_>) -> Result<Advertisement, SourceError> {
        let mut answer = self.http.refs(&self.asking(at)).await?;
        let mut bytes = Vec::new();
        while let Some(piece) = answer.next(REFS_BYTES_MAX).await? {
            bytes.extend_from_slice(&piece);
        }
        Advertisement::parse(&bytes)
    }

    /// Asks for objects and takes them into the clone: all of them, or none.
    pub(super) async fn objects(&self, at: &At<'_>, want: &Want<'_>) -> Result<(), SourceError> {
        let _turn = self.turns.acquire().await.map_err(|_| SourceError::WorkFolder("shutting down".to_owned()))?;
        at.on_clone(|_| Ok(())).await.map_err(own_fault)?;
        let path = at.folder.join(INCOMING);
        let taken = match self.receive(at, want, &path).await {
            Ok(()) => {
                let (path, limits) = (path.clone(), pack::Limits::of(&self.options));
                at.on_clone(move |clone| clone.add_pack(&path, limits)).await.map_err(own_fault)
            }
            Err(error) => Err(error),
        };
        if let Err(error) = tokio::fs::remove_file(&path).await {
            tracing::debug!(%error, "no incoming pack to remove");
        }
        taken
    }

    async fn receive(&self, at: &At<'_>, want: &Want<'_>, path: &Path) -> Result<(), SourceError> {
        let own = |e: std::io::Error| SourceError::WorkFolder(e.to_string());
        let mut answer = self.http.upload_pack(&self.asking(at), want.body()).await?;
        let mut file = tokio::fs::File::create(path).await.map_err(own)?;
        let (mut demux, mut pack) = (Demux::default(), Vec::new());
        while let Some(piece) = answer.next(self.options.fetch_bytes_max).await? {
            demux.push(&piece, &mut pack)?;
            file.write_all(&pack).await.map_err(own)?;
            pack.clear();
        }
        file.flush().await.map_err(own)?;
        if demux.is_done() { Ok(()) } else { Err(SourceError::NotGit("the answer ends early".to_owned())) }
    }

    /// Makes a branch of a commit.
    pub(super) async fn push(&self, at: &At<'_>, branch: &str, amended: &Amended) -> Result<(), SourceError> {
        let body = push_body(branch, amended.commit, &amended.pack);
        let answer = self.http.receive_pack(&self.asking(at), body).await;
        if let Err(SourceError::CredentialsRefused { status }) = answer {
            return Err(SourceError::PushRefused { status });
        }
        let mut answer = answer?;
        let mut report = Vec::new();
        while let Some(piece) = answer.next(REPORT_BYTES_MAX).await? {
            report.extend_from_slice(&piece);
        }
        pushed(&report)
    }

    /// The time begins now: waiting for a turn is not the server's time.
    fn asking<'a>(&self, at: &'a At<'_>) -> Asking<'a> {
        let timeout = self.options.timeout;
        Asking { url: &at.url, credentials: at.credentials, deadline: Instant::now() + timeout, timeout }
    }
}

/// A clone that is damaged even after it was fetched anew: the disk's fault.
pub(super) fn own_fault(error: CloneError) -> SourceError {
    match error {
        CloneError::Source(error) => error,
        CloneError::Damaged(why) => SourceError::WorkFolder(format!("a clone cannot be used: {why}")),
    }
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CloneError> + Send + 'static,
) -> Result<T, CloneError> {
    spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(SourceError::WorkFolder(format!("work on a clone was cut short: {e}")).into()))
}
