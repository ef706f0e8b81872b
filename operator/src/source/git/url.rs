//! Which URLs and addresses a git server may have.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use reqwest::Url;

use crate::source::{Options, SourceError};

/// A URL that passed: http or https, a host, no user, no query.
#[derive(Clone, Debug)]
pub(super) struct GitUrl {
    /// Without a slash at its end.
    pub(super) base: String,
    /// Host alone, for messages.
    pub(super) host: String,
}

impl GitUrl {
    /// Checks what can be told without asking anyone.
    pub(super) fn parse(text: &str, rules: &AddressRules) -> Result<Self, SourceError> {
        Self::of_field("spec.url", text, rules)
    }

    /// The same, of another field of a Repository.
    pub(super) fn of_field(field: &str, text: &str, rules: &AddressRules) -> Result<Self, SourceError> {
        let refuse = |why: &str| Err(SourceError::Url(format!("{field} is refused: {why}")));
        if text.starts_with('-') {
            return refuse("it starts with `-`; write https://host/path");
        }
        let Ok(url) = Url::parse(text) else { return refuse("it is no URL; write https://host/path") };
        if !matches!(url.scheme(), "http" | "https") {
            return refuse("only https:// and http:// are fetched; write https://host/path");
        }
        if !url.username().is_empty() || url.password().is_some() {
            return refuse("it holds a user; put username and password into the Secret that spec.secretRef names");
        }
        if url.query().is_some() || url.fragment().is_some() {
            return refuse("it has a ? or #; write https://host/path");
        }
        let Some(host) = url.host_str().filter(|host| !host.is_empty()) else {
            return refuse("it names no host; write https://host/path");
        };
        let host = host.to_owned();
        if is_api_server(&host) {
            return refuse("that is the Kubernetes API server; name a git server");
        }
        // The parser has brought every spelling of an address into its plain form.
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().ok();
        if let Some(address) = address {
            rules.check(&host, address).map_err(SourceError::from)?;
        }
        Ok(Self { base: url.as_str().trim_end_matches('/').to_owned(), host })
    }

    pub(super) fn refs(&self) -> String {
        format!("{}/info/refs?service=git-upload-pack", self.base)
    }

    /// `git-upload-pack` gives objects, `git-receive-pack` takes them.
    pub(super) fn service(&self, name: &str) -> String {
        format!("{}/{name}", self.base)
    }
}

/// Where a redirect leads, fit for people: no user, no query, without what git adds.
pub(super) fn moved_to(from: &str, location: &str) -> String {
    let to = Url::parse(from).and_then(|base| base.join(location));
    let Ok(mut to) = to else { return "an unreadable place".to_owned() };
    if to.set_username("").and_then(|()| to.set_password(None)).is_err() {
        return "an unreadable place".to_owned();
    }
    to.set_query(None);
    to.set_fragment(None);
    let text = to.as_str();
    let ends = ["/info/refs", "/git-upload-pack", "/git-receive-pack"];
    let text = ends.into_iter().find_map(|end| text.strip_suffix(end)).unwrap_or(text);
    text.chars().take(300).collect()
}

fn is_api_server(name: &str) -> bool {
    let name = name.trim_end_matches('.');
    name == "kubernetes" || name == "kubernetes.default" || name.starts_with("kubernetes.default.svc")
}

/// Which addresses are refused, whatever name leads to them.
#[derive(Clone, Debug)]
pub(super) struct AddressRules {
    allow_loopback: bool,
    refused: BTreeSet<IpAddr>,
}

/// A host has an address that is refused.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{host} is {address}, {why}")]
pub(super) struct RefusedAddress {
    host: String,
    address: IpAddr,
    why: &'static str,
}

impl From<RefusedAddress> for SourceError {
    fn from(refused: RefusedAddress) -> Self {
        Self::Address { host: refused.host, address: refused.address.to_string(), why: refused.why }
    }
}

impl AddressRules {
    pub(super) fn of(options: &Options) -> Self {
        Self { allow_loopback: options.allow_loopback, refused: options.refused_addresses.clone() }
    }

