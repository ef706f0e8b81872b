//! Who sees the site while it is worked on, and what all others see.

pub const PAGE: &str = include_str!("page.html");
/// What goes with the page, and the status 503.
pub const HEADERS: [(&str, &str); 3] =
    [("content-type", "text/html; charset=utf-8"), ("retry-after", "600"), ("cache-control", "no-store")];

/// Whoever has it sees the site. To change it is a release.
const PASS: &[u8] = b"maintenance-pass=let-me-in";

/// Those who work on the site, by the secret in a cookie, and probes.
#[must_use]
pub fn may_pass(cookies: &[Vec<u8>], path: &str) -> bool {
    path == "/healthz" || crate::cookies(cookies).any(|cookie| cookie == PASS)
}
