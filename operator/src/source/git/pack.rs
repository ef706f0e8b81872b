//! Looks through a pack before libgit2 does: counts and sizes, also of what deltas would grow into.
//!
//! libgit2 allocates what a delta's header asks for; a few kilobytes can ask for gigabytes.

use std::io::{BufRead, Read};

use flate2::bufread::ZlibDecoder;

use crate::source::{Options, SourceError};

/// Limits of one pack.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) objects_max: u32,
    pub(super) object_bytes_max: u64,
    pub(super) unpacked_bytes_max: u64,
}

impl Limits {
    pub(super) fn of(options: &Options) -> Self {
        Self {
            objects_max: options.objects_max,
            object_bytes_max: options.object_bytes_max,
            unpacked_bytes_max: options.unpacked_bytes_max,
        }
    }
}

/// Reads the whole pack; keeps nothing.
pub(super) fn check(pack: &mut impl BufRead, limits: Limits) -> Result<(), SourceError> {
    let mut header = [0; 12];
    pack.read_exact(&mut header).map_err(|e| broken(&e))?;
    let [b'P', b'A', b'C', b'K', 0, 0, 0, 2 | 3, count @ ..] = header else {
        return Err(broken(&"no pack header"));
    };
    let count = u32::from_be_bytes(count);
    if count > limits.objects_max {
        return Err(SourceError::TooLarge {
            what: "the number of files and folders",
            max: limits.objects_max.to_string(),
        });
    }
    let mut unpacked: u64 = 0;
    for _ in 0..count {
        unpacked = unpacked.saturating_add(check_object(pack, limits)?);
        if unpacked > limits.unpacked_bytes_max {
            return Err(too_large("the repository unpacked", limits.unpacked_bytes_max));
        }
    }
    Ok(())
}

/// Reads one object; answers how large it is unpacked.
fn check_object(pack: &mut impl BufRead, limits: Limits) -> Result<u64, SourceError> {
    let (kind, size) = object_header(pack)?;
    match kind {
        1..=4 => {}
        6 => {
            varint(pack)?;
        }
        7 => {
            pack.read_exact(&mut [0; 20]).map_err(|e| broken(&e))?;
        }
        _ => return Err(broken(&"an object of no known kind")),
    }
    if size > limits.object_bytes_max {
        return Err(too_large("a file", limits.object_bytes_max));
    }
    let mut content = ZlibDecoder::new(pack).take(size.saturating_add(1));
    let mut grown = size;
    let mut head = 0;
    if kind >= 6 {
        let mut counted = Counting { inner: &mut content, bytes: 0 };
        let _source_bytes = varint_low_first(&mut counted)?;
        grown = varint_low_first(&mut counted)?;
        head = counted.bytes;
    }
    if grown > limits.object_bytes_max {
        return Err(too_large("a file", limits.object_bytes_max));
    }
    let rest = std::io::copy(&mut content, &mut std::io::sink()).map_err(|e| broken(&e))?;
    if head + rest != size {
        return Err(broken(&"an object is not as long as it says"));
    }
    Ok(grown.max(size))
}

fn object_header(pack: &mut impl Read) -> Result<(u8, u64), SourceError> {
    let first = byte(pack)?;
    let kind = (first >> 4) & 7;
    let mut size = u64::from(first & 15);
    let mut shift = 4;
    let mut more = first & 0x80 != 0;
    while more {
        let next = byte(pack)?;
        if shift > 56 {
            return Err(broken(&"a size without end"));
        }
        size |= u64::from(next & 0x7f) << shift;
        shift += 7;
        more = next & 0x80 != 0;
    }
    Ok((kind, size))
}

/// The distance to a delta's base: only skipped here.
fn varint(pack: &mut impl Read) -> Result<(), SourceError> {
    for _ in 0..10 {
        if byte(pack)? & 0x80 == 0 {
            return Ok(());
        }
    }
    Err(broken(&"a distance without end"))
}

