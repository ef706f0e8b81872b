//! From a name to a connection, by way of the address check: the only place that dials.

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};
use tower_service::Service;

use crate::{EgressError, Origin, check_address, resolve::Resolver, watch_over};

/// Dials origins within a time, at addresses that are not denied.
#[derive(Clone)]
pub(crate) struct Connector {
    pub(crate) allow_loopback: bool,
    pub(crate) resolver: Arc<Resolver>,
    pub(crate) limit: Duration,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = EgressError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, EgressError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), EgressError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { connector.connect(&uri).await })
    }
}

impl Connector {
    async fn connect(&self, uri: &Uri) -> Result<TokioIo<TcpStream>, EgressError> {
        // The client built this URI from an `Origin`: it is one.
        let origin = Origin::of(uri).map_err(|e| EgressError::Unnamed { why: e.to_string() })?;
        match timeout(self.limit, self.dial(&origin)).await {
            Ok(done) => done,
            Err(_) => Err(EgressError::ConnectTimeout { origin, limit: self.limit }),
        }
    }

    async fn dial(&self, origin: &Origin) -> Result<TokioIo<TcpStream>, EgressError> {
        let deadline = Instant::now() + self.limit;
        let addresses = self.allowed(origin, self.resolve(origin).await?)?;
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for (tried, address) in addresses.iter().enumerate() {
            // One address that swallows packets leaves time for the others.
            let left = deadline.saturating_duration_since(Instant::now());
            let others = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
            match timeout(left / others, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    let _best_effort = (stream.set_nodelay(true), watch_over(&stream));
                    return Ok(TokioIo::new(stream));
                }
                Ok(Err(error)) => last = error,
                Err(_) => last = io::Error::from(io::ErrorKind::TimedOut),
            }
        }
        if last.kind() == io::ErrorKind::TimedOut {
            return Err(EgressError::ConnectTimeout { origin: origin.clone(), limit: self.limit });
        }
        Err(EgressError::Connect { origin: origin.clone(), why: last.to_string() })
    }

    /// Those of the addresses that may be connected to.
    fn allowed(&self, origin: &Origin, resolved: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, EgressError> {
        let mut denied = None;
        let mut allowed = Vec::with_capacity(resolved.len());
        for address in resolved {
            match check_address(address.ip(), self.allow_loopback) {
                Ok(()) => allowed.push(address),
                Err(range) => denied = Some((address.ip(), range)),
            }
        }
        match denied {
            Some((address, range)) if allowed.is_empty() => {
                Err(EgressError::AddressDenied { origin: origin.clone(), address, range })
            }
            Some(_) | None => Ok(allowed),
        }
    }

    async fn resolve(&self, origin: &Origin) -> Result<Vec<SocketAddr>, EgressError> {
        let bare = origin.host().trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, origin.port())]);
        }
        let found = self.resolver.resolve(origin.host(), origin.port()).await;
        found.map_err(|why| unresolved(origin.clone(), why))
    }
}

/// What the C libraries say of a name that nobody has; the standard library passes on no more than the text.
const UNKNOWN: [&str; 3] =
    ["Name or service not known", "No address associated with hostname", "Name does not resolve"];

/// A name that does not exist is the fault of whoever wrote it; a resolver that fails is not. In doubt it is
/// the resolver.
fn unresolved(origin: Origin, why: String) -> EgressError {
    if UNKNOWN.iter().any(|text| why.contains(text)) {
        EgressError::Unknown { origin, why }
    } else {
        EgressError::Resolve { origin, why }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Fault;

    #[test]
    fn a_name_that_does_not_exist_is_told_from_a_resolver_that_fails() {
        let fault = |why: &str| unresolved("http://shop".parse().unwrap(), why.to_owned()).fault();
        let lookup = |detail: &str| format!("failed to lookup address information: {detail}");
        assert_eq!(fault(&lookup("Name or service not known")), Fault::Named);
        assert_eq!(fault(&lookup("Name does not resolve")), Fault::Named);
        assert_eq!(fault(&lookup("Temporary failure in name resolution")), Fault::Upstream);
        assert_eq!(fault("Too many open files (os error 24)"), Fault::Upstream);
    }
}
