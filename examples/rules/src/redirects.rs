//! Old addresses, and what took their place.

/// From, to, and whether for good.
const MOVED: [(&str, &str, bool); 3] =
    [("/blog", "/news", true), ("/help", "https://help.shop.example", true), ("/sale", "/offers/summer", false)];

/// The status and the `location` to answer with, where this moved; what comes after it, and the query, goes along.
#[must_use]
pub fn moved(path: &str) -> Option<(u16, String)> {
    MOVED.iter().find_map(|(from, to, for_good)| {
        let rest = path.strip_prefix(from)?;
        let is_whole = rest.is_empty() || rest.starts_with(['/', '?']);
        is_whole.then(|| (if *for_good { 308 } else { 307 }, format!("{to}{rest}")))
    })
}
