//! Tells git how rollouts go: a task of the leader, which owes each rollout's commit a status for the phase it is in.
//! What was told stands in the rollout's condition `CommitStatus`, so that nobody is told twice.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::{Timestamp, ToSpan};
use kube::{ResourceExt, runtime::reflector::ObjectRef};
use sluice_config::UnitKind;
use sluice_crds::{CommitStatus, GroupPhase, Phase, Repository, Rollout, RolloutStatus, RolloutUnit, Unit};
use tokio::task::JoinSet;

use crate::{
    conditions::{self, Truth},
    execute::Hands,
    polls,
    provider::{self, Project, State, Status},
    publish,
    source::{RepositoryId, Web},
    writer::WriteError,
};

/// What was told, in a rollout's status.
const CONDITION: &str = "CommitStatus";
/// Changes come in bursts, and phases that last no longer are not worth a word.
const SETTLE: Duration = Duration::from_millis(500);
/// After a failure, then twice as long, up to the longest.
const RETRY: Duration = Duration::from_secs(5);
const RETRY_MAX: Duration = Duration::from_secs(600);
/// Looked at all the same, should a change get lost.
const LATEST: Duration = Duration::from_secs(300);
/// What ended before that, and nobody was told of, is history.
const NEWS_HOURS: i64 = 1;

/// Tells git.
pub struct Teller {
    hands: Hands,
    web: Web,
    silences: BTreeMap<RepositoryId, Silence>,
}

/// A provider that did not take a status is left alone for a while, unless somebody changes what was wrong.
#[derive(Clone, Copy, Debug)]
struct Silence {
    generation: Option<i64>,
    wait: Duration,
    until: Instant,
}

/// What a repository's provider is owed.
struct Debt {
    id: RepositoryId,
    repository: Arc<Repository>,
    rollouts: Vec<Arc<Rollout>>,
}

impl Teller {
    /// One that has told nothing yet.
    #[must_use]
    pub fn new(hands: Hands, web: Web) -> Self {
        Self { hands, web, silences: BTreeMap::new() }
    }

    /// Tells, as long as it is not dropped.
    pub async fn run(mut self) {
        let mut changes = self.hands.stores.changes();
        loop {
            changes.mark_unchanged();
            let now = Instant::now();
            let mut tasks = JoinSet::new();
            for debt in self.debts(now) {
                tasks.spawn(pay(self.hands.clone(), self.web.clone(), debt));
            }
            while let Some(ended) = tasks.join_next().await {
                if let Ok((id, generation, paid)) = ended {
                    self.heard(id, generation, paid);
                }
            }
            let again = next_look(self.silences.values().map(|silence| silence.until), now);
            tokio::select! {
                _ = changes.changed() => tokio::time::sleep(SETTLE).await,
                () = tokio::time::sleep(again) => {}
            }
        }
    }

    /// What is owed now, by repository.
    fn debts(&mut self, now: Instant) -> Vec<Debt> {
        let stores = &self.hands.stores;
        let repositories = stores.repositories.state().into_iter().filter(|r| r.spec.commit_status.is_some());
        let mut debts: BTreeMap<RepositoryId, Debt> = BTreeMap::new();
        for repository in repositories {
            let Some(namespace) = repository.namespace() else { continue };
            let id = RepositoryId { namespace, name: repository.name_any() };
            debts.insert(id.clone(), Debt { id, repository, rollouts: Vec::new() });
        }
        self.silences.retain(|id, silence| {
            debts.get(id).is_some_and(|debt| debt.repository.metadata.generation == silence.generation)
        });
        debts.retain(|id, _| self.silences.get(id).is_none_or(|silence| silence.until <= now));
        if debts.is_empty() {
            return Vec::new();
        }
        for rollout in stores.rollouts.state() {
            if owed(&rollout, Timestamp::now()).is_some()
                && let Some(debt) = self.repository(&rollout).and_then(|id| debts.get_mut(&id))
            {
                debt.rollouts.push(rollout);
            }
        }
        debts.into_values().filter(|debt| !debt.rollouts.is_empty()).collect()
    }

    fn repository(&self, rollout: &Rollout) -> Option<RepositoryId> {
        let (namespace, unit) = (rollout.namespace()?, rollout.spec.units.first()?);
        let name = sluice_config::UnitRef::new(unit.kind, namespace.clone(), unit.name.clone()).object_name();
        let unit = self.hands.stores.units.get(&ObjectRef::<Unit>::new(&name).within(&namespace))?;
        Some(RepositoryId { namespace, name: unit.spec.repository.clone() })
    }

