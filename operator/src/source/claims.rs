//! Who keeps a name, or a host and path, that several units claim: the older (rule 16).

use std::collections::{BTreeMap, BTreeSet};

use sluice_config::{Content, Environment, Revision, UnitRef};

use super::RepositoryId;

/// A unit that wants to be there, and what it wants.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// Where it comes from.
    pub repository: &'a RepositoryId,
    /// Which unit.
    pub unit: &'a UnitRef,
    /// Branch in which it stands so.
    pub environment: Environment,
    /// Its content there; `None` where it cannot be read: it still claims its name.
    pub revision: Option<&'a Revision>,
    /// When the unit of this repository was first accepted (creation of its Unit object), in
    /// milliseconds since 1970; `None` if it never was: younger than all that were.
    pub accepted_ms: Option<i64>,
    /// Creation of the Repository object: decides between units never accepted.
    pub repository_ms: i64,
}

/// What two units cannot both have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Claimed {
    /// The unit's name in its namespace.
    Name,
    /// A host and path in an environment.
    Path {
        /// Of this environment.
        environment: Environment,
        /// As the manifest writes it.
        host: String,
        /// As the manifest writes it.
        path: String,
    },
}

/// A unit that stalls because an older one has what it claims.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Conflict {
    /// Repository of the unit that stalls.
    pub repository: RepositoryId,
    /// The unit that stalls.
    pub unit: UnitRef,
    /// What both claim.
    pub claimed: Claimed,
    /// Repository of the unit that keeps it.
    pub holder_repository: RepositoryId,
    /// The unit that keeps it.
    pub holder: UnitRef,
}

impl std::fmt::Display for Conflict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.claimed {
            Claimed::Name => write!(
                f,
                "the name {} belongs to repository {}: rename the unit, or remove it there first",
                self.holder, self.holder_repository
            ),
            Claimed::Path { environment, host, path } => write!(
                f,
                "{host}{path} in {environment} belongs to {} of repository {}: choose another host or path, or \
                 remove it there first",
                self.holder, self.holder_repository
            ),
        }
    }
}

type Owner<'a> = (&'a RepositoryId, &'a UnitRef);

/// The units that stall, each with the first thing that an older one has; sorted by unit.
///
/// A unit that stalls holds nothing: what it alone claims is free for others.
#[must_use]
pub fn conflicts(claims: &[Claim<'_>]) -> Vec<Conflict> {
    let mut by_owner: BTreeMap<Owner<'_>, Vec<&Claim<'_>>> = BTreeMap::new();
    for claim in claims {
        by_owner.entry((claim.repository, claim.unit)).or_default().push(claim);
    }
    let mut oldest_first: Vec<_> = by_owner.into_iter().collect();
    oldest_first.sort_by_key(|(owner, claims)| {
        let accepted = claims.iter().filter_map(|c| c.accepted_ms).min();
        let repository = claims.iter().map(|c| c.repository_ms).min();
        (accepted.unwrap_or(i64::MAX), repository, *owner)
    });
    let mut names: BTreeMap<&UnitRef, Owner<'_>> = BTreeMap::new();
    let mut paths: BTreeMap<(Environment, &str, &str), Owner<'_>> = BTreeMap::new();
    let mut lost = Vec::new();
    for (owner, claims) in oldest_first {
        let wanted: BTreeSet<_> = claims.iter().flat_map(|claim| paths_of(claim)).collect();
        let taken = names.get(owner.1).map(|holder| (Claimed::Name, *holder)).or_else(|| {
            wanted.iter().find_map(|&(environment, host, path)| {
                let holder = paths.get(&(environment, host, path))?;
                Some((Claimed::Path { environment, host: host.to_owned(), path: path.to_owned() }, *holder))
            })
        });
        match taken {
            Some((claimed, holder)) => lost.push(Conflict {
                repository: owner.0.clone(),
                unit: owner.1.clone(),
                claimed,
                holder_repository: holder.0.clone(),
                holder: holder.1.clone(),
            }),
            None => {
                names.insert(owner.1, owner);
                paths.extend(wanted.into_iter().map(|path| (path, owner)));
            }
        }
    }
    lost.sort_by(|a, b| (&a.unit, &a.repository).cmp(&(&b.unit, &b.repository)));
    lost
}

/// Only route tables own hosts and paths: that two workers see one request is the point of a chain.
fn paths_of<'a>(claim: &Claim<'a>) -> Vec<(Environment, &'a str, &'a str)> {
    let Some(revision) = claim.revision else { return Vec::new() };
    match revision.content(claim.environment) {
        Content::Routes(routes) => routes
            .hosts
            .iter()
            .flat_map(|host| {
                let paths = routes.rules.iter().flat_map(|rule| &rule.paths);
                paths.map(move |path| (claim.environment, host.as_str(), path.as_str()))
            })
            .collect(),
        Content::Worker(_) | Content::Config(_) => Vec::new(),
    }
}
