//! The smart HTTP protocol, version 0, the one that every server speaks: what is asked and answered.
//!
//! Our own, not libgit2's: its transports can only be replaced by unsafe code, and this way each
//! byte is counted before anything interprets it. No I/O here.

use std::collections::BTreeMap;

use git2::Oid;

use crate::source::SourceError;

/// Refs of one answer that are remembered; a server with more is asked for other names in vain.
const REFS_MAX: usize = 500_000;

/// What a server has.
#[derive(Debug, Default)]
pub(super) struct Advertisement {
    pub(super) branches: BTreeMap<String, Oid>,
    capabilities: Vec<String>,
}

impl Advertisement {
    /// Reads the answer to `info/refs`.
    pub(super) fn parse(mut bytes: &[u8]) -> Result<Self, SourceError> {
        let mut this = Self::default();
        let mut refs = 0;
        while let Some(packet) = Packet::take(&mut bytes)? {
            let Packet::Line(line) = packet else { continue };
            let line = line.strip_suffix(b"\n").unwrap_or(line);
            if line.starts_with(b"# service=") || line.starts_with(b"version ") {
                continue;
            }
            if let Some(reason) = line.strip_prefix(b"ERR ") {
                return Err(refused(reason));
            }
            let mut halves = line.splitn(2, |b| *b == 0);
            let (named, capabilities) = (halves.next().unwrap_or_default(), halves.next());
            if let Some(capabilities) = capabilities {
                let text = String::from_utf8_lossy(capabilities);
                this.capabilities = text.split(' ').map(ToOwned::to_owned).collect();
            }
            refs += 1;
            if refs > REFS_MAX {
                return Err(SourceError::TooLarge { what: "the number of refs", max: REFS_MAX.to_string() });
            }
            this.add(named)?;
        }
        this.check()?;
        Ok(this)
    }

    fn add(&mut self, line: &[u8]) -> Result<(), SourceError> {
        let text = std::str::from_utf8(line).unwrap_or_default();
        let Some((id, name)) = text.split_once(' ') else {
            return Err(SourceError::NotGit("a line is no ref".to_owned()));
        };
        if let Some(branch) = name.strip_prefix("refs/heads/") {
            let id = Oid::from_str(id).map_err(|_| SourceError::NotGit("a ref has no commit".to_owned()))?;
            self.branches.insert(branch.to_owned(), id);
        }
        Ok(())
    }

    fn check(&self) -> Result<(), SourceError> {
        if let Some(format) = self.capabilities.iter().find_map(|c| c.strip_prefix("object-format="))
            && format != "sha1"
        {
            return Err(SourceError::NotGit(format!("objects are named by {format}, only sha1 is read")));
        }
        if self.capabilities.is_empty() {
            return Err(SourceError::Empty);
        }
        // An empty repository advertises them too: what lacks them is no usable server.
        for needed in ["shallow", "side-band-64k"] {
            if !self.has(needed) {
                return Err(SourceError::NotGit(format!("the server lacks {needed}")));
            }
        }
        if self.branches.is_empty() {
            return Err(SourceError::Empty);
        }
        Ok(())
    }

    fn has(&self, capability: &str) -> bool {
        self.capabilities.iter().any(|c| c == capability)
    }

    /// What of it is used, for [`Want::capabilities`]. Some servers insist on detailed acknowledgements.
    pub(super) fn capabilities(&self) -> String {
        let optional = ["ofs-delta", "no-progress", "multi_ack_detailed"];
        let offered = optional.into_iter().filter(|c| self.has(c)).collect::<Vec<_>>().join(" ");
        format!("side-band-64k {offered} agent=sluice")
    }

    /// Whether a commit that is no head may be asked for.
    pub(super) fn any_commit(&self) -> bool {
        self.has("allow-reachable-sha1-in-want") || self.has("allow-any-sha1-in-want")
    }
}

/// Which objects are asked for.
#[derive(Debug)]
pub(super) struct Want<'a> {
    pub(super) commits: &'a [Oid],
    /// Commits that are here already, each without its history.
    pub(super) have: &'a [Oid],
    /// The whole history instead of the commits alone.
    pub(super) history: bool,
    /// [`Advertisement::capabilities`] of the server.
    pub(super) capabilities: &'a str,
}

impl Want<'_> {
    /// The body of the request to `git-upload-pack`.
    pub(super) fn body(&self) -> Vec<u8> {
        let mut body = Vec::new();
        for (i, commit) in self.commits.iter().enumerate() {
            let capabilities = if i == 0 { format!(" {}", self.capabilities) } else { String::new() };
            line(&mut body, &format!("want {commit}{capabilities}\n"));
        }
        for commit in self.have {
            line(&mut body, &format!("shallow {commit}\n"));
        }
        if !self.history {
            line(&mut body, "deepen 1\n");
        }
        body.extend_from_slice(b"0000");
        for commit in self.have {
            line(&mut body, &format!("have {commit}\n"));
        }
        line(&mut body, "done\n");
        body
    }
}

