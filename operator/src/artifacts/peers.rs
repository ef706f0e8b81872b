//! Other replicas of the operator, as a source of artifacts.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use sluice_config::{Artifact, Digest};

use super::ca::Identity;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const FETCH_TIMEOUT: Duration = Duration::from_secs(60);
/// Replicas asked for one artifact.
const PEERS_MAX: usize = 8;

/// Why no peer could be asked.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// The own token cannot be read.
    #[error("the token for peers cannot be read from {path}: {error}")]
    Token {
        /// Of the file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The authority's certificates.
    #[error("no HTTPS client for peers: {0}")]
    Client(String),
}

/// How to reach the other replicas.
#[derive(Clone, Debug)]
pub struct Peers {
    /// Headless Service, `sluice-operator-peers.<namespace>.svc`.
    pub service: String,
    /// Port of the artifact server.
    pub port: u16,
    /// Name in the replicas' certificates, `sluice-operator-artifacts.<namespace>.svc`.
    pub server_name: String,
    /// This replica's own addresses: it has asked itself already.
    pub own_addresses: Vec<IpAddr>,
    /// Projected token with the audience `sluice-artifacts`, read at each use: it is rotated.
    pub token_file: PathBuf,
    /// Whom to trust.
    pub identity: Identity,
}

impl Peers {
    /// The bytes, from the first replica that has them; `None` if none has.
    ///
    /// # Errors
    /// Nobody could be asked.
    pub async fn fetch(&self, artifact: &Artifact) -> Result<Option<Vec<u8>>, PeerError> {
        let token = tokio::fs::read_to_string(&self.token_file)
            .await
            .map_err(|error| PeerError::Token { path: self.token_file.clone(), error })?;
        for address in self.addresses().await {
            match self.fetch_from(address, artifact, token.trim()).await {
                Ok(Some(bytes)) => return Ok(Some(bytes)),
                Ok(None) => {}
                Err(error) => tracing::debug!(%error, %address, digest = %artifact.digest, "peer does not help"),
            }
        }
        Ok(None)
    }

    async fn addresses(&self) -> Vec<SocketAddr> {
        // A name that is not there means no other replica.
        let Ok(found) = tokio::net::lookup_host((self.service.as_str(), self.port)).await else { return Vec::new() };
        found.filter(|a| !self.own_addresses.contains(&a.ip())).take(PEERS_MAX).collect()
    }

    async fn fetch_from(
        &self,
        address: SocketAddr,
        artifact: &Artifact,
        token: &str,
    ) -> Result<Option<Vec<u8>>, PeerError> {
        let failed = |e: &dyn std::fmt::Display| PeerError::Client(e.to_string());
        let trusted = reqwest::Certificate::from_pem_bundle(self.identity.bundle_pem().as_bytes());
        let client = reqwest::Client::builder()
            .tls_certs_only(trusted.map_err(|e| failed(&e))?)
            .https_only(true)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(FETCH_TIMEOUT)
            .resolve(&self.server_name, address)
            .build()
            .map_err(|e| failed(&e))?;
        let url = format!("https://{}:{}/v1/artifacts/{}", self.server_name, self.port, artifact.digest);
        let mut response = client.get(url).bearer_auth(token).send().await.map_err(|e| failed(&e))?;
        if response.status() == reqwest::StatusCode::NOT_FOUND {
            return Ok(None);
        }
        if response.status() != reqwest::StatusCode::OK {
            return Err(failed(&response.status()));
        }
        let mut bytes = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|e| failed(&e))? {
            if (bytes.len() + piece.len()) as u64 > artifact.size {
                return Err(failed(&"longer than it should be"));
            }
            bytes.extend_from_slice(&piece);
        }
        if Digest::of(&bytes) == artifact.digest { Ok(Some(bytes)) } else { Err(failed(&"other content")) }
    }
}
