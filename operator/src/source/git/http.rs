//! Requests to git servers: no redirect, no proxy, no refused address, an end to bytes and time.

use std::{error::Error, sync::Arc, time::Duration};

use bytes::Bytes;
use reqwest::{
    Client, RequestBuilder, Response, StatusCode, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, LOCATION},
};
use tokio::time::Instant;

use super::url::{AddressRules, GitUrl, RefusedAddress, moved_to};
use crate::source::{Credentials, Options, SourceError};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Of one request, its answer included.
const ASK_TIMEOUT: Duration = Duration::from_secs(20);

/// Requests to hosts that a Repository names, under the rules for git servers: no redirect, no proxy, no refused address.
/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Web {
    client: Client,
    rules: AddressRules,
}

impl Web {
    /// Sends JSON to a URL that came from a field. The host, and its answer.
    pub(crate) async fn post(
        &self,
        (field, url): (&str, &str),
        (header, value): (&'static str, String),
        body: &serde_json::Value,
    ) -> Result<(String, Response), SourceError> {
        let host = GitUrl::of_field(field, url, &self.rules)?.host;
        let sent = self.client.post(url).timeout(ASK_TIMEOUT).header(header, value).json(body).send().await;
        match sent {
            Ok(answer) => Ok((host, answer)),
            Err(error) => Err(reachable_error(&error, &host)),
        }
    }

    /// Asks a URL that came from a field. The host, and its answer.
    pub(crate) async fn get(
        &self,
        (field, url): (&str, &str),
        query: &[(&'static str, String)],
        (header, value): (&'static str, String),
    ) -> Result<(String, Response), SourceError> {
        let host = GitUrl::of_field(field, url, &self.rules)?.host;
        let url = Url::parse_with_params(url, query).map_err(|error| SourceError::Url(format!("{field}: {error}")))?;
        match self.client.get(url).timeout(ASK_TIMEOUT).header(header, value).send().await {
            Ok(answer) => Ok((host, answer)),
            Err(error) => Err(reachable_error(&error, &host)),
        }
    }
}

/// One client for all repositories.
pub(super) struct Http {
    web: Web,
}

/// Whom to ask, as whom, and until when.
pub(super) struct Asking<'a> {
    pub(super) url: &'a GitUrl,
    pub(super) credentials: Option<&'a Credentials>,
    pub(super) deadline: Instant,
    pub(super) timeout: Duration,
}

impl Http {
    pub(super) fn new(options: &Options) -> Result<Self, SourceError> {
        let failed = |e: &dyn std::fmt::Display| SourceError::WorkFolder(format!("no HTTPS client: {e}"));
        let mut builder = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .dns_resolver(Arc::new(CheckedDns { rules: AddressRules::of(options) }))
            // Some servers show a web page to what does not call itself git.
            .user_agent(concat!("git/2 (sluice/", env!("CARGO_PKG_VERSION"), ")"));
        if let Some(pem) = &options.extra_ca_pem {
            let authorities = reqwest::Certificate::from_pem_bundle(pem).map_err(|e| failed(&e))?;
            builder = builder.tls_certs_merge(authorities);
        }
        let client = builder.build().map_err(|e| failed(&e))?;
        Ok(Self { web: Web { client, rules: AddressRules::of(options) } })
    }

    pub(super) fn web(&self) -> &Web {
        &self.web
    }

    /// What the server has: refs and capabilities.
    pub(super) async fn refs(&self, asking: &Asking<'_>) -> Result<Answer, SourceError> {
        let url = asking.url.refs();
        let request = self.web.client.get(&url).header(ACCEPT, "*/*").header(CACHE_CONTROL, "no-cache");
        asking.send(request, &url, "application/x-git-upload-pack-advertisement").await
    }

    /// Asks for objects.
    pub(super) async fn upload_pack(&self, asking: &Asking<'_>, body: Vec<u8>) -> Result<Answer, SourceError> {
        self.serve("git-upload-pack", asking, body).await
    }

    /// Gives objects, and the branch that they are for.
    pub(super) async fn receive_pack(&self, asking: &Asking<'_>, body: Vec<u8>) -> Result<Answer, SourceError> {
        self.serve("git-receive-pack", asking, body).await
    }

    async fn serve(&self, service: &str, asking: &Asking<'_>, body: Vec<u8>) -> Result<Answer, SourceError> {
        let (url, result) = (asking.url.service(service), format!("application/x-{service}-result"));
        let request = self
            .web
            .client
            .post(&url)
            .header(CONTENT_TYPE, format!("application/x-{service}-request"))
            .header(ACCEPT, &result)
            .body(body);
        asking.send(request, &url, &result).await
    }
}

impl Asking<'_> {
    async fn send(&self, request: RequestBuilder, url: &str, expected: &str) -> Result<Answer, SourceError> {
        let request = match self.credentials {
            Some(credentials) => request.basic_auth(&credentials.username, Some(&credentials.password)),
            None => request,
        };
        let response = tokio::time::timeout_at(self.deadline, request.send())
            .await
            .map_err(|_| self.timed_out())?
            .map_err(|e| self.unreachable(&e))?;
        self.check_status(&response, url)?;
        let found = response.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("none");
        if found != expected {
            let found: String = found.chars().take(80).collect();
            return Err(SourceError::NotGit(format!("the content type is {found}")));
        }
        Ok(Answer {
            response,
            deadline: self.deadline,
            host: self.url.host.clone(),
            seconds: self.timeout.as_secs(),
            bytes: 0,
        })
    }

    fn check_status(&self, response: &Response, url: &str) -> Result<(), SourceError> {
        let status = response.status();
        Err(match status {
            StatusCode::OK => return Ok(()),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if self.credentials.is_some() => {
                SourceError::CredentialsRefused { status: status.as_u16() }
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                SourceError::NeedsCredentials { status: status.as_u16() }
            }
            StatusCode::NOT_FOUND | StatusCode::GONE => SourceError::NotFound,
            status if status.is_redirection() => {
                let location = response.headers().get(LOCATION).and_then(|v| v.to_str().ok()).unwrap_or_default();
                SourceError::Moved { status: status.as_u16(), to: moved_to(url, location) }
            }
            status => SourceError::Status { status: status.as_u16() },
        })
    }

    fn timed_out(&self) -> SourceError {
        SourceError::Timeout { host: self.url.host.clone(), seconds: self.timeout.as_secs() }
    }

    fn unreachable(&self, error: &reqwest::Error) -> SourceError {
        reachable_error(error, &self.url.host)
    }
}

/// An answer that is still coming in.
pub(super) struct Answer {
    response: Response,
    deadline: Instant,
    host: String,
    seconds: u64,
    bytes: u64,
}

impl Answer {
    /// The next piece; `None` at the end.
    pub(super) async fn next(&mut self, bytes_max: u64) -> Result<Option<Bytes>, SourceError> {
        let chunk = tokio::time::timeout_at(self.deadline, self.response.chunk())
            .await
            .map_err(|_| SourceError::Timeout { host: self.host.clone(), seconds: self.seconds })?
            .map_err(|e| reachable_error(&e, &self.host))?;
        if let Some(chunk) = &chunk {
            self.bytes += chunk.len() as u64;
            if self.bytes > bytes_max {
                return Err(SourceError::TooLarge { what: "the server's answer", max: format!("{bytes_max} bytes") });
            }
        }
        Ok(chunk)
    }
}

fn reachable_error(error: &reqwest::Error, host: &str) -> SourceError {
    let mut cause: &dyn Error = error;
    loop {
        if let Some(refused) = cause.downcast_ref::<RefusedAddress>() {
            return refused.clone().into();
        }
        match cause.source() {
            Some(deeper) => cause = deeper,
            None => break,
        }
    }
    // The innermost cause says it best, and the outer ones repeat the URL.
    let reason: String = cause.to_string().chars().take(160).collect();
    SourceError::Unreachable { host: host.to_owned(), reason }
}

/// The system's resolver; a name with one refused address is refused.
struct CheckedDns {
    rules: AddressRules,
}

impl Resolve for CheckedDns {
    fn resolve(&self, name: Name) -> Resolving {
        let rules = self.rules.clone();
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let addresses: Vec<_> = tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
            for address in &addresses {
                rules.check(&host, address.ip())?;
            }
            let addresses: Addrs = Box::new(addresses.into_iter());
            Ok(addresses)
        })
    }
}
