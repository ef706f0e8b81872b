//! Where revisions and artifacts come from when they are not on disk.
//!
//! Whatever comes from here is untrusted until its digest was checked; the caller does that once,
//! in `load`.

mod directory;
mod operator;

use std::time::Duration;

use sluice_config::{Artifact, Digest, Revision, UnitRef};

pub(crate) use directory::Directory;
pub(crate) use operator::Operator;

/// The API server may take the request and never answer.
const GET_TIMEOUT: Duration = Duration::from_secs(10);

/// What could not be had; always local trouble, since it may be there later or elsewhere.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("revision {0} is not in {1}")]
    NoRevision(String, String),
    #[error("artifact {0} is not in {1}")]
    NoArtifact(String, String),
    #[error("the API server did not give revision {name}: {problem}")]
    Api { name: String, problem: String },
    #[error("the operator did not give artifact {digest}: {problem}")]
    Operator { digest: String, problem: String },
    #[error("{path}: {problem}")]
    File { path: String, problem: String },
}

/// Where to ask.
#[derive(Clone)]
pub(crate) struct Source {
    /// Asked first.
    pub(crate) directory: Option<Directory>,
    /// Revisions.
    pub(crate) api: Option<kube::Client>,
    /// Artifacts.
    pub(crate) operator: Option<Operator>,
}

impl Source {
    pub(crate) async fn revision(&self, unit: &UnitRef, digest: &Digest) -> Result<Revision, FetchError> {
        if let Some(directory) = &self.directory {
            return directory.revision(digest);
        }
        let name = sluice_crds::RevisionSpec::object_name(unit, digest);
        let Some(client) = &self.api else {
            return Err(FetchError::NoRevision(name, "the disk cache".into()));
        };
        let api: kube::Api<sluice_crds::Revision> = kube::Api::namespaced(client.clone(), &unit.namespace);
        let Ok(answer) = tokio::time::timeout(GET_TIMEOUT, api.get_opt(&name)).await else {
            return Err(FetchError::Api { name, problem: format!("no answer within {} s", GET_TIMEOUT.as_secs()) });
        };
        match answer {
            Ok(Some(object)) => Ok(object.spec.content),
            Ok(None) => Err(FetchError::NoRevision(name, format!("namespace {}", unit.namespace))),
            Err(error) => Err(FetchError::Api { name, problem: chain(&error) }),
        }
    }

    pub(crate) async fn artifact(&self, artifact: &Artifact) -> Result<Vec<u8>, FetchError> {
        let local = self.directory.as_ref().map(|d| d.artifact(&artifact.digest));
        match (local, &self.operator) {
            (Some(Ok(bytes)), _) => Ok(bytes),
            (_, Some(operator)) => operator.artifact(artifact).await,
            (Some(Err(error)), None) => Err(error),
            (None, None) => Err(FetchError::NoArtifact(artifact.digest.to_string(), "the disk cache".into())),
        }
    }
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
