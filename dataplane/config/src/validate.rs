//! Checks of what comes over the wire: sizes, counts, duplicates, references.

mod assignment;
mod matching;
mod revision;

/// Upper limits of what a node accepts.
pub mod limits {
    /// Entries of an assignment.
    pub const ENTRIES: usize = 4_000;
    /// Stages of a chain.
    pub const STAGES: usize = 32;
    /// Bytes of a name, namespace or stage.
    pub const NAME_BYTES: usize = 253;
    /// Hosts, paths, rules or bindings of one unit.
    pub const LIST: usize = 1_000;
    /// Rules of one worker that ask for more than hosts and paths: a request may have to be held against all of them.
    pub const ASKING_RULES: usize = 64;
    /// Methods of a rule.
    pub const METHODS: usize = 16;
    /// Headers of a rule.
    pub const HEADERS: usize = 16;
    /// Bytes of a method.
    pub const METHOD_BYTES: usize = 32;
    /// Bytes of a header's or cookie's name.
    pub const TOKEN_BYTES: usize = 256;
    /// Bytes of a header's value.
    pub const VALUE_BYTES: std::ops::RangeInclusive<u64> = 1..=4_096;
    /// Bytes of an artifact.
    pub const ARTIFACT_BYTES: u64 = 32 << 20;
    /// CPU time of a call, in milliseconds.
    pub const CPU_MS: std::ops::RangeInclusive<u64> = 1..=10_000;
    /// Wall time of a call, in milliseconds.
    pub const WALL_MS: std::ops::RangeInclusive<u64> = 1..=300_000;
    /// Linear memory, in bytes.
    pub const MEMORY_BYTES: std::ops::RangeInclusive<u64> = (64 << 10)..=(256 << 20);
    /// Calls that one instance serves where it serves more than one.
    pub const REUSE: std::ops::RangeInclusive<u64> = 2..=1_000_000;
    /// Age of an instance that serves more than one call, in milliseconds.
    pub const MAX_AGE_MS: std::ops::RangeInclusive<u64> = 1_000..=86_400_000;
    /// Rates of one worker: a node keeps 10,000 keys of each.
    pub const RATES: usize = 8;
    /// Requests that a rate allows.
    pub const RATE_REQUESTS: std::ops::RangeInclusive<u64> = 1..=1_000_000;
    /// Time in which a rate allows them, in milliseconds.
    pub const RATE_PER_MS: std::ops::RangeInclusive<u64> = 1_000..=86_400_000;
    /// Bytes of all values of a bundle.
    pub const BUNDLE_BYTES: usize = 512 << 10;
}

/// Why a wire value is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{field}: {problem}")]
pub struct Invalid {
    /// Path of the field.
    pub field: String,
    /// What is wrong, and what would be right.
    pub problem: String,
}

fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Invalid {
    Invalid { field: field.into(), problem: problem.into() }
}

fn name(field: &str, text: &str) -> Result<(), Invalid> {
    let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    if text.is_empty() || text.len() > limits::NAME_BYTES || !text.bytes().all(ok) {
        return Err(invalid(field, format!("`{}` is not a name: 1 to 253 of a-z, 0-9, - and .", clip(text))));
    }
    Ok(())
}

fn count(field: &str, len: usize) -> Result<(), Invalid> {
    at_most(field, len, limits::LIST)
}

fn at_most(field: &str, len: usize, allowed: usize) -> Result<(), Invalid> {
    if len > allowed {
        return Err(invalid(field, format!("{len} items; at most {allowed} are allowed")));
    }
    Ok(())
}

fn range(field: &str, value: u64, allowed: std::ops::RangeInclusive<u64>, unit: &str) -> Result<(), Invalid> {
    if !allowed.contains(&value) {
        return Err(invalid(
            field,
            format!("{value} {unit}; {} to {} {unit} are allowed", allowed.start(), allowed.end()),
        ));
    }
    Ok(())
}

fn label(label: &str) -> bool {
    !label.is_empty()
        && label.len() <= 63
        && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
}

/// A host is lower-case DNS labels; only the first label may be `*`, alone.
fn hosts(field: &str, hosts: &[String]) -> Result<(), Invalid> {
    count(field, hosts.len())?;
    for host in hosts {
        let rest = host.strip_prefix("*.").unwrap_or(host);
        if rest.len() > limits::NAME_BYTES || !rest.split('.').all(label) {
            return Err(invalid(
                field,
                format!(
                    "`{}` is not a host: write shop.example or *.shop.example, in lower case, without a port",
                    clip(host)
                ),
            ));
        }
    }
    Ok(())
}

/// A path is exact (`/cart`) or a prefix (`/cart/*`).
fn paths(field: &str, paths: &[String]) -> Result<(), Invalid> {
    count(field, paths.len())?;
    for path in paths {
        let body = path.strip_suffix("/*").unwrap_or(path);
        let ok = path.starts_with('/')
            && path.len() <= 1024
            && !body.contains(['*', '?', '#'])
            && !body.contains("//")
            && !body.split('/').any(|s| s == "." || s == "..")
            && body.bytes().all(|b| b.is_ascii_graphic());
        if !ok {
            return Err(invalid(
                field,
                format!(
                    "`{}` is not a path: write /cart for that path alone, /cart/* for it and all below",
                    clip(path)
                ),
            ));
        }
    }
    Ok(())
}

/// An origin is `http://host:port`: lower case, no path, no user, a port only if it is not 80.
fn origin(field: &str, url: &str) -> Result<(), Invalid> {
    let ok = url.strip_prefix("http://").is_some_and(|rest| {
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !rest.ends_with(']') => (host, Some(port)),
            Some(_) | None => (rest, None),
        };
        let port_ok =
            port.is_none_or(|p| p.bytes().all(|b| b.is_ascii_digit()) && p.parse::<u16>().is_ok_and(|p| p > 0));
        port_ok && upstream_host(host)
    });
    if ok {
        Ok(())
    } else {
        Err(invalid(
            field,
            format!("`{}` is not http://host or http://host:port, in lower case, without a path", clip(url)),
        ))
    }
}

/// A DNS name, an IPv4 address, or an IPv6 address in brackets.
fn upstream_host(host: &str) -> bool {
    if let Some(v6) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        return v6.parse::<std::net::Ipv6Addr>().is_ok();
    }
    host.len() <= limits::NAME_BYTES && host.split('.').all(label)
}

/// What was wrong, short and printable: it goes into status and logs.
fn clip(text: &str) -> String {
    text.chars().take(80).collect::<String>().escape_debug().to_string()
}
