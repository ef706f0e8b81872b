//! What things are called: units, digests, environments, rollouts.

use std::{fmt, str::FromStr};

use crate::UnitChange;

/// What a unit of release is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UnitKind {
    /// A component and its manifest.
    Worker,
    /// A route table.
    Routes,
    /// A bundle of keys and values.
    Config,
}

impl UnitKind {
    /// The letter that stands for the kind in names of objects.
    #[must_use]
    pub fn letter(self) -> char {
        match self {
            Self::Worker => 'w',
            Self::Routes => 'r',
            Self::Config => 'c',
        }
    }
}

/// A unit's identity in the cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnitId {
    /// Worker, Routes or Config.
    pub kind: UnitKind,
    /// Namespace of the Repository that it comes from.
    pub namespace: String,
    /// Name in its manifest.
    pub name: String,
}

/// `edge-team/shop` for a worker, `edge-team/shop (routes)` otherwise.
impl fmt::Display for UnitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)?;
        match self.kind {
            UnitKind::Worker => Ok(()),
            UnitKind::Routes => f.write_str(" (routes)"),
            UnitKind::Config => f.write_str(" (config)"),
        }
    }
}

/// SHA-256 of a revision's content, as 64 lower-case hex digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(String);

/// Text that is no digest.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a digest: write 64 lower-case hex digits (SHA-256)")]
pub struct DigestError(String);

impl Digest {
    /// All 64 digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first 8 digits, for people and for names.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.0[..8]
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() == 64 && text.bytes().all(hex) {
            Ok(Self(text.to_owned()))
        } else {
            Err(DigestError(text.chars().take(80).collect()))
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a unit should become: an absent unit is a revision too (a tombstone).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// This revision.
    Revision(Digest),
    /// Gone.
    Removed,
}

impl Target {
    /// The first 8 digits of the digest, or `removed`: for people and for names.
    #[must_use]
    pub fn short(&self) -> &str {
        match self {
            Self::Revision(digest) => digest.short(),
            Self::Removed => "removed",
        }
    }

    /// The digest, if any.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        match self {
            Self::Revision(digest) => Some(digest),
            Self::Removed => None,
        }
    }
}

impl From<Option<Digest>> for Target {
    fn from(digest: Option<Digest>) -> Self {
        digest.map_or(Self::Removed, Self::Revision)
    }
}

/// Where things run; each follows one branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Environment {
    /// Tried first.
    Staging,
    /// Real traffic.
    Production,
}

impl Environment {
    /// Both, in the order in which a change meets them.
    pub const ALL: [Self; 2] = [Self::Staging, Self::Production];

    /// `staging` or `production`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Staging => "staging",
            Self::Production => "production",
        }
    }

    /// `st` or `pr`, in names of objects.
    #[must_use]
    pub fn short(self) -> &'static str {
        match self {
            Self::Staging => "st",
            Self::Production => "pr",
        }
    }
}

impl fmt::Display for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Namespace and name of a Rollout.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RolloutId {
    /// Namespace of its units.
    pub namespace: String,
    /// `<unit>-<w|r|c>-<st|pr>-<first 8 of digest, or "removed">-<attempt>`.
    pub name: String,
}

impl RolloutId {
    /// The name of an attempt.
    #[must_use]
    pub fn of(unit: &UnitId, environment: Environment, target: &Target, attempt: u32) -> Self {
        let (letter, env) = (unit.kind.letter(), environment.short());
        Self {
            namespace: unit.namespace.clone(),
            name: format!("{}-{letter}-{env}-{}-{attempt}", unit.name, target.short()),
        }
    }
}

impl RolloutId {
    /// The name of an attempt at several changes: `<name>-t-<st|pr>-<8 digits of what changes>-<attempt>`. No unit's
    /// own attempt has a `t` there.
    #[must_use]
    pub fn together(name: &str, environment: Environment, changes: &[UnitChange], attempt: u32) -> Self {
        let text =
            |change: &UnitChange| format!("{} {}\n", change.unit, change.target.digest().map_or("-", Digest::as_str));
        let all: String = changes.iter().map(text).collect();
        let hash = stable_hash(&all) >> 32;
        let namespace = changes.first().map_or_else(String::new, |change| change.unit.namespace.clone());
        Self { namespace, name: format!("{name}-t-{}-{hash:08x}-{attempt}", environment.short()) }
    }

    /// Number of the attempt, as its name says; 0 where it says none.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.name.rsplit('-').next().and_then(|number| number.parse().ok()).unwrap_or(0)
    }
}

/// The name alone: its namespace is clear wherever it is shown.
impl fmt::Display for RolloutId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// FNV-1a: the same for ever and everywhere, which std's hashers do not promise.
pub(crate) fn stable_hash(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(kind: UnitKind) -> UnitId {
        UnitId { kind, namespace: "edge-team".into(), name: "shop".into() }
    }

    #[test]
    fn a_rollout_is_named_after_unit_environment_digest_and_attempt() {
        let digest: Digest = "9f2c1a77".repeat(8).parse().unwrap();
        let target = Target::Revision(digest);
        let id = RolloutId::of(&unit(UnitKind::Worker), Environment::Production, &target, 2);
        assert_eq!(id.name, "shop-w-pr-9f2c1a77-2");
        let gone = RolloutId::of(&unit(UnitKind::Routes), Environment::Staging, &Target::Removed, 1);
        assert_eq!(gone.name, "shop-r-st-removed-1");
    }

    #[test]
    fn what_is_no_digest_is_refused() {
        assert!("9f2c".parse::<Digest>().is_err());
        assert!("9F2C1A77".repeat(8).parse::<Digest>().is_err());
    }
}
