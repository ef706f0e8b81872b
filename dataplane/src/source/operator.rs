//! Artifacts from an operator replica: by digest, over TLS, with the pod's token.

use std::{path::PathBuf, time::Duration};

use sluice_config::{Artifact, limits};

use super::{FetchError, chain};

/// From the first byte sent to the last received.
const FETCH_TIMEOUT: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// The operator's artifact server. Certificate authority and token are read at each fetch: both
/// are rotated under us, and fetches are rare.
#[derive(Clone, Debug)]
pub(crate) struct Operator {
    pub(crate) url: String,
    pub(crate) ca_file: PathBuf,
    pub(crate) token_file: PathBuf,
}

impl Operator {
    /// The bytes, no more than the artifact's size of them. Not yet verified.
    pub(crate) async fn artifact(&self, artifact: &Artifact) -> Result<Vec<u8>, FetchError> {
        let failed = |problem: String| FetchError::Operator { digest: artifact.digest.to_string(), problem };
        let client = self.client().await.map_err(failed)?;
        let token = tokio::fs::read_to_string(&self.token_file)
            .await
            .map_err(|e| failed(format!("token file {}: {e}", self.token_file.display())))?;
        let url = format!("{}/v1/artifacts/{}", self.url.trim_end_matches('/'), artifact.digest);
        let mut response = client.get(url).bearer_auth(token.trim()).send().await.map_err(|e| failed(chain(&e)))?;
        if response.status() != reqwest::StatusCode::OK {
            return Err(failed(format!("it answered {}", response.status())));
        }
        let size = artifact.size.min(limits::ARTIFACT_BYTES);
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| failed(chain(&e)))? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > size {
                return Err(failed(format!("it sent more than the {size} bytes announced")));
            }
        }
        Ok(bytes)
    }

    async fn client(&self) -> Result<reqwest::Client, String> {
        let builder = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(FETCH_TIMEOUT)
            .pool_max_idle_per_host(0);
        let ca_file = self.ca_file.display();
        let pem = tokio::fs::read(&self.ca_file).await.map_err(|e| format!("CA file {ca_file}: {e}"))?;
        let certificates =
            reqwest::Certificate::from_pem_bundle(&pem).map_err(|e| format!("CA file {ca_file}: {}", chain(&e)))?;
        if certificates.is_empty() {
            return Err(format!("CA file {ca_file} holds no certificate"));
        }
        builder.tls_certs_only(certificates).https_only(true).build().map_err(|e| chain(&e))
    }
}