    fn heard(&mut self, id: RepositoryId, generation: Option<i64>, paid: bool) {
        if paid {
            self.silences.remove(&id);
            return;
        }
        let wait = self.silences.get(&id).map_or(RETRY, |silence| (silence.wait * 2).min(RETRY_MAX));
        self.silences.insert(id, Silence { generation, wait, until: Instant::now() + wait });
    }
}

/// When to look again without a change. A silence that is over, with nothing owed any more, is no reason to.
fn next_look(silences: impl Iterator<Item = Instant>, now: Instant) -> Duration {
    let next = silences.filter(|until| *until > now).min();
    next.map_or(LATEST, |until| until.duration_since(now).min(LATEST))
}

/// Tells all of it to one provider; whether it took it.
async fn pay(hands: Hands, web: Web, debt: Debt) -> (RepositoryId, Option<i64>, bool) {
    let Debt { id, repository, rollouts } = debt;
    let generation = repository.metadata.generation;
    let Some(api) = &repository.spec.commit_status else { return (id, generation, true) };
    let token = token(&hands, &id, &repository, api).await;
    for rollout in rollouts {
        let told = match &token {
            Ok(token) => tell(&web, &Project { url: &repository.spec.url, api, token }, &rollout).await,
            Err(message) => Err(("SecretMissing", message.clone())),
        };
        let is_told = told.is_ok();
        if let Err((reason, message)) = &told {
            tracing::warn!(repository = %id, rollout = rollout.name_any(), message, "git is not told");
            let about = hands.stores.repositories.get(&publish::key(&id));
            if let Some(about) = about {
                hands.events.publish(&*about, true, "CommitStatusFailed", &format!("{reason}: {message}"), "").await;
            }
        }
        if let Err(error) = remember(&hands, &rollout, told).await {
            tracing::debug!(%error, "what git was told is told again");
        }
        if !is_told {
            return (id, generation, false);
        }
    }
    (id, generation, true)
}

async fn token(
    hands: &Hands,
    id: &RepositoryId,
    repository: &Repository,
    api: &CommitStatus,
) -> Result<String, String> {
    let client = hands.writer.client();
    let Some(reference) = &api.secret_ref else {
        let credentials = polls::credentials(client, id, &repository.spec).await?;
        let missing = "no token: name a Secret with the key token in spec.commitStatus.secretRef";
        return credentials.map(|credentials| credentials.password).ok_or_else(|| missing.to_owned());
    };
    let [token] = polls::keys(client, &id.namespace, &reference.name, ["token"], "").await?;
    Ok(token.trim().to_owned())
}

/// The phase that was told; or the reason in one word, and a sentence.
async fn tell(web: &Web, project: &Project<'_>, rollout: &Rollout) -> Result<&'static str, (&'static str, String)> {
    let Some((phase, state, description)) = owed(rollout, Timestamp::now()) else { return Ok("Pending") };
    for unit in &rollout.spec.units {
        let context = format!("sluice/{}/{}", rollout.spec.environment, shown(unit));
        let status = Status { context, state, description: description.clone() };
        let told = provider::tell(web, project, &rollout.spec.commit, &status).await;
        told.map_err(|error| (error.reason(), error.to_string()))?;
    }
    Ok(phase)
}

fn shown(unit: &RolloutUnit) -> String {
    match unit.kind {
        UnitKind::Worker => unit.name.clone(),
        UnitKind::Routes => format!("routes/{}", unit.name),
        UnitKind::Config => format!("config/{}", unit.name),
    }
}

/// Keeps in the rollout what git was told of it.
async fn remember(
    hands: &Hands,
    rollout: &Rollout,
    told: Result<&'static str, (&'static str, String)>,
) -> Result<(), WriteError> {
    let namespace = rollout.namespace().unwrap_or_default();
    let key = ObjectRef::<Rollout>::new(&rollout.name_any()).within(&namespace);
    let Some(stored) = hands.stores.rollouts.get(&key) else { return Ok(()) };
    let mut next = Rollout::clone(&stored);
    let status = next.status.get_or_insert_default();
    let truth = match &told {
        Ok(phase) => Truth::of(true, phase, ""),
        Err((reason, message)) => Truth::of(false, reason, message),
    };
    conditions::set(&mut status.conditions, CONDITION, truth, stored.metadata.generation);
    if next.status == stored.status {
        return Ok(());
    }
    hands.writer.replace_status(&hands.api(&namespace), &hands.stores.rollouts, &next).await.map(drop)
}

