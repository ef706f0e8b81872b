//! What an attempt may wait for, and how the column WAITING FOR says it.

use crate::{Elsewhere, Environment, RolloutId, Target, Time, Told, UnitId};

/// One thing that an attempt waits for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Waiting {
    /// Time and requests of a soak.
    Soak {
        /// When the time is over; none if it is.
        until: Option<Time>,
        /// Requests seen and asked for, if any are.
        requests: Option<(u64, u64)>,
    },
    /// Another gate.
    Gate {
        /// Its key.
        gate: String,
        /// What it says.
        message: String,
    },
    /// Nodes that do not have it.
    Nodes {
        /// How many.
        behind: usize,
        /// Of how many live ones.
        live: usize,
        /// One of them.
        node: String,
        /// What that has.
        has: u64,
        /// What it needs.
        needs: u64,
        /// What it says about that.
        says: Option<String>,
    },
    /// A node that cannot run it for reasons of its own.
    NodeTrouble {
        /// The node.
        node: String,
        /// What it says.
        message: String,
        /// When the attempt pauses.
        until: Time,
    },
    /// A group without live nodes.
    NoLiveNodes {
        /// The group.
        group: String,
    },
    /// An environment without groups.
    NoGroups {
        /// The environment.
        environment: Environment,
    },
    /// Nodes that have not confirmed that they are back on stable.
    Return {
        /// How many.
        behind: usize,
        /// One of them.
        node: String,
        /// When it is called over all the same.
        until: Time,
    },
    /// The attempt that has the unit.
    Attempt {
        /// Its name.
        rollout: RolloutId,
    },
    /// Staging's evidence.
    Staging {
        /// For what.
        target: Target,
        /// How it stands there.
        there: InStaging,
    },
    /// A unit that must be there first.
    Reference {
        /// Which.
        unit: UnitId,
    },
    /// A unit that must leave first.
    Referrer {
        /// Which.
        unit: UnitId,
    },
    /// A unit that goes together with it, and that nobody has read at the same commit.
    Together {
        /// Which.
        unit: UnitId,
    },
    /// A host and path that another unit has.
    Claim {
        /// Host and path.
        claim: String,
        /// Whose.
        unit: UnitId,
    },
    /// A person's confirmation that so many units shall go.
    Confirmation {
        /// How many go.
        removed: usize,
        /// Of how many.
        of: usize,
        /// The branch's head, which is to be confirmed.
        commit: String,
        /// Name of the Repository on which to say so.
        repository: String,
    },
    /// What else its commit removes.
    Whole {
        /// Name of the Repository that is read.
        repository: String,
        /// Whose branch.
        environment: Environment,
    },
    /// Its Repository, which is gone.
    Repository {
        /// That one's name.
        repository: String,
    },
    /// A group that runs as many units as its nodes accept.
    Room {
        /// The group.
        group: String,
        /// How many that is.
        most: usize,
    },
    /// An attempt that must not be in a group together with this one.
    Alone {
        /// The other.
        rollout: RolloutId,
    },
    /// Something in one of several groups that are under way together.
    In {
        /// The group.
        group: String,
        /// What.
        what: Box<Waiting>,
    },
    /// The unit's object.
    UnitMemory {
        /// Which.
        unit: UnitId,
    },
    /// A person to let it go on.
    Resume {
        /// Who paused it.
        by: String,
    },
    /// A person to decide.
    Decision {
        /// Why it is paused.
        why: String,
    },
    /// The branch to become readable.
    Head {
        /// Why it is not.
        reason: String,
    },
    /// The revision's content.
    RevisionContent {
        /// Which.
        target: Target,
    },
}

impl Waiting {
    /// As people read it; times relative to `now`'s day.
    #[must_use]
    pub fn text(&self, now: Time) -> String {
        match self {
            Self::Soak { until, requests } => soak(*until, *requests, now),
            Self::Gate { gate, message } => format!("{gate}: {message}"),
            Self::Nodes { behind, live, node, has, needs, says } => {
                let says = says.as_ref().map_or_else(String::new, |says| format!(" ({says})"));
                format!("{behind} of {live} nodes: {node} has generation {has}, needs {needs}{says}")
            }
            Self::NodeTrouble { node, message, until } => format!("{node}: {message} (pauses at {})", until.shown(now)),
            Self::NoLiveNodes { group } => format!("group {group} has no live nodes"),
            Self::NoGroups { environment } => {
                format!("no DeploymentGroup is in {environment}: create one")
            }
            Self::Return { behind, node, until } => {
                let others = if *behind > 1 { format!(" and {} more", behind - 1) } else { String::new() };
                format!("{node}{others} to go back (until {})", until.shown(now))
            }
            Self::Attempt { rollout } => format!("{rollout} to finish"),
            Self::Staging { target, there } => staging(target.short(), there),
            Self::Reference { unit } => format!("{unit}, which it refers to"),
            Self::Referrer { unit } => format!("{unit}, which refers to it, to leave"),
            Self::Together { unit } => together(unit),
            Self::Claim { claim, unit } => format!("{unit} has {claim}: remove it from one of both"),
            Self::Confirmation { removed, of, commit, repository } => {
                let say = format!("set verbs.confirmRemoval: {commit} on Repository {repository}");
                format!("confirmation: the branch removes {removed} of {of} units; if so: {say}")
            }
            Self::Whole { repository, environment } => {
                let why =
                    "many removals at once need confirmation; if it stays so, the Repository's conditions say why";
                format!("{environment} of Repository {repository} to be read whole: {why}")
            }
            Self::Repository { repository } => gone(repository),
            Self::Room { group, most } => {
                format!("room in group {group}: it runs {most} units, the most that a node accepts; remove some")
            }
            Self::Alone { rollout } => format!("{rollout} to be judged first: the two are not judged together"),
            Self::In { group, what } => format!("{group}: {}", what.text(now)),
            Self::UnitMemory { unit } => format!("the Unit object of {unit}"),
            Self::Resume { by } => format!("resume (paused by {by})"),
            Self::Decision { why } => format!("retry, abort or a newer revision: {why}"),
            Self::Head { reason } => format!("the branch: {reason}"),
            Self::RevisionContent { target } => format!("Revision {} to exist", target.short()),
        }
    }
}

