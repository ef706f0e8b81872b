//! A control plane, a git server, and operators as processes beside it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Result, bail, ensure};
use kube::{Api, Client, ResourceExt, api::ListParams};
use serde_json::{Value, json};
use sluice_config::{Digest, Environment};
use sluice_crds::{Assignment, Phase, Rollout, RolloutStatus, Unit};
use sluice_e2e::{
    Cluster, control_plane,
    operators::{self, Metrics, Start},
    parts::{api_proxy::ApiProxy, git_server::GitServer},
    rollouts::{self, Rollouts},
    wait::{Look, until},
};

pub(crate) use sluice_e2e::stage::{SYSTEM, TEAM};

/// The user that operators are, so that the audit log tells their writes apart.
pub(crate) const OPERATOR: &str = "test-operator";
pub(crate) const LIMIT: Duration = Duration::from_secs(90);
const REPOSITORY: &str = "edge";

pub(crate) struct World<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) client: Client,
    pub(crate) git: GitServer<'a>,
    pub(crate) rollouts: Rollouts,
    kubeconfig: PathBuf,
}

impl<'a> World<'a> {
    pub(crate) async fn on(cluster: &'a Cluster) -> Result<Self> {
        operators::prepare(cluster).await?;
        let git = GitServer::start(cluster).await?;
        git.create(REPOSITORY)?;
        let kubeconfig = cluster.user_kubeconfig(OPERATOR, &["system:masters"])?;
        let rollouts = Rollouts::of(cluster, TEAM).await?;
        Ok(Self { cluster, client: cluster.client().await?, git, rollouts, kubeconfig })
    }

    /// Starts an operator; `lease` tells apart those that are to lead at the same time.
    pub(crate) fn start_operator(&self, name: &str, lease: &str) -> Result<Metrics> {
        self.start_operator_at(name, lease, &self.kubeconfig)
    }

    /// A proxy that speaks to the API server as operators do.
    pub(crate) async fn proxy(&self) -> Result<ApiProxy> {
        ApiProxy::start(control_plane::client(&self.kubeconfig).await?).await
    }

    /// Starts an operator that this kubeconfig leads to the API server.
    pub(crate) fn start_operator_at(&self, name: &str, lease: &str, kubeconfig: &Path) -> Result<Metrics> {
        self.start_operator_that(name, lease, kubeconfig, None)
    }

    /// Starts an operator that believes this authority, too.
    pub(crate) fn start_believing_operator(&self, name: &str, lease: &str, authority: &Path) -> Result<Metrics> {
        self.start_operator_that(name, lease, &self.kubeconfig, Some(authority))
    }

    fn start_operator_that(
        &self,
        name: &str,
        lease: &str,
        kubeconfig: &Path,
        git_ca: Option<&Path>,
    ) -> Result<Metrics> {
        let log = "info,sluice_operator=debug";
        Ok(Start { name, lease, kubeconfig, log, artifacts_port: None, git_ca }.on(self.cluster)?.metrics)
    }

    /// The end of each operator's log.
    pub(crate) fn logs(&self) -> String {
        let Ok(processes) = self.cluster.processes() else { return String::new() };
        let operators = processes.list().into_keys().filter(|name| name.starts_with("operator-"));
        operators.map(|name| processes.tail(&name)).collect::<Vec<_>>().join("\n")
    }

    pub(crate) fn kill_operator(&self, name: &str) -> Result<()> {
        self.cluster.processes()?.kill(name)
    }

    pub(crate) fn stop_operator(&self, name: &str) -> Result<()> {
        self.cluster.processes()?.stop(name)
    }

    pub(crate) async fn group(&self, name: &str, environment: Environment, order: i32, gates: Value) -> Result<()> {
        let group = operators::group(name, environment.as_str(), order, &gates);
        self.cluster.apply(&group).await.map(drop)
    }

