//! What some examples decide, as workers of `wasi:http` and as filters.

pub mod arms;
pub mod links;
pub mod maintenance;
pub mod redirects;
pub mod token;

/// The cookies in these values of `cookie`.
fn cookies(headers: &[Vec<u8>]) -> impl Iterator<Item = &[u8]> {
    headers.iter().flat_map(|header| header.split(|b| *b == b';')).map(<[u8]>::trim_ascii)
}
