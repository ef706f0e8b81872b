//! Two clusters over one repository: production starts on what staging's operator wrote to the commits' statuses.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use sluice_config::Environment::{Production, Staging};
use sluice_crds::{Phase, Rollout, Unit};
use sluice_e2e::{
    Cluster, Options,
    wait::{Look, until},
};

use crate::{
    fleet::Fleet,
    provider::{ACCOUNT, OTHER_TOKEN, Provider, TOKEN, Told},
    world::{LIMIT, TEAM, World, shop},
};

const SHOP: &str = "shop (routes)";
const REPOSITORY: &str = "team/edge";
const STATUS: &str = "sluice/staging/routes/shop";

#[tokio::test]
async fn production_starts_on_what_stagings_cluster_wrote() -> Result<()> {
    let staging = Cluster::up(Options::ephemeral("evidence-st", 0)).await?;
    let production = Cluster::up(Options::ephemeral("evidence-pr", 0)).await?;
    let (there, here) = (World::on(&staging).await?, World::on(&production).await?);
    there.git.create(REPOSITORY)?;
    let (provider, authority) = Provider::over_tls(&staging, there.git.repository(REPOSITORY)).await?;
    let both = Both { there: &there, here: &here, provider, authority };
    both.play().await.map_err(|error| error.context(there.logs()).context(here.logs()))?;
    production.down().await?;
    staging.down().await
}

/// The two clusters, and the provider between them.
struct Both<'a> {
    there: &'a World<'a>,
    here: &'a World<'a>,
    provider: Provider,
    /// What the provider's certificate is from.
    authority: PathBuf,
}

