//! Headers in a guest's hands: what is there, and over it a journal of what the guest changes.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONTENT_LENGTH, HOST, TRAILER},
};
use sluice_egress::hop_by_hop;

use crate::failure::Invalid;

/// Headers of a message: names, values, and what it costs to hold them.
pub const HEAD_BYTES_MAX: usize = 64 << 10;
const HEADER_COST_BYTES: usize = 80;

/// By this header a worker of `wasi:http` names another upstream of the route. Filters have a function for it.
pub const UPSTREAM: HeaderName = HeaderName::from_static("sluice-upstream");

/// What headers count for against [`HEAD_BYTES_MAX`].
#[must_use]
pub fn head_bytes(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + HEADER_COST_BYTES).sum()
}

/// A header's name that a guest may write.
pub(super) fn name(name: &str) -> Result<HeaderName, Invalid> {
    let clipped = || name.chars().take(80).collect::<String>();
    let parsed = HeaderName::from_bytes(name.as_bytes());
    let parsed = parsed.map_err(|_| Invalid(format!("`{}` is no name of a header", clipped().escape_debug())))?;
    if parsed == HOST {
        return Err(Invalid("it writes the header `host`: call set-authority instead".to_owned()));
    }
    if parsed == UPSTREAM {
        return Err(Invalid(format!("it writes the header `{UPSTREAM}`: call set-upstream instead")));
    }
    if parsed == CONTENT_LENGTH || parsed == TRAILER || hop_by_hop::is_one(&parsed) {
        return Err(Invalid(format!("it writes the header `{}`, which is the host's", clipped())));
    }
    Ok(parsed)
}

/// A header's value.
pub(super) fn value(name: &HeaderName, bytes: Vec<u8>) -> Result<HeaderValue, Invalid> {
    HeaderValue::from_maybe_shared(bytes::Bytes::from(bytes))
        .map_err(|_| Invalid(format!("the value of the header `{name}` has a control character")))
}

#[derive(Clone)]
enum Edit {
    Set(HeaderValue),
    Append(HeaderValue),
    Remove,
}

/// What a guest has changed, in order.
#[derive(Clone, Default)]
pub(super) struct Edits {
    edits: Vec<(HeaderName, Edit)>,
    bytes: usize,
}

impl Edits {
    pub(super) fn set(&mut self, name: &str, value: Vec<u8>) -> Result<(), Invalid> {
        let name = self::name(name)?;
        let value = self::value(&name, value)?;
        self.push(name, Edit::Set(value))
    }

    pub(super) fn append(&mut self, name: &str, value: Vec<u8>) -> Result<(), Invalid> {
        let name = self::name(name)?;
        let value = self::value(&name, value)?;
        self.push(name, Edit::Append(value))
    }

    pub(super) fn remove(&mut self, name: &str) -> Result<(), Invalid> {
        let name = self::name(name)?;
        self.push(name, Edit::Remove)
    }

    /// The journal is bounded as heads are: a guest that writes for ever fills no host.
    fn push(&mut self, name: HeaderName, edit: Edit) -> Result<(), Invalid> {
        let value_bytes = match &edit {
            Edit::Set(value) | Edit::Append(value) => value.len(),
            Edit::Remove => 0,
        };
        self.bytes = self.bytes.saturating_add(name.as_str().len() + value_bytes + HEADER_COST_BYTES);
        if self.bytes > HEAD_BYTES_MAX {
            return Err(Invalid("it writes more than 64 KiB of headers".to_owned()));
        }
        self.edits.push((name, edit));
        Ok(())
    }

    fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Edit> {
        self.edits.iter().filter(move |(edited, _)| edited.as_str().eq_ignore_ascii_case(name)).map(|(_, edit)| edit)
    }

