//! Repository: a git repository that Sluice follows.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::quantities::Span;

/// A git repository whose `staging` and `production` branches say what runs.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "sluice.dev",
    version = "v1alpha1",
    kind = "Repository",
    doc = "A git repository whose staging and production branches say what runs.",
    namespaced,
    derive = "PartialEq",
    status = "RepositoryStatus",
    category = "sluice",
    shortname = "slrepo",
    printcolumn(name = "URL", type_ = "string", json_path = ".spec.url"),
    printcolumn(name = "Staging", type_ = "string", json_path = ".status.commits.staging"),
    printcolumn(name = "Production", type_ = "string", json_path = ".status.commits.production"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].message"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.stagingEvidence != 'CommitStatus' || has(self.commitStatus)").message("stagingEvidence: CommitStatus reads what another cluster's staging wrote to commits: say where with commitStatus.provider, or write InCluster where staging is in this cluster"))]
#[x_kube(validation = Rule::new("self.stagingEvidence != 'CommitStatus' || !has(self.commitStatus) || (has(self.commitStatus.api) ? self.commitStatus.api : self.url).startsWith('https://')").message("stagingEvidence: CommitStatus reads over TLS alone: write https://… into commitStatus.api, or into url where there is no api"))]
pub struct RepositorySpec {
    /// `https://…` or `http://…`, without credentials: those stand in the Secret that `secretRef` names.
    #[schemars(length(max = 2048))]
    #[x_kube(validation = Rule::new("self.matches('^https?://[^/@ ]+/[^ ]*$')").message("write https://host/path (or http://); put user and password into the Secret that secretRef names"))]
    pub url: String,
    /// Folder in the repository that holds workers/, routes/ and config/.
    #[serde(default = "default_path")]
    #[schemars(length(max = 1024))]
    #[x_kube(validation = Rule::new("self.startsWith('/') && !self.split('/').exists(p, p == '..' || p == '.')").message("write an absolute path inside the repository without . and .., e.g. / or /edge"))]
    pub path: String,
    /// Which branch is which environment.
    #[serde(default)]
    pub branches: Branches,
    /// Time between polls.
    #[serde(default = "default_interval")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('24h')").message("poll between every 1s and every 24h"))]
    pub interval: Span,
    /// Secret in the same namespace with `username` and `password` (a token, usually).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretRef>,
    /// What lets a digest into production.
    #[serde(default)]
    pub staging_evidence: StagingEvidence,
    /// Where git is told how rollouts go, as statuses of the commits that asked for them. Absent: nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit_status: Option<CommitStatus>,
    /// What becomes of running units when this object is deleted.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// Rollouts that are kept of each unit in each environment after they are over, the newest first. Those that an
    /// order may be given to stay in any case: where something was rejected, and what brought the stable revision.
    #[serde(default = "default_history_limit")]
    #[schemars(range(min = 1, max = 1000))]
    pub history_limit: u32,
    /// Orders that people give.
    #[serde(default)]
    pub verbs: Verbs,
}

/// Orders that people give to a repository.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Verbs {
    /// Commit whose removal of many units at once is meant; others that remove over 30% of the
    /// units (and more than two) wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub confirm_removal: Option<String>,
}

/// Which branch is which environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Branches {
    /// Branch of staging.
    #[serde(default = "default_staging")]
    #[schemars(length(min = 1, max = 255), regex(pattern = "^[A-Za-z0-9][A-Za-z0-9._/-]*$"))]
    pub staging: String,
    /// Branch of production.
    #[serde(default = "default_production")]
    #[schemars(length(min = 1, max = 255), regex(pattern = "^[A-Za-z0-9][A-Za-z0-9._/-]*$"))]
    pub production: String,
}

impl Default for Branches {
    fn default() -> Self {
        Self { staging: default_staging(), production: default_production() }
    }
}

/// A Secret in the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecretRef {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Where git is told how rollouts go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CommitStatus {
    /// Whose API it is.
    pub provider: Provider,
    /// Base of that API. Absent: where it is on the host of `url`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    #[x_kube(validation = Rule::new("self.matches('^https?://[^/@? ]+(/[^?# ]*)?$')").message("write the base of the API, e.g. https://git.example/api/v1"))]
    pub api: Option<String>,
    /// Secret in the same namespace with `token`, which may write commit statuses. Absent: `password` of the one that the
    /// repository's own `secretRef` names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretRef>,
    /// Whether what was rejected is taken out of its branch by a pull request, which gives the unit's files the content
    /// of the stable revision. The token must be allowed to push branches (`sluice/revert-…`) and to open pull requests.
    #[serde(default)]
    pub revert_pull_request: bool,
    /// With `stagingEvidence: CommitStatus`: the account whose statuses count, as the provider names it; the one whose
    /// token staging's cluster has. Absent: anybody's who may write commit statuses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub evidence_from: Option<String>,
}

/// Whose API it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Provider {
    /// GitHub, also one's own.
    GitHub,
    /// GitLab, also one's own.
    GitLab,
    /// Gitea and Forgejo.
    Gitea,
}

/// What lets a digest into production.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum StagingEvidence {
    /// It passed staging in this cluster.
    #[default]
    InCluster,
    /// It passed staging in another cluster, whose Sluice wrote that to the commits' statuses: they are read as
    /// `commitStatus` says, whose token must be allowed to read commits and their statuses. Staging's branch is only
    /// read here. Whoever may write commit statuses can say so, too: see `commitStatus.evidenceFrom`.
    CommitStatus,
    /// Nothing: merging to production is enough.
    None,
}

/// What becomes of running units when a Repository is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// They keep running.
    #[default]
    Orphan,
}

/// What the operator sees of the repository.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RepositoryStatus {
    /// Commit that was read last, by environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub commits: BTreeMap<String, String>,
    /// Units that the repository holds.
    #[serde(default)]
    pub units: i64,
    /// Generation of the spec that this status is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`, `Reconciling`, `Stalled`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

fn default_path() -> String {
    "/".to_owned()
}

fn default_staging() -> String {
    "staging".to_owned()
}

fn default_production() -> String {
    "production".to_owned()
}

fn default_history_limit() -> u32 {
    20
}

fn default_interval() -> Span {
    Span::from_secs(30)
}