impl Both<'_> {
    async fn play(&self) -> Result<()> {
        self.what_cannot_be_read_is_refused().await?;
        let errors = json!({"name": "errors", "preset": {"errorRate": {"max": "1%", "minRequests": 100}}});
        self.there.group("staging", Staging, 0, json!([errors])).await?;
        self.here.group("main", Production, 10, json!([])).await?;
        let _fleet_there = Fleet::start(&self.there.client, &[("node-1", "staging")]).await?;
        let _fleet_here = Fleet::start(&self.here.client, &[("node-1", "main")]).await?;
        let told = json!({"provider": "Gitea", "api": self.provider.api(), "secretRef": {"name": "provider"}});
        follow(self.there, TOKEN, self.repository(&json!({"commitStatus": told}))).await?;
        let mut asked = told.clone();
        asked["evidenceFrom"] = json!(ACCOUNT);
        let evidence = json!({"stagingEvidence": "CommitStatus", "commitStatus": asked});
        follow(self.here, OTHER_TOKEN, self.repository(&evidence)).await?;
        self.there.start_believing_operator("operator-s", "one", &self.authority)?;
        self.here.start_believing_operator("operator-a", "one", &self.authority)?;

        self.merged_after_staging().await?;
        self.squashed_before_staging().await?;
        self.seen_first_in_different_commits().await?;
        self.failed_in_staging().await?;
        self.provider_is_gone().await?;
        self.removed().await?;

        let tried_here = self.here.all_rollouts().await?.into_iter().filter(|r| r.spec.environment == Staging);
        ensure!(tried_here.count() == 0, "staging's branch is only read here");
        Ok(())
    }

    /// What staging has let through comes with a merge: another commit, the same content.
    async fn merged_after_staging(&self) -> Result<()> {
        let staged = self.commit("staging", "good-1").await?;
        self.there.rollouts.reach(SHOP, Staging, &staged, Phase::Succeeded, LIMIT).await?;
        let told = self.told(&staged, "success").await?;
        let digest = self.staged_digest(self.there).await?;
        let says = format!("{}: passed 1 of 1 groups (sha256:{digest})", &digest[..8]);
        ensure!(told.context == STATUS && told.description == says, "{told:?}");
        let merged = self.commit("production", "good-1").await?;
        ensure!(merged != staged);
        self.here.production(SHOP, &merged, Phase::Succeeded).await.map(drop)
    }

    /// Production comes first, and with a history of its own: it waits, and says for what. That something else passed in
    /// staging is not enough.
    async fn squashed_before_staging(&self) -> Result<()> {
        let squashed = self.commit("production", "good-2").await?;
        let waiting = self.waits(&squashed, &["to pass staging in another cluster", STATUS]).await?;
        let other = self.commit("staging", "good-3").await?;
        self.told(&other, "success").await?;
        let something_else =
            format!("is of something else (success: {}: ", &self.staged_digest(self.there).await?[..8]);
        let rollout = self.waits(&squashed, &[&something_else, "or approve"]).await?;
        ensure!(rollout.name_any() == waiting.name_any() && self.runs_stable().await?, "it has started");
        self.commit("staging", "good-2").await?;
        self.here.production(SHOP, &squashed, Phase::Succeeded).await.map(drop)
    }

    /// Staging's operator was away while a commit changed the unit and another one something else.
    async fn seen_first_in_different_commits(&self) -> Result<()> {
        self.there.kill_operator("operator-s")?;
        let changed = self.commit("staging", "good-4").await?;
        until("production's cluster to see it", LIMIT, || async {
            let head = self.unit(self.here).await?.spec.environments.staging.head.map(|head| head.commit);
            Ok(if head.as_ref() == Some(&changed) { Look::Done(()) } else { Look::NotYet(format!("{head:?}")) })
        })
        .await?;
        let readme = [("README.md", Some("nothing to do with it"))];
        let later = self.there.git.commit(REPOSITORY, "staging", "Say something", &readme).await?;
        self.there.start_believing_operator("operator-t", "one", &self.authority)?;
        self.there.rollouts.reach(SHOP, Staging, &later, Phase::Succeeded, LIMIT).await?;
        self.told(&later, "success").await?;
        self.told(&changed, "success").await?;
        let wanted = self.commit("production", "good-4").await?;
        self.here.production(SHOP, &wanted, Phase::Succeeded).await.map(drop)
    }

    /// What failed there waits here, whatever somebody else says; a person may let it in.
    async fn failed_in_staging(&self) -> Result<()> {
        let staged = self.commit("staging", "bad").await?;
        let wanted = self.commit("production", "bad").await?;
        self.told(&staged, "failure").await?;
        self.waits(&wanted, &["failed staging in another cluster", "> 1%", "retry it there, or approve"]).await?;
        let digest = self.staged_digest(self.there).await?;
        until("staging's last word on it", LIMIT, || async {
            let rollout = self.there.rollouts.find(SHOP, Staging, &staged).await?;
            let told = rollout.and_then(|rollout| rollout.status).map(|status| status.conditions).unwrap_or_default();
            let is_last = told.iter().any(|told| told.type_ == "CommitStatus" && told.reason == "Reverted");
            Ok(if is_last { Look::Done(()) } else { Look::NotYet(format!("{told:?}")) })
        })
        .await?;
        // A replica that knows nothing yet reads all of it anew: what it says only now shows that it has read what is forged.
        self.here.kill_operator("operator-a")?;
        let take = |commit: &str, state: &str, says: &str, account: &str| {
            let (commit, context, state) = (commit.to_owned(), STATUS.to_owned(), state.to_owned());
            let description = format!("{}: {says}", &digest[..8]);
            self.provider.take(Told { commit, context, state, description, account: account.to_owned() });
        };
        take(&staged, "failure", "it failed once more", ACCOUNT);
        for commit in [&staged, &wanted] {
            take(commit, "success", &format!("passed 1 of 1 groups (sha256:{digest})"), "mallory");
        }
        self.here.start_believing_operator("operator-b", "one", &self.authority)?;
        let rollout = self.waits(&wanted, &["failed staging in another cluster", "it failed once more"]).await?;
        ensure!(self.runs_stable().await?, "a forged status let it in");
        let approve = json!({"approve": {"by": "ada", "reason": "production has no such errors"}});
        self.here.order(&rollout, approve).await?;
        self.here.production(SHOP, &wanted, Phase::Succeeded).await.map(drop)
    }

    /// Who cannot read waits and says so.
    async fn provider_is_gone(&self) -> Result<()> {
        self.provider.refuse(true);
        let staged = self.commit("staging", "good-5").await?;
        let wanted = self.commit("production", "good-5").await?;
        self.there.rollouts.reach(SHOP, Staging, &staged, Phase::Succeeded, LIMIT).await?;
        self.waits(&wanted, &["cannot be read: ", "answers 401", "approve if it cannot wait"]).await?;
        self.provider.refuse(false);
        self.here.production(SHOP, &wanted, Phase::Succeeded).await.map(drop)
    }

    /// A removal has to pass as well.
    async fn removed(&self) -> Result<()> {
        let remove = |branch| self.there.git.commit(REPOSITORY, branch, "Remove it", &[("routes/shop.yaml", None)]);
        let wanted = remove("production").await?;
        self.waits(&wanted, &["removed has not passed staging"]).await?;
        let staged = remove("staging").await?;
        self.told(&staged, "success").await?;
        self.here.production(SHOP, &wanted, Phase::Succeeded).await.map(drop)
    }

    async fn what_cannot_be_read_is_refused(&self) -> Result<()> {
        let alone = self.repository(&json!({"stagingEvidence": "CommitStatus"}));
        self.here.refused(alone, "say where with commitStatus.provider").await?;
        let plain = json!({"provider": "Gitea", "api": "http://git.example/api/v1"});
        let plain = self.repository(&json!({"stagingEvidence": "CommitStatus", "commitStatus": plain}));
        self.here.refused(plain, "reads over TLS alone").await?;
        // Neither does an API on the host of a plain url.
        let none = self.repository(&json!({"stagingEvidence": "CommitStatus", "commitStatus": {"provider": "Gitea"}}));
        self.here.refused(none, "reads over TLS alone").await
    }

    fn repository(&self, more: &Value) -> Value {
        let mut spec = json!({"url": self.there.git.url(REPOSITORY), "interval": "1s"});
        for (key, value) in more.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "Repository",
            "metadata": {"name": "edge", "namespace": TEAM}, "spec": spec})
    }

    async fn commit(&self, branch: &str, host: &str) -> Result<String> {
        let text = shop(host);
        self.there.git.commit(REPOSITORY, branch, host, &[("routes/shop.yaml", Some(text.as_str()))]).await
    }

    async fn unit(&self, world: &World<'_>) -> Result<Unit> {
        Ok(Api::<Unit>::namespaced(world.client.clone(), TEAM).get("shop-r").await?)
    }

    async fn staged_digest(&self, world: &World<'_>) -> Result<String> {
        let head = self.unit(world).await?.spec.environments.staging.head.context("a head")?;
        Ok(head.digest.context("a revision")?.to_string())
    }

    /// Whether production runs what it ran before anything was wanted.
    async fn runs_stable(&self) -> Result<bool> {
        let stable = self.unit(self.here).await?.spec.environments.production.stable.and_then(|stable| stable.digest);
        Ok(stable.is_some() && self.here.assigned("main", "shop").await? == stable)
    }

    /// Waits until production's attempt at a commit says all this while it has not started.
    async fn waits(&self, commit: &str, says: &[&str]) -> Result<Rollout> {
        until(&format!("{commit} to wait, with {says:?}"), LIMIT, || async {
            let Some(rollout) = self.here.rollouts.find(SHOP, Production, commit).await? else {
                return Ok(Look::NotYet("no rollout".to_owned()));
            };
            let status = rollout.status.clone().unwrap_or_default();
            ensure!(status.phase == Phase::Pending, "it is {:?}", status.phase);
            let all = says.iter().all(|says| status.waiting_for.contains(says));
            Ok(if all { Look::Done(rollout) } else { Look::NotYet(status.waiting_for) })
        })
        .await
    }

    /// Waits until the last that staging's cluster told of a commit is this.
    async fn told(&self, commit: &str, state: &str) -> Result<Told> {
        until(&format!("{commit} to be told {state}"), LIMIT, || async {
            let told = self.provider.told(commit).into_iter().filter(|told| told.account == ACCOUNT);
            let told: Vec<Told> = told.filter(|told| told.context == STATUS).collect();
            Ok(match told.last() {
                Some(last) if last.state == state => Look::Done(last.clone()),
                _ => Look::NotYet(format!("{told:?}")),
            })
        })
        .await
    }
}

async fn follow(world: &World<'_>, token: &str, repository: Value) -> Result<()> {
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "provider", "namespace": TEAM},
        "stringData": {"token": token}});
    world.cluster.apply(&secret).await?;
    world.cluster.apply(&repository).await.map(drop)
}
