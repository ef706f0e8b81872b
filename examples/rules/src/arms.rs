//! The half that a visitor is in: `a` or `b`.

const COOKIE: &str = "ab-arm=";

/// The half that the visitor was in before, by these values of `cookie`.
#[must_use]
pub fn known(cookies: &[Vec<u8>]) -> Option<u8> {
    crate::cookies(cookies).find_map(|cookie| match cookie.strip_prefix(COOKIE.as_bytes()) {
        Some([arm @ (b'a' | b'b')]) => Some(*arm),
        _ => None,
    })
}

/// What tells the visitor, in `set-cookie`.
#[must_use]
pub fn cookie(arm: u8) -> String {
    format!("{COOKIE}{}; Path=/; Max-Age=2592000; SameSite=Lax", char::from(arm))
}

/// Where the half finds what was asked for, if it is elsewhere.
#[must_use]
pub fn path(arm: u8, path: &str) -> Option<String> {
    (arm == b'b').then(|| format!("/b{path}"))
}