    /// The first value of a header.
    pub(super) fn first<'a>(&'a self, headers: &'a HeaderMap, name: &'a str) -> Option<&'a HeaderValue> {
        let mut value = headers.get(name);
        for edit in self.of(name) {
            match edit {
                Edit::Set(new) => value = Some(new),
                Edit::Append(new) => value = value.or(Some(new)),
                Edit::Remove => value = None,
            }
        }
        value
    }

    /// All values of a header.
    pub(super) fn all<'a>(&'a self, headers: &'a HeaderMap, name: &'a str) -> Vec<&'a HeaderValue> {
        let mut values: Vec<_> = headers.get_all(name).iter().collect();
        for edit in self.of(name) {
            match edit {
                Edit::Set(new) => values = vec![new],
                Edit::Append(new) => values.push(new),
                Edit::Remove => values.clear(),
            }
        }
        values
    }

    /// All headers, as they would be.
    pub(super) fn list(&self, headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
        let pairs = |headers: &HeaderMap| {
            headers.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect()
        };
        if self.edits.is_empty() {
            return pairs(headers);
        }
        pairs(&self.applied(headers))
    }

    /// Whether a message may have what comes of it.
    pub(super) fn check(&self, headers: &HeaderMap) -> Result<(), Invalid> {
        if self.edits.is_empty() || self.bytes + head_bytes(headers) <= HEAD_BYTES_MAX {
            return Ok(());
        }
        if head_bytes(&self.applied(headers)) <= HEAD_BYTES_MAX {
            return Ok(());
        }
        Err(Invalid("the headers would be larger than 64 KiB".to_owned()))
    }

    pub(super) fn apply(self, headers: &mut HeaderMap) {
        for (name, edit) in self.edits {
            match edit {
                Edit::Set(value) => drop(headers.insert(name, value)),
                Edit::Append(value) => drop(headers.append(name, value)),
                Edit::Remove => drop(headers.remove(name)),
            }
        }
    }

    fn applied(&self, headers: &HeaderMap) -> HeaderMap {
        let mut edited = headers.clone();
        self.clone().apply(&mut edited);
        edited
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn reads_see_what_was_written_and_the_head_does_not() {
        let base = headers(&[("a", "1"), ("a", "2"), ("b", "3")]);
        let mut edits = Edits::default();
        edits.append("A", b"9".to_vec()).unwrap();
        assert_eq!(edits.all(&base, "a"), ["1", "2", "9"]);
        edits.set("a", b"4".to_vec()).unwrap();
        edits.append("a", b"5".to_vec()).unwrap();
        edits.remove("B").unwrap();
        edits.append("c", b"6".to_vec()).unwrap();
        assert_eq!(edits.all(&base, "A"), ["4", "5"]);
        assert_eq!(edits.first(&base, "a").unwrap(), "4");
        assert_eq!(edits.first(&base, "b"), None);
        assert_eq!(edits.first(&base, "c").unwrap(), "6");
        assert_eq!(edits.first(&base, "no name"), None);
        let list = edits.list(&base);
        assert_eq!(base, headers(&[("a", "1"), ("a", "2"), ("b", "3")]));
        let mut edited = base;
        edits.apply(&mut edited);
        assert_eq!(edited, headers(&[("a", "4"), ("a", "5"), ("c", "6")]));
        assert_eq!(list.len(), 3);
    }

    #[test]
    fn what_no_message_can_have_is_invalid() {
        let mut edits = Edits::default();
        for name in ["", "a b", "a:", "a\r\n", "ä"] {
            assert!(edits.set(name, b"v".to_vec()).is_err(), "{name:?}");
        }
        for value in [&b"a\r\nset-cookie: x"[..], b"a\nb", b"\0", b"\x7f"] {
            assert!(edits.append("a", value.to_vec()).is_err(), "{value:?}");
        }
        for name in
            ["Connection", "content-length", "Transfer-Encoding", "te", "trailer", "upgrade", "Host", "Sluice-Upstream"]
        {
            assert!(edits.set(name, b"1".to_vec()).is_err(), "{name}");
            assert!(edits.remove(name).is_err(), "{name}");
        }
        assert!(edits.edits.is_empty());
    }

    #[test]
    fn neither_the_journal_nor_the_head_grows_beyond_64_kib() {
        let base = headers(&[("a", "1")]);
        let mut edits = Edits::default();
        assert!(edits.set("x", vec![b'x'; HEAD_BYTES_MAX - 80]).is_err());
        let edits_of_half = || {
            let mut edits = Edits::default();
            edits.append("x", vec![b'x'; HEAD_BYTES_MAX / 2]).unwrap();
            edits
        };
        let half = edits_of_half();
        assert!(half.check(&base).is_ok());
        let mut large = base;
        half.apply(&mut large);
        let more = edits_of_half();
        assert!(more.check(&large).is_err());
        let mut instead = Edits::default();
        instead.set("x", vec![b'x'; HEAD_BYTES_MAX / 2]).unwrap();
        assert!(instead.check(&large).is_ok());
    }
}