/// How staging stands to what production wants.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum InStaging {
    /// Nobody tries it there.
    Absent,
    /// This attempt tries it, or waits to.
    Tried(RolloutId),
    /// This attempt failed.
    Rejected(RolloutId),
    /// Staging is another cluster: what the statuses of commits tell; none: nobody has looked yet.
    Elsewhere(Option<Elsewhere>),
}

/// Why nothing of what goes together goes on.
#[must_use]
pub fn together(unit: &UnitId) -> String {
    format!("{unit}, which goes together with it, to be readable at the same commit: look at its Unit")
}

/// Why nothing new of a unit starts.
#[must_use]
pub fn gone(repository: &str) -> String {
    format!("Repository {repository}, which is gone: create it again; what runs stays")
}

/// With the remedy.
fn staging(target: &str, there: &InStaging) -> String {
    match there {
        InStaging::Absent => format!("{target} has not passed staging: merge it to the staging branch, or approve"),
        InStaging::Tried(rollout) => format!("{target} to pass staging ({rollout})"),
        InStaging::Rejected(rollout) => {
            format!("{target} was rejected in staging: retry {rollout}, or approve")
        }
        InStaging::Elsewhere(there) => elsewhere(target, there.as_ref()),
    }
}

/// The same, of a staging in another cluster.
fn elsewhere(target: &str, there: Option<&Elsewhere>) -> String {
    let to_pass = format!("{target} to pass staging in another cluster");
    match there {
        None | Some(Elsewhere::Passed) => format!("{to_pass}: the commits' statuses are not read yet"),
        Some(Elsewhere::Tried(Told { context, commit, says })) => {
            format!("{to_pass}: status {context} of commit {} says {says}", short(commit))
        }
        Some(Elsewhere::Failed(Told { context, commit, says })) => {
            let at = format!("status {context} of commit {} says {says}", short(commit));
            format!("{target} failed staging in another cluster: {at}; retry it there, or approve")
        }
        Some(Elsewhere::Untold { context, commit, others, says }) => {
            let more = if *others > 0 { format!(" and {others} more") } else { String::new() };
            let found = match (commit, says) {
                (None, _) => "there is no commit to look at".to_owned(),
                (Some(commit), None) => format!("no status {context} at commit {}{more}", short(commit)),
                (Some(commit), Some(says)) => {
                    format!("status {context} at commit {}{more} is of something else ({says})", short(commit))
                }
            };
            format!(
                "{to_pass}: {found}; merge it to the staging branch, whose Repository needs commitStatus, or approve"
            )
        }
        Some(Elsewhere::Unreadable { why }) => {
            format!("{to_pass}, and the commits' statuses cannot be read: {why}; approve if it cannot wait")
        }
    }
}

/// Enough of a commit to find it.
fn short(commit: &str) -> &str {
    commit.get(..8).unwrap_or(commit)
}

fn soak(until: Option<Time>, requests: Option<(u64, u64)>, now: Time) -> String {
    let requests = requests.map(|(seen, asked)| format!("{seen}/{asked} req"));
    match (until, requests) {
        (Some(until), Some(requests)) => format!("soak until {} ({requests})", until.shown(now)),
        (Some(until), None) => format!("soak until {}", until.shown(now)),
        (None, Some(requests)) => format!("soak: {requests}"),
        (None, None) => "soak: over".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_column_reads_as_the_user_journey_shows_it() {
        let noon = Time(1_795_435_200_000);
        let until = Time(noon.0 + (2 * 3600 + 32 * 60 + 10) * 1000);
        let soak = Waiting::Soak { until: Some(until), requests: Some((812, 1000)) };
        assert_eq!(soak.text(noon), "soak until 14:32:10 (812/1000 req)");
        let nodes = Waiting::Nodes { behind: 1, live: 3, node: "edge-7".into(), has: 12, needs: 14, says: None };
        let text = nodes.text(noon);
        assert_eq!(text, "1 of 3 nodes: edge-7 has generation 12, needs 14");
    }
}