fn line(body: &mut Vec<u8>, text: &str) {
    body.extend_from_slice(format!("{:04x}{text}", text.len() + 4).as_bytes());
}

/// The body of the request to `git-receive-pack` that makes a branch.
pub(super) fn push_body(branch: &str, commit: Oid, pack: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(pack.len() + 256);
    let nothing = "0".repeat(40);
    line(&mut body, &format!("{nothing} {commit} refs/heads/{branch}\0report-status agent=sluice\n"));
    body.extend_from_slice(b"0000");
    body.extend_from_slice(pack);
    body
}

/// Reads the answer to that.
pub(super) fn pushed(mut report: &[u8]) -> Result<(), SourceError> {
    let mut is_taken = false;
    while let Some(packet) = Packet::take(&mut report)? {
        let Packet::Line(line) = packet else { continue };
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        if line.starts_with(b"ng ") || line.starts_with(b"unpack ") && line != b"unpack ok" {
            return Err(refused(line));
        }
        is_taken |= line.starts_with(b"ok ");
    }
    if is_taken { Ok(()) } else { Err(SourceError::NotGit("a push was not answered".to_owned())) }
}

/// Takes the pack out of the answer of `git-upload-pack`, piece by piece.
#[derive(Debug, Default)]
pub(super) struct Demux {
    pending: Vec<u8>,
    in_pack: bool,
    done: bool,
}

impl Demux {
    /// Takes a piece of the answer; appends what of it is pack.
    pub(super) fn push(&mut self, piece: &[u8], pack: &mut Vec<u8>) -> Result<(), SourceError> {
        self.pending.extend_from_slice(piece);
        let pending = std::mem::take(&mut self.pending);
        let mut rest = pending.as_slice();
        while Packet::is_whole(rest)? {
            if let Some(packet) = Packet::take(&mut rest)? {
                self.packet(&packet, pack)?;
            }
        }
        self.pending = rest.to_vec();
        Ok(())
    }

    fn packet(&mut self, packet: &Packet<'_>, pack: &mut Vec<u8>) -> Result<(), SourceError> {
        let Packet::Line(line) = *packet else {
            self.done |= self.in_pack;
            return Ok(());
        };
        if let Some(reason) = line.strip_prefix(b"ERR ") {
            return Err(refused(reason));
        }
        // `shallow` lines come first, then NAK or ACKs, then the pack, whose first bytes are band numbers.
        let acknowledges = line.starts_with(b"NAK") || line.starts_with(b"ACK ");
        if acknowledges || !self.in_pack {
            self.in_pack |= acknowledges;
            return Ok(());
        }
        match line.split_first() {
            Some((1, data)) => pack.extend_from_slice(data),
            Some((2, _)) => {}
            Some((3, reason)) => return Err(refused(reason)),
            Some(_) | None => return Err(SourceError::NotGit("an unknown side band".to_owned())),
        }
        Ok(())
    }

    /// Whether the answer came to its end.
    pub(super) fn is_done(&self) -> bool {
        self.done && self.pending.is_empty()
    }
}

enum Packet<'a> {
    Flush,
    Line(&'a [u8]),
}

impl<'a> Packet<'a> {
    fn length(bytes: &[u8]) -> Result<Option<usize>, SourceError> {
        let Some(digits) = bytes.get(..4) else { return Ok(None) };
        std::str::from_utf8(digits)
            .ok()
            .and_then(|d| usize::from_str_radix(d, 16).ok())
            .filter(|n| *n == 0 || *n >= 4)
            .map(Some)
            .ok_or_else(|| SourceError::NotGit("the answer is no pkt-line".to_owned()))
    }

    fn is_whole(bytes: &[u8]) -> Result<bool, SourceError> {
        Ok(Self::length(bytes)?.is_some_and(|n| bytes.len() >= n.max(4)))
    }

    /// Takes the next packet; `None` at the end.
    fn take(bytes: &mut &'a [u8]) -> Result<Option<Self>, SourceError> {
        let whole: &'a [u8] = bytes;
        if whole.is_empty() {
            return Ok(None);
        }
        let length = Self::length(whole)?.filter(|n| whole.len() >= *n);
        let length = length.ok_or_else(|| SourceError::NotGit("the answer ends early".to_owned()))?;
        *bytes = &whole[length.max(4)..];
        Ok(Some(if length == 0 { Self::Flush } else { Self::Line(&whole[4..length]) }))
    }
}

/// The server's words, short and printable.
fn refused(reason: &[u8]) -> SourceError {
    let text = String::from_utf8_lossy(reason);
    SourceError::Refused(text.trim().chars().take(160).collect::<String>().escape_debug().to_string())
}