    pub(crate) async fn follow_repository(&self, staging_evidence: &str) -> Result<()> {
        let repository = json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "Repository",
            "metadata": {"name": REPOSITORY, "namespace": TEAM},
            "spec": {"url": self.git.url(REPOSITORY), "interval": "1s", "stagingEvidence": staging_evidence}});
        self.cluster.apply(&repository).await.map(drop)
    }

    /// What people do to a rollout: `kubectl patch` of its spec.
    pub(crate) async fn order(&self, rollout: &Rollout, spec: Value) -> Result<()> {
        let patch = json!({"spec": spec}).to_string();
        let what = ["patch", "slr", "-n", TEAM, &rollout.name_any(), "--type=merge", "--patch", &patch];
        self.cluster.kubectl(&what).await.map(drop)
    }

    /// Commits to both branches; returns production's commit.
    pub(crate) async fn merge(&self, message: &str, files: &[(&str, Option<&str>)]) -> Result<String> {
        self.git.commit(REPOSITORY, "staging", message, files).await?;
        self.git.commit(REPOSITORY, "production", message, files).await
    }

    pub(crate) async fn production(&self, title: &str, commit: &str, phase: Phase) -> Result<Rollout> {
        self.rollouts.reach(title, Environment::Production, commit, phase, LIMIT).await
    }

    /// Waits until a rollout is as `is` wants it.
    pub(crate) async fn until(&self, what: &str, name: &str, is: impl Fn(&RolloutStatus) -> bool) -> Result<Rollout> {
        until(&format!("{name} {what}"), LIMIT, || async {
            let rollout = self.rollouts.get(name).await?;
            let status = rollouts::status(&rollout);
            let story = format!("{:?} {}: {}", status.phase, status.group, status.waiting_for);
            Ok(if is(&status) { Look::Done(rollout) } else { Look::NotYet(story) })
        })
        .await
    }

    /// Waits until a unit's attempt for a commit was told to a group.
    pub(crate) async fn entered(&self, title: &str, commit: &str, group: &str) -> Result<Rollout> {
        until(&format!("{title} to enter {group}"), LIMIT, || async {
            let Some(rollout) = self.rollouts.find(title, Environment::Production, commit).await? else {
                return Ok(Look::NotYet("no rollout".to_owned()));
            };
            let status = rollouts::status(&rollout);
            let entered = status.groups.iter().any(|g| g.name == group && g.entered_at.is_some());
            Ok(if entered { Look::Done(rollout) } else { Look::NotYet(format!("{:?}", status.phase)) })
        })
        .await
    }

    pub(crate) async fn assignment(&self, group: &str) -> Result<sluice_config::Assignment> {
        let api: Api<Assignment> = Api::all(self.client.clone());
        Ok(api.get(group).await?.spec.wire)
    }

    /// What a group is told to run of a unit.
    pub(crate) async fn assigned(&self, group: &str, unit: &str) -> Result<Option<Digest>> {
        let assignment = self.assignment(group).await?;
        Ok(assignment.entries.iter().find(|e| e.name == unit).and_then(|e| e.revision.clone()))
    }

    pub(crate) async fn unit(&self, name: &str) -> Result<Unit> {
        let api: Api<Unit> = Api::namespaced(self.client.clone(), TEAM);
        Ok(api.get(name).await?)
    }

    /// All rollouts, for counting attempts.
    pub(crate) async fn all_rollouts(&self) -> Result<Vec<Rollout>> {
        let api: Api<Rollout> = Api::namespaced(self.client.clone(), TEAM);
        Ok(api.list(&ListParams::default()).await?.items)
    }

    /// What a group was told about a unit, write by write: generation and revision.
    pub(crate) fn told(&self, group: &str, unit: &str) -> Result<Vec<(u64, Option<Digest>)>> {
        let mut told = Vec::new();
        for event in self.audited()? {
            let object = &event["objectRef"];
            let write = event["verb"] == "update" || event["verb"] == "create";
            let stored = event["responseStatus"]["code"].as_u64().is_some_and(|code| code < 300);
            if write && stored && object["resource"] == "assignments" && object["name"] == group {
                // The answer may have no more of it than its metadata.
                let spec = event["requestObject"]["spec"].clone();
                let spec = serde_json::from_value::<sluice_config::Assignment>(spec)?;
                let entry = spec.entries.iter().find(|entry| entry.name == unit);
                told.push((spec.generation, entry.and_then(|entry| entry.revision.clone())));
            }
        }
        Ok(told)
    }

    /// The audit log; its last line may be half written.
    fn audited(&self) -> Result<impl Iterator<Item = Value>> {
        let text = std::fs::read_to_string(self.cluster.audit_log()?)?;
        let events: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        Ok(events.into_iter())
    }

    /// Writes of operators so far, as `verb resource`, but for leases and requests that store nothing.
    pub(crate) fn writes(&self) -> Result<Vec<String>> {
        let mut writes = Vec::new();
        for event in self.audited()? {
            let verb = event["verb"].as_str().unwrap_or_default();
            let resource = event["objectRef"]["resource"].as_str().unwrap_or_default();
            let ours = event["user"]["username"] == OPERATOR;
            if ours && ["create", "update", "patch", "delete"].contains(&verb) && resource != "leases" {
                let object = &event["objectRef"];
                writes.push(format!("{verb} {resource} {} {}", object["name"], object["subresource"]));
            }
        }
        Ok(writes)
    }

    /// `kubectl apply` of what must be refused, with this in its message.
    pub(crate) async fn refused(&self, object: Value, sentence: &str) -> Result<()> {
        match self.cluster.apply(&object).await {
            Ok(_) => bail!("this was let in: {object}"),
            Err(error) => {
                let text = format!("{error:#}");
                ensure!(text.contains(sentence), "refused without `{sentence}`: {text}");
                Ok(())
            }
        }
    }
}

/// A route table of `shop`: `host` decides what it does.
pub(crate) fn shop(host: &str) -> String {
    format!(
        r#"apiVersion: sluice.dev/v1alpha1
kind: Routes
metadata: {{name: shop}}
spec:
  hosts: ["shop.example"]
  rules:
  - paths: ["/*"]
    upstream: {{url: "http://{host}.default.svc:8080"}}
"#
    )
}

/// A config bundle.
pub(crate) fn flags(value: &str) -> String {
    format!(
        "apiVersion: sluice.dev/v1alpha1\nkind: Config\nmetadata: {{name: flags}}\nspec:\n  data: {{flag: \"{value}\"}}\n"
    )
}
