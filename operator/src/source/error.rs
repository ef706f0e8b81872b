//! Why a repository, or one branch of it, cannot be read; each with what to do.

/// Why a repository as a whole cannot be read. What runs keeps running.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// `spec.url` is none that Sluice fetches from.
    #[error("{0}")]
    Url(String),
    /// The host has an address that is refused.
    #[error("{host} is {address}, {why}: name a git server elsewhere")]
    Address {
        /// Host of the URL.
        host: String,
        /// What it resolved to.
        address: String,
        /// Why it is refused.
        why: &'static str,
    },
    /// No answer.
    #[error("{host} cannot be reached ({reason}): check the URL, DNS and network policies")]
    Unreachable {
        /// Host of the URL.
        host: String,
        /// What went wrong below.
        reason: String,
    },
    /// Too slow.
    #[error("{host} did not answer in full within {seconds} s: it is asked again at the next poll")]
    Timeout {
        /// Host of the URL.
        host: String,
        /// The limit.
        seconds: u64,
    },
    /// 401 or 403 without credentials.
    #[error(
        "the server answers {status} and no credentials were sent: name a Secret with username and password in spec.secretRef"
    )]
    NeedsCredentials {
        /// The answer.
        status: u16,
    },
    /// 401 or 403 with credentials.
    #[error(
        "the server answers {status}, it refuses the credentials: renew username and password in the Secret that spec.secretRef names"
    )]
    CredentialsRefused {
        /// The answer.
        status: u16,
    },
    /// 401 or 403 to a push.
    #[error(
        "the server answers {status} to a push: the token of spec.commitStatus must be allowed to push branches, or write revertPullRequest: false"
    )]
    PushRefused {
        /// The answer.
        status: u16,
    },
    /// 404.
    #[error(
        "the server answers 404, there is no such repository or the credentials may not see it: check spec.url and what the token may read"
    )]
    NotFound,
    /// A redirect. None is followed: credentials would follow too.
    #[error("the server answers {status}, the repository has moved to {to}: write that into spec.url")]
    Moved {
        /// The answer.
        status: u16,
        /// Where to, without user and query.
        to: String,
    },
    /// Any other status.
    #[error("the server answers {status}: it is asked again at the next poll")]
    Status {
        /// The answer.
        status: u16,
    },
    /// Not the smart protocol.
    #[error("no git server answers there ({0}): check that spec.url is the URL that `git clone` takes")]
    NotGit(String),
    /// The server says why it refuses.
    #[error("the git server refuses: {0}")]
    Refused(String),
    /// No branch at all.
    #[error("the repository is empty: push a branch")]
    Empty,
    /// Over a limit.
    #[error("{what} is over the limit of {max}: make the repository smaller, or split it")]
    TooLarge {
        /// What.
        what: &'static str,
        /// The limit, with its unit.
        max: String,
    },
    /// What the server sent is no sound pack.
    #[error("the server sent a broken pack ({0}): run git fsck there")]
    BrokenPack(String),
    /// The commit cannot be had any more.
    #[error(
        "commit {0} is gone from the server: nodes that lack its artifact get it from other replicas, or push it again"
    )]
    CommitGone(String),
    /// The commit has no such file.
    #[error("in commit {commit} {reason}")]
    File {
        /// The commit.
        commit: String,
        /// What is wrong with the file.
        reason: String,
    },
    /// A file changed under an immutable commit: never seen from git itself.
    #[error("{path} in commit {commit} is not what it was")]
    OtherContent {
        /// The file.
        path: String,
        /// The commit.
        commit: String,
    },
    /// The disk of this replica.
    #[error("the operator's own work folder fails ({0}): check its disk")]
    WorkFolder(String),
}

impl SourceError {
    /// The reason of a condition.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Url(_) | Self::Address { .. } => "UrlRefused",
            Self::Unreachable { .. } => "Unreachable",
            Self::Timeout { .. } => "Timeout",
            Self::NeedsCredentials { .. } | Self::CredentialsRefused { .. } | Self::PushRefused { .. } => {
                "Unauthorized"
            }
            Self::NotFound => "NotFound",
            Self::Moved { .. } => "Moved",
            Self::Status { .. } | Self::Refused(_) => "ServerRefused",
            Self::NotGit(_) | Self::BrokenPack(_) => "NotGit",
            Self::Empty => "Empty",
            Self::TooLarge { .. } => "TooLarge",
            Self::CommitGone(_) | Self::File { .. } | Self::OtherContent { .. } => "ArtifactGone",
            Self::WorkFolder(_) => "WorkFolder",
        }
    }

    /// Whether someone must change something; otherwise asking again may help.
    #[must_use]
    pub fn stalled(&self) -> bool {
        match self {
            Self::Url(_)
            | Self::Address { .. }
            | Self::NeedsCredentials { .. }
            | Self::CredentialsRefused { .. }
            | Self::PushRefused { .. }
            | Self::NotFound
            | Self::Moved { .. }
            | Self::NotGit(_)
            | Self::Empty
            | Self::TooLarge { .. } => true,
            Self::Unreachable { .. }
            | Self::Timeout { .. }
            | Self::Status { .. }
            | Self::Refused(_)
            | Self::BrokenPack(_)
            | Self::CommitGone(_)
            | Self::File { .. }
            | Self::OtherContent { .. }
            | Self::WorkFolder(_) => false,
        }
    }
}

/// Why one branch cannot be read. The other branch goes on, and what runs keeps running.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BranchError {
    /// No such branch.
    #[error("there is no branch `{branch}`: push it, or name another in spec.branches")]
    Missing {
        /// As the spec names it.
        branch: String,
    },
    /// No such folder in it.
    #[error("branch `{branch}` has no folder `{path}`: correct spec.path, or add the folder")]
    NoFolder {
        /// The branch.
        branch: String,
        /// As the spec names it.
        path: String,
    },
    /// The tree is refused as a whole.
    #[error("commit {commit} is refused: {reason}")]
    Refused {
        /// The commit.
        commit: String,
        /// Why.
        reason: String,
    },
}

impl BranchError {
    /// The reason of a condition.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "BranchMissing",
            Self::NoFolder { .. } => "FolderMissing",
            Self::Refused { .. } => "CommitRefused",
        }
    }
}
