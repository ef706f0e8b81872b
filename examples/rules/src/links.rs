//! The new address in place of the old one.

use memchr::memmem;

const OLD: &[u8] = b"http://legacy.shop.example";
const NEW: &[u8] = b"https://shop.example";

/// Headers of requests that go no further: what is compressed cannot be read, and a part of the old page fits into no new one.
pub const NOT_SENT: [&str; 3] = ["accept-encoding", "range", "if-range"];

/// Whether links are looked for in what has this `content-type`.
#[must_use]
pub fn is_page(content_type: &[u8]) -> bool {
    content_type.starts_with(b"text/html")
}

/// The new page, if it is another one.
#[must_use]
pub fn whole(page: &[u8]) -> Option<Vec<u8>> {
    memmem::find(page, OLD)?;
    let mut done = Vec::with_capacity(page.len());
    let rest = replace(page, &mut done);
    done.extend_from_slice(rest);
    Some(done)
}

/// A page that comes in pieces.
#[derive(Default)]
pub struct Page {
    /// The end of what came, where it may be the beginning of an old address.
    kept: Vec<u8>,
}

impl Page {
    /// What is known of the new page with this piece.
    #[must_use]
    pub fn piece(&mut self, piece: &[u8]) -> Vec<u8> {
        let page = [&std::mem::take(&mut self.kept), piece].concat();
        let mut done = Vec::with_capacity(page.len());
        let rest = replace(&page, &mut done);
        let longest = rest.len().min(OLD.len() - 1);
        let begins = (0..=longest).rev().find(|n| OLD.starts_with(&rest[rest.len() - n..])).unwrap_or(0);
        let (known, kept) = rest.split_at(rest.len() - begins);
        done.extend_from_slice(known);
        kept.clone_into(&mut self.kept);
        done
    }

    /// The rest of it, when no more comes.
    #[must_use]
    pub fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.kept)
    }
}

/// The page up to its last old address, new; what comes after that is returned.
fn replace<'a>(page: &'a [u8], done: &mut Vec<u8>) -> &'a [u8] {
    let mut rest = page;
    while let Some(at) = memmem::find(rest, OLD) {
        done.extend_from_slice(&rest[..at]);
        done.extend_from_slice(NEW);
        rest = &rest[at + OLD.len()..];
    }
    rest
}