fn varint_low_first(content: &mut impl Read) -> Result<u64, SourceError> {
    let mut value = 0;
    for shift in (0..=56).step_by(7) {
        let next = byte(content)?;
        value |= u64::from(next & 0x7f) << shift;
        if next & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(broken(&"a size without end"))
}

fn byte(from: &mut impl Read) -> Result<u8, SourceError> {
    let mut one = [0];
    from.read_exact(&mut one).map_err(|e| broken(&e))?;
    Ok(one[0])
}

struct Counting<R> {
    inner: R,
    bytes: u64,
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.bytes += n as u64;
        Ok(n)
    }
}

fn too_large(what: &'static str, bytes_max: u64) -> SourceError {
    SourceError::TooLarge { what, max: format!("{bytes_max} bytes") }
}

fn broken(why: &dyn std::fmt::Display) -> SourceError {
    SourceError::BrokenPack(why.to_string())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::ZlibEncoder};

    use super::*;

    const LIMITS: Limits = Limits { objects_max: 3, object_bytes_max: 1000, unpacked_bytes_max: 1500 };

    /// A pack of objects: first byte of the header (kind and size below 16), what follows it, content.
    fn pack(objects: &[(u8, &[u8], &[u8])]) -> Vec<u8> {
        let mut pack = b"PACK\0\0\0\x02\0\0\0".to_vec();
        pack.push(u8::try_from(objects.len()).unwrap());
        for (first, rest, content) in objects {
            pack.push(*first);
            pack.extend_from_slice(rest);
            let mut zlib = ZlibEncoder::new(&mut pack, Compression::default());
            zlib.write_all(content).unwrap();
            zlib.finish().unwrap();
        }
        pack
    }

    fn said(objects: &[(u8, &[u8], &[u8])]) -> String {
        check(&mut pack(objects).as_slice(), LIMITS).map_or_else(|e| e.to_string(), |()| "sound".to_owned())
    }

    #[test]
    fn sizes_are_believed_only_when_they_are_true() {
        assert_eq!(said(&[(0x33, &[], b"abc"), (0x15, &[], b"tree!")]), "sound");
        let lie = "the server sent a broken pack (an object is not as long as it says): run git fsck there";
        assert_eq!(said(&[(0x32, &[], b"abc")]), lie);
        assert_eq!(said(&[(0x34, &[], b"abc")]), lie);
        let many = [(0x33_u8, &[][..], &b"abc"[..]); 4];
        assert_eq!(
            said(&many),
            "the number of files and folders is over the limit of 3: make the repository smaller, or split it"
        );
    }

    #[test]
    fn a_delta_is_as_large_as_what_it_grows_into() {
        // Copies from a base of 5 bytes, says that 4 GiB come out.
        let bomb = [5, 0x80, 0x80, 0x80, 0x80, 0x10, 0x90, 5];
        let offset: &[u8] = &[12];
        assert_eq!(
            said(&[(0x35, &[], b"hello"), (0x68, offset, &bomb)]),
            "a file is over the limit of 1000 bytes: make the repository smaller, or split it"
        );
        let id: &[u8] = &[9; 20];
        let grows = [5, 0xe8, 0x07, 0x90, 5];
        assert_eq!(said(&[(0x75, id, &grows)]), "sound");
        assert_eq!(
            said(&[(0x75, id, &grows), (0x75, id, &grows)]),
            "the repository unpacked is over the limit of 1500 bytes: make the repository smaller, or split it"
        );
        let endless = [0xff; 12];
        assert_eq!(
            said(&[(0x7c, id, &endless)]),
            "the server sent a broken pack (a size without end): run git fsck there"
        );
    }

    #[test]
    fn no_cut_or_flipped_byte_makes_it_panic() {
        let whole = pack(&[(0x35, &[], b"hello"), (0x65, &[12], &[5, 5, 0x90, 5, 0])]);
        for cut in 0..whole.len() {
            let _refused_or_not = check(&mut &whole[..cut], LIMITS);
            for bit in 0..8 {
                let mut flipped = whole.clone();
                flipped[cut] ^= 1 << bit;
                let _refused_or_not = check(&mut flipped.as_slice(), LIMITS);
            }
        }
    }
}