    /// Refuses what no git server has: a metadata service, this pod itself, the API server.
    pub(super) fn check(&self, host: &str, address: IpAddr) -> Result<(), RefusedAddress> {
        let plain = match address {
            IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
            IpAddr::V4(_) => address,
        };
        match self.why_not(plain) {
            Some(why) => Err(RefusedAddress { host: host.to_owned(), address, why }),
            None => Ok(()),
        }
    }

    fn why_not(&self, address: IpAddr) -> Option<&'static str> {
        if self.refused.contains(&address) {
            return Some("an address that the operator is told to refuse");
        }
        if address.is_loopback() {
            return (!self.allow_loopback).then_some("the operator's own loopback address");
        }
        if address.is_unspecified() || address.is_multicast() {
            return Some("no address of a server");
        }
        match address {
            IpAddr::V4(v4) if v4.is_link_local() => Some("a link-local address (metadata services live there)"),
            IpAddr::V4(v4) if v4 == Ipv4Addr::new(100, 100, 100, 200) => Some("a metadata service"),
            IpAddr::V4(v4) if v4.octets()[0] == 0 || v4.is_broadcast() => Some("no address of a server"),
            IpAddr::V4(_) => None,
            IpAddr::V6(v6) if v6.is_unicast_link_local() => Some("a link-local address"),
            IpAddr::V6(v6) if v6 == Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x254) => Some("a metadata service"),
            IpAddr::V6(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> AddressRules {
        AddressRules { allow_loopback: false, refused: BTreeSet::from(["10.96.0.1".parse().unwrap()]) }
    }

    #[test]
    fn only_plain_http_urls_pass() {
        let ok = ["https://git.example/edge.git", "http://10.1.2.3:3000/a/b", "https://[2001:db8::1]/x/"];
        for url in ok {
            GitUrl::parse(url, &rules()).unwrap();
        }
        let bad = [
            ("file:///etc/passwd", "only https:// and http:// are fetched; write https://host/path"),
            ("ext::sh -c id", "only https:// and http:// are fetched; write https://host/path"),
            ("ssh://git@git.example/x", "only https:// and http:// are fetched; write https://host/path"),
            ("git@git.example:edge.git", "it is no URL; write https://host/path"),
            ("-uhttps://git.example/x", "it starts with `-`; write https://host/path"),
            (
                "https://bob:s3cret@git.example/x",
                "it holds a user; put username and password into the Secret that spec.secretRef names",
            ),
            ("https://git.example/x?a=b", "it has a ? or #; write https://host/path"),
            ("https://kubernetes.default.svc/x", "that is the Kubernetes API server; name a git server"),
        ];
        for (url, why) in bad {
            let error = GitUrl::parse(url, &rules()).unwrap_err();
            assert_eq!(error.to_string(), format!("spec.url is refused: {why}"), "{url}");
        }
    }

    #[test]
    fn no_spelling_of_a_refused_address_passes() {
        for host in [
            "169.254.169.254",
            "0xa9fea9fe",
            "2852039166",
            "[::ffff:169.254.169.254]",
            "[fe80::1]",
            "127.0.0.1",
            "127.1",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "0.0.0.0",
            "[::]",
            "10.96.0.1",
            "[fd00:ec2::254]",
        ] {
            let error = GitUrl::parse(&format!("http://{host}/x.git"), &rules()).unwrap_err();
            assert_eq!(error.reason(), "UrlRefused", "{host}: {error}");
        }
    }

    #[test]
    fn where_a_redirect_leads_is_told_without_secrets() {
        let from = "http://git.example/a.git/info/refs?service=git-upload-pack";
        let to = moved_to(from, "https://u:p@git.example/b.git/info/refs?service=git-upload-pack&token=x");
        assert_eq!(to, "https://git.example/b.git");
        assert_eq!(moved_to(from, "/c.git/info/refs"), "http://git.example/c.git");
    }
}
