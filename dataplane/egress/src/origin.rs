//! An origin: scheme, host and port, in one spelling.

use std::{fmt, str::FromStr};

use http::uri::{Authority, Scheme, Uri};

/// Where requests may go: `http://host:port`, the port also where it is 80.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    host: String,
    port: u16,
}

/// Text that is no origin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an origin: write http://host or http://host:port, without a path")]
pub struct OriginError(String);

impl OriginError {
    pub(crate) fn of(text: &str) -> Self {
        Self(text.chars().take(80).collect())
    }
}

impl Origin {
    /// Name or address, lower case; an IPv6 address in brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The origin that a URI's scheme and authority name.
    ///
    /// # Errors
    /// The scheme is not http, or there is no host, or the port is no number.
    pub fn of(uri: &Uri) -> Result<Self, OriginError> {
        let bad = || OriginError::of(&uri.to_string());
        if uri.scheme() != Some(&Scheme::HTTP) {
            return Err(bad());
        }
        let authority = uri.authority().ok_or_else(bad)?;
        Self::of_authority(authority).ok_or_else(bad)
    }

    fn of_authority(authority: &Authority) -> Option<Self> {
        let text = authority.as_str();
        let port = match text.strip_prefix(authority.host())? {
            "" => 80,
            rest => rest.strip_prefix(':')?.parse().ok().filter(|p| *p > 0)?,
        };
        let host = authority.host().trim_end_matches('.').to_ascii_lowercase();
        (!host.is_empty()).then_some(Self { host, port })
    }

    /// As a URI's authority: the port only if it is not 80.
    #[must_use]
    pub fn authority(&self) -> String {
        match self.port {
            80 => self.host.clone(),
            port => format!("{}:{port}", self.host),
        }
    }
}

impl FromStr for Origin {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, OriginError> {
        let bad = || OriginError::of(text);
        let uri: Uri = text.parse().map_err(|_| bad())?;
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() || text.ends_with('/') {
            return Err(bad());
        }
        Self::of(&uri).map_err(|_| bad())
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.authority())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_spelling_for_the_same_origin() {
        for text in ["http://Shop.default.svc", "http://shop.default.svc:80", "http://shop.default.svc."] {
            let origin: Origin = text.parse().unwrap();
            assert_eq!(origin.to_string(), "http://shop.default.svc", "{text}");
        }
        let v6: Origin = "http://[::1]:8080".parse().unwrap();
        assert_eq!((v6.host(), v6.port()), ("[::1]", 8080));
    }

    #[test]
    fn what_is_more_or_less_than_an_origin_is_refused() {
        for text in [
            "shop",
            "https://shop",
            "http://",
            "http://shop/",
            "http://shop/x",
            "http://shop?x",
            "http://user@shop",
            "http://shop:0",
            "http://shop:99999",
            "http://:80",
            "ftp://shop",
        ] {
            assert!(text.parse::<Origin>().is_err(), "{text}");
        }
    }
}