/// What git is to be told of a rollout and was not: phase, state, a sentence.
fn owed(rollout: &Rollout, now: Timestamp) -> Option<(&'static str, State, String)> {
    let status = rollout.status.as_ref()?;
    let (phase, state) = match status.phase {
        Phase::Pending => return None,
        Phase::Progressing => ("Progressing", State::Pending),
        Phase::Paused => ("Paused", State::Pending),
        Phase::Reverting => ("Reverting", State::Failure),
        Phase::Reverted => ("Reverted", State::Failure),
        Phase::Aborted => ("Aborted", State::Failure),
        Phase::Succeeded => ("Succeeded", State::Success),
        Phase::Superseded => ("Superseded", State::Canceled),
    };
    let told = status.conditions.iter().find(|condition| condition.type_ == CONDITION);
    if told.is_some_and(|told| told.status == "True" && told.reason == phase) || rollout.spec.commit.is_empty() {
        return None;
    }
    let recently = now.checked_sub(NEWS_HOURS.hours()).unwrap_or(Timestamp::MIN);
    let is_history = told.is_none() && status.ended_at.as_ref().is_some_and(|ended| ended.0 < recently);
    (!is_history).then(|| (phase, state, sentence(status)))
}

fn sentence(status: &RolloutStatus) -> String {
    let of = status.groups.len();
    match status.phase {
        Phase::Pending | Phase::Progressing => {
            let names: Vec<_> = status.groups.iter().map(|group| group.name.as_str()).collect();
            format!("goes through {}", names.join(", "))
        }
        Phase::Succeeded => {
            let passed = status.groups.iter().filter(|group| group.phase == GroupPhase::Passed).count();
            format!("passed {passed} of {of} groups")
        }
        Phase::Paused | Phase::Reverting | Phase::Reverted | Phase::Aborted | Phase::Superseded => {
            let why = if status.message.is_empty() { &status.waiting_for } else { &status.message };
            if status.group.is_empty() { why.clone() } else { format!("{}: {why}", status.group) }
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
    use serde_json::json;

    use super::*;

    fn rollout(phase: Phase) -> Rollout {
        let spec = json!({
            "environment": "production", "title": "auth", "revision": "4fab17b7", "attempt": 1,
            "commit": "c0ffee", "units": [{"kind": "Worker", "name": "auth"}],
        });
        let mut rollout = Rollout::new("auth-w-pr-4fab17b7-1", serde_json::from_value(spec).unwrap());
        let (group, message) = ("2/4 canary".to_owned(), "errors: 10% > 1% on edge-1".to_owned());
        rollout.status = Some(RolloutStatus { phase, group, message, ..RolloutStatus::default() });
        rollout
    }

    fn remembered(rollout: &mut Rollout, holds: bool, reason: &str) {
        let conditions = &mut rollout.status.get_or_insert_default().conditions;
        conditions::set(conditions, CONDITION, Truth::of(holds, reason, ""), None);
    }

    #[test]
    fn each_phase_is_told_once_and_what_was_not_taken_again() {
        let now = Timestamp::now();
        let mut reverted = rollout(Phase::Reverted);
        let sentence = "2/4 canary: errors: 10% > 1% on edge-1".to_owned();
        assert_eq!(owed(&reverted, now), Some(("Reverted", State::Failure, sentence)));
        remembered(&mut reverted, true, "Reverting");
        assert!(owed(&reverted, now).is_some());
        remembered(&mut reverted, true, "Reverted");
        assert_eq!(owed(&reverted, now), None);
        remembered(&mut reverted, false, "Refused");
        assert!(owed(&reverted, now).is_some());
        assert_eq!(owed(&rollout(Phase::Pending), now), None);
    }

    #[test]
    fn a_silence_that_is_over_makes_nobody_look_again_and_again() {
        let now = Instant::now();
        let later = now + RETRY;
        assert_eq!(next_look([now, later].into_iter(), now), RETRY);
        assert_eq!(next_look([now].into_iter(), now), LATEST);
    }

    #[test]
    fn what_ended_long_ago_is_no_news() {
        let now = Timestamp::now();
        let mut old = rollout(Phase::Succeeded);
        old.status.as_mut().unwrap().ended_at = Some(MicroTime(now - 2.hours()));
        assert_eq!(owed(&old, now), None);
        remembered(&mut old, false, "Unreachable");
        assert!(owed(&old, now).is_some(), "somebody has tried");
    }
}
