//! Where a request goes, in the one spelling that matching uses. What has two meanings is refused:
//! a path that a worker's rule reads one way and the upstream another is a way around that worker.

use std::borrow::Cow;

use http::uri::PathAndQuery;
use sluice_worker::{NEXT_AUTHORITY, Spelling};

/// Host and path of a request, normalised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Lower case, without port and final dot.
    pub(crate) host: String,
    /// Printable ASCII as it is and all else escaped, without empty segments and parameters.
    pub(crate) path: String,
}

/// Why a host or path is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadPlace {
    #[error("the host is not one")]
    Host,
    #[error("the path is ambiguous: {0}")]
    Path(&'static str),
}

impl Place {
    pub(crate) fn of(authority: &str, path: &PathAndQuery) -> Result<Self, BadPlace> {
        Ok(Self { host: host(authority)?, path: self::path(path.path())?.into_owned() })
    }
}

/// Where filters may rewrite a request to: what a client may ask for.
pub(crate) const SPELLING: Spelling = Spelling {
    authority: |authority| match host(authority) {
        Ok(host) if host == NEXT_AUTHORITY => Err("this host is reserved".to_owned()),
        Ok(_) => Ok(()),
        Err(bad) => Err(bad.to_string()),
    },
    path: |path| self::path(path.path()).map(drop).map_err(|bad| bad.to_string()),
};

/// The host of an authority: no user, a port that is a number.
pub(crate) fn host(authority: &str) -> Result<String, BadPlace> {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        Some(_) | None => (authority, None),
    };
    let port_ok = port.is_none_or(|p| !p.is_empty() && p.parse::<u16>().is_ok());
    let host = host.strip_suffix('.').unwrap_or(host);
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    let v6 = host
        .strip_prefix('[')
        .and_then(|h| h.strip_suffix(']'))
        .is_some_and(|h| h.parse::<std::net::Ipv6Addr>().is_ok());
    let named = !host.is_empty() && host.len() <= 253 && host.bytes().all(plain);
    if port_ok && (v6 || named) { Ok(host.to_ascii_lowercase()) } else { Err(BadPlace::Host) }
}

/// A path in the spelling that rules are matched against: the one in which all spellings meet that some
/// upstream reads alike, so that none is a way around a rule.
pub(crate) fn path(raw: &str) -> Result<Cow<'_, str>, BadPlace> {
    if !raw.starts_with('/') {
        return Err(BadPlace::Path("it does not start with /"));
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'-' | b'_');
    if raw.bytes().all(plain) && !raw.contains("//") {
        return Ok(Cow::Borrowed(raw));
    }
    let decoded = decode(raw)?;
    // Servlet containers cut what follows a `;` from a segment, and then look at it.
    let segments = || decoded.split('/').map(|s| s.split_once(';').map_or(s, |(segment, _parameters)| segment));
    if segments().any(|segment| matches!(segment, "." | "..")) {
        return Err(BadPlace::Path("it has a segment . or .."));
    }
    let mut merged = String::with_capacity(decoded.len());
    for segment in segments().skip(1) {
        if !merged.ends_with('/') {
            merged.push('/');
        }
        merged.push_str(segment);
    }
    Ok(Cow::Owned(merged))
}

fn decode(raw: &str) -> Result<String, BadPlace> {
    let mut out = String::with_capacity(raw.len());
    let mut chars = raw.chars();
    while let Some(char) = chars.next() {
        match char {
            '%' => {
                let byte = escaped(chars.as_str())?;
                chars.nth(1);
                push(&mut out, byte)?;
            }
            '\\' => return Err(BadPlace::Path("it has a backslash")),
            c if c.is_control() => return Err(BadPlace::Path("it has a control character")),
            c if c.is_ascii() => out.push(c),
            c => c.encode_utf8(&mut [0; 4]).bytes().try_for_each(|byte| push(&mut out, byte))?,
        }
    }
    Ok(out)
}

fn escaped(after: &str) -> Result<u8, BadPlace> {
    after
        .get(..2)
        .filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))
        .and_then(|hex| u8::from_str_radix(hex, 16).ok())
        .ok_or(BadPlace::Path("a % is not followed by two hex digits"))
}

fn push(out: &mut String, byte: u8) -> Result<(), BadPlace> {
    match byte {
        b'/' => Err(BadPlace::Path("it has an encoded /")),
        b'\\' => Err(BadPlace::Path("it has an encoded backslash")),
        0..0x20 | 0x7f => Err(BadPlace::Path("it has an encoded control character")),
        // Not `%`: what is escaped twice is not what is escaped once.
        b if b.is_ascii_graphic() && b != b'%' => {
            out.push(char::from(b));
            Ok(())
        }
        b => {
            use std::fmt::Write as _;
            let _infallible = write!(out, "%{b:02X}");
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_spelling_for_the_same_path() {
        for (raw, normal) in [
            ("/", "/"),
            ("/checkout/pay", "/checkout/pay"),
            ("/%63heckout", "/checkout"),
            ("//checkout///pay/", "/checkout/pay/"),
            ("/a%c3%a9", "/a%C3%A9"),
            ("/a%20b", "/a%20B".replace('B', "b").as_str()),
            ("/~x", "/~x"),
            ("/%7ex", "/~x"),
            ("/...", "/..."),
            ("/v1/users%3Aexport", "/v1/users:export"),
            ("/%40%24%2b%2C%3d%21%27%28%29%26", "/@$+,=!'()&"),
            ("/100%25", "/100%25"),
            ("/caf\u{e9}/x", "/caf%C3%A9/x"),
            ("/caf%c3%a9/x", "/caf%C3%A9/x"),
            ("/admin;x/y", "/admin/y"),
            ("/admin%3bx=1/y;z", "/admin/y"),
            ("/a/;x/", "/a/"),
            ("/;x/a", "/a"),
        ] {
            assert_eq!(path(raw).unwrap(), normal, "{raw}");
        }
    }

    #[test]
    fn what_reads_two_ways_is_refused() {
        for raw in [
            "*",
            "",
            "x",
            "/a/../b",
            "/a/./b",
            "/..",
            "/%2e%2e/b",
            "/a/.%2E",
            "/a/..;/b",
            "/a/..;x=1",
            "/a/%2e%2e%3B/b",
            "/.;/b",
            "/a%2fb",
            "/a%2Fb",
            "/a%5cb",
            "/a\\b",
            "/a%00",
            "/a%0d%0a",
            "/a%7f",
            "/%",
            "/%1",
            "/%zz",
            "/%é1",
        ] {
            assert!(path(raw).is_err(), "{raw}");
        }
    }

    #[test]
    fn one_spelling_for_the_same_host() {
        for (authority, expected) in [
            ("Shop.Example", "shop.example"),
            ("shop.example:8080", "shop.example"),
            ("shop.example.", "shop.example"),
            ("shop.example.:80", "shop.example"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("10.0.0.1", "10.0.0.1"),
        ] {
            assert_eq!(host(authority).unwrap(), expected, "{authority}");
        }
        for bad in ["", ":80", "a:b", "a:", "u@shop", "a b", "a/b", "[::1", "::1", "a:99999", "é.example"] {
            assert!(host(bad).is_err(), "{bad}");
        }
    }
}
