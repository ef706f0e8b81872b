//! Tells git how rollouts go: a task of the leader, which owes each rollout's commit a status for the phase it is in, and
//! what was rejected a pull request where that was asked for. What was told stands in conditions of the rollout, so that
//! nobody is told twice.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::{Timestamp, ToSpan};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{ResourceExt, runtime::reflector::ObjectRef};
use sluice_config::{Environment, UnitRef};
use sluice_crds::{
    CauseKind, GroupPhase, Phase, Repository, Revision, RevisionSpec, Rollout, RolloutStatus, RolloutUnit,
    StagingEvidence,
};
use tokio::task::JoinSet;

use crate::{
    conditions::{self, Truth},
    evidence::{self, word},
    execute::Hands,
    polls, propose,
    provider::{self, Project, ProviderError, State, Status},
    source::{Credentials, RepositoryId, Source, Web},
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
    source: Source,
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
    rollouts: Vec<Owed>,
}

/// What it is owed for one rollout: one of the two at least.
struct Owed {
    rollout: Arc<Rollout>,
    word: Option<Word>,
    proposes: bool,
}

/// A phase, how the commit stands in it, and a sentence.
type Word = (&'static str, State, String);

impl Teller {
    /// One that has told nothing yet.
    #[must_use]
    pub fn new(hands: Hands, source: Source) -> Self {
        Self { hands, source, silences: BTreeMap::new() }
    }

    /// Tells, as long as it is not dropped.
    pub async fn run(mut self) {
        let mut changes = self.hands.stores.changes();
        loop {
            changes.mark_unchanged();
            let now = Instant::now();
            let mut tasks = JoinSet::new();
            for debt in self.debts(now) {
                tasks.spawn(pay(self.hands.clone(), self.source.clone(), debt));
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
        let now = Timestamp::now();
        let environments: BTreeSet<Environment> =
            stores.groups.state().iter().map(|group| group.spec.environment).collect();
        for rollout in in_order(stores.rollouts.state()) {
            let (word, may_propose) = (owed(&rollout, now), is_to_propose(&rollout, now));
            if word.is_none() && !may_propose {
                continue;
            }
            let Some(debt) = self.repository(&rollout).and_then(|id| debts.get_mut(&id)) else { continue };
            if is_anothers(&rollout, &debt.repository, &environments) {
                continue;
            }
            let proposes = may_propose && propose::proposal(stores, &debt.repository, &rollout).is_some();
            if word.is_some() || proposes {
                debt.rollouts.push(Owed { rollout, word, proposes });
            }
        }
        debts.into_values().filter(|debt| !debt.rollouts.is_empty()).collect()
    }

    fn repository(&self, rollout: &Rollout) -> Option<RepositoryId> {
        let (namespace, unit) = (rollout.namespace()?, rollout.spec.units.first()?);
        let unit = self.hands.stores.unit(&UnitRef::new(unit.kind, namespace.clone(), unit.name.clone()))?;
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

/// The newest status of a commit counts, so the oldest attempt is told first.
fn in_order(mut rollouts: Vec<Arc<Rollout>>) -> Vec<Arc<Rollout>> {
    rollouts.sort_by_key(|rollout| (rollout.spec.attempt, rollout.creation_timestamp().map(|created| created.0)));
    rollouts
}

/// When to look again without a change. A silence that is over, with nothing owed any more, is no reason to.
fn next_look(silences: impl Iterator<Item = Instant>, now: Instant) -> Duration {
    let next = silences.filter(|until| *until > now).min();
    next.map_or(LATEST, |until| until.duration_since(now).min(LATEST))
}

/// Tells all of it to one provider; whether it took it.
async fn pay(hands: Hands, source: Source, debt: Debt) -> (RepositoryId, Option<i64>, bool) {
    let Debt { id, repository, rollouts } = debt;
    let generation = repository.metadata.generation;
    let Some(api) = &repository.spec.commit_status else { return (id, generation, true) };
    let writer = polls::provider_credentials(hands.writer.client(), &id, &repository.spec, api).await;
    let writer = writer.map_err(|message| ("SecretMissing", message));
    for owed in rollouts {
        let rollout = Arc::clone(&owed.rollout);
        let told = match &writer {
            Ok(writer) => {
                let project = Project { url: &repository.spec.url, api, token: &writer.password };
                settle(&hands, &source, (&id, &repository), writer, &project, owed).await
            }
            Err(missing) => owed.conditions().map(|condition| (condition, Err(missing.clone()))).collect(),
        };
        let all_told = told.iter().all(|(_, told)| told.is_ok());
        for (condition, told) in &told {
            heed(&hands, &id, &rollout, condition, told).await;
        }
        if let Err(error) = remember(&hands, &rollout, told).await {
            tracing::debug!(%error, "what git was told is told again");
        }
        if !all_told {
            return (id, generation, false);
        }
    }
    (id, generation, true)
}

impl Owed {
    /// Where it stands what became of each.
    fn conditions(&self) -> impl Iterator<Item = &'static str> {
        let proposal = self.proposes.then_some(propose::CONDITION);
        self.word.as_ref().map(|_| CONDITION).into_iter().chain(proposal)
    }
}

/// Tells and proposes what is owed for one rollout; by condition, what came of it.
async fn settle(
    hands: &Hands,
    source: &Source,
    (id, repository): (&RepositoryId, &Repository),
    writer: &Credentials,
    project: &Project<'_>,
    Owed { rollout, word, proposes }: Owed,
) -> Vec<(&'static str, Told)> {
    let mut told = Vec::new();
    if let Some(word) = word {
        told.push((CONDITION, tell(hands, source.web(), repository, project, &rollout, word).await));
    }
    // Telling the others took its time: the branch may be mended by now, and what mends it is not to be taken back.
    let proposal = if proposes { propose::proposal(&hands.stores, repository, &rollout) } else { None };
    if let Some(proposal) = proposal {
        let proposed = propose::propose(hands, source, (id, repository), writer, project, proposal).await;
        told.push((propose::CONDITION, proposed));
    }
    told
}

/// What came of telling: the phase or what was done, and a sentence if there is one; or the reason in one word, and a
/// sentence.
type Told = Result<(&'static str, String), (&'static str, String)>;

/// Says what went wrong.
async fn heed(hands: &Hands, id: &RepositoryId, rollout: &Rollout, condition: &str, told: &Told) {
    let Err((reason, message)) = told else { return };
    tracing::warn!(repository = %id, rollout = rollout.name_any(), condition, message, "git is not told");
    if let Some(about) = hands.stores.repository(id) {
        let (event, note) = (format!("{condition}Failed"), format!("{reason}: {message}"));
        hands.events.publish(&*about, true, &event, &note, "").await;
    }
}

/// Tells the phase.
async fn tell(
    hands: &Hands,
    web: &Web,
    repository: &Repository,
    project: &Project<'_>,
    rollout: &Rollout,
    (phase, state, sentence): Word,
) -> Told {
    let failed = |error: ProviderError| (error.reason(), error.to_string());
    let mut note = String::new();
    for unit in &rollout.spec.units {
        let status = status(rollout, unit, state, &sentence);
        provider::tell(web, project, &rollout.spec.commit, &status).await.map_err(failed)?;
        if rollout.spec.environment != Environment::Staging {
            continue;
        }
        match origin(hands, web, repository, project, rollout, unit).await {
            Ok(Some(commit)) if commit != rollout.spec.commit => {
                provider::tell(web, project, &commit, &status).await.map_err(failed)?;
            }
            Ok(_) => {}
            // The token may lack this right. Mostly the first commit is enough.
            Err(error @ ProviderError::Refused { .. }) => note = format!("only at {}: {error}", rollout.spec.commit),
            Err(error) => return Err(failed(error)),
        }
    }
    Ok((phase, note))
}

/// What is told of one unit. Of staging, another cluster wants to know which revision it was.
fn status(rollout: &Rollout, unit: &RolloutUnit, state: State, sentence: &str) -> Status {
    let description = match rollout.spec.environment {
        Environment::Staging => word::say(unit.revision.as_ref(), state, sentence),
        Environment::Production => sentence.to_owned(),
    };
    Status { context: word::context(rollout.spec.environment, unit.kind, &unit.name), state, description }
}

/// The commit that changed a unit's files last. Another cluster looks there, whichever commit either saw first.
async fn origin(
    hands: &Hands,
    web: &Web,
    repository: &Repository,
    project: &Project<'_>,
    rollout: &Rollout,
    unit: &RolloutUnit,
) -> Result<Option<String>, ProviderError> {
    let namespace = rollout.namespace().unwrap_or_default();
    let (id, revision) = (UnitRef::new(unit.kind, namespace.clone(), unit.name.clone()), unit.revision.as_ref());
    let artifact = revision.and_then(|digest| {
        let key = ObjectRef::<Revision>::new(&RevisionSpec::object_name(&id, digest)).within(&namespace);
        hands.stores.revisions.get(&key)?.spec.source.artifact_path.clone()
    });
    let paths = evidence::paths(&repository.spec.path, &id, artifact.as_deref());
    evidence::origin(web, project, &rollout.spec.commit, &paths).await
}

/// Keeps in the rollout what git was told of it.
async fn remember(hands: &Hands, rollout: &Rollout, told: Vec<(&'static str, Told)>) -> Result<(), WriteError> {
    let namespace = rollout.namespace().unwrap_or_default();
    let key = ObjectRef::<Rollout>::new(&rollout.name_any()).within(&namespace);
    let Some(stored) = hands.stores.rollouts.get(&key) else { return Ok(()) };
    let mut next = Rollout::clone(&stored);
    let status = next.status.get_or_insert_default();
    for (condition, told) in &told {
        let ((Ok((reason, message)), holds) | (Err((reason, message)), holds)) = (told, told.is_ok());
        conditions::set(
            &mut status.conditions,
            condition,
            Truth::of(holds, reason, message),
            stored.metadata.generation,
        );
    }
    if next.status == stored.status {
        return Ok(());
    }
    hands.writer.replace_status(&hands.api(&namespace), &hands.stores.rollouts, &next).await.map(drop)
}

/// What git is to be told of a rollout and was not: phase, state, a sentence.
fn owed(rollout: &Rollout, now: Timestamp) -> Option<Word> {
    let status = rollout.status.as_ref()?;
    // That says nothing of the revision: here, too, what passed before has passed.
    let is_left = status.cause.as_ref().is_some_and(|cause| cause.kind == CauseKind::HeadReturned);
    let taken_back = if is_left { State::Canceled } else { State::Failure };
    let (phase, state) = match status.phase {
        Phase::Pending => return None,
        Phase::Progressing => ("Progressing", State::Pending),
        Phase::Paused => ("Paused", State::Pending),
        Phase::Reverting => ("Reverting", taken_back),
        Phase::Reverted => ("Reverted", taken_back),
        Phase::Aborted => ("Aborted", State::Failure),
        Phase::Succeeded => ("Succeeded", State::Success),
        Phase::Superseded => ("Superseded", State::Canceled),
    };
    let told = told(status, CONDITION);
    if told.is_some_and(|told| told.status == "True" && told.reason == phase) || rollout.spec.commit.is_empty() {
        return None;
    }
    (told.is_some() || is_news(status, now)).then(|| (phase, state, sentence(status)))
}

/// Whether another cluster has the word about it: what never started here says nothing where its environment is elsewhere.
fn is_anothers(rollout: &Rollout, repository: &Repository, environments: &BTreeSet<Environment>) -> bool {
    let environment = rollout.spec.environment;
    let is_read_only = repository.spec.staging_evidence == StagingEvidence::CommitStatus;
    let never_started = rollout.status.as_ref().is_none_or(|status| status.started_at.is_none());
    (environment == Environment::Staging && is_read_only) || (never_started && !environments.contains(&environment))
}

/// Whether nobody has proposed yet to take out of the branch what was rejected in this rollout.
fn is_to_propose(rollout: &Rollout, now: Timestamp) -> bool {
    let Some(status) = rollout.status.as_ref().filter(|status| propose::is_rejected(status)) else { return false };
    told(status, propose::CONDITION).map_or_else(|| is_news(status, now), |told| told.status != "True")
}

fn told<'a>(status: &'a RolloutStatus, condition: &str) -> Option<&'a Condition> {
    status.conditions.iter().find(|told| told.type_ == condition)
}

fn is_news(status: &RolloutStatus, now: Timestamp) -> bool {
    let recently = now.checked_sub(NEWS_HOURS.hours()).unwrap_or(Timestamp::MIN);
    status.ended_at.as_ref().is_none_or(|ended| ended.0 >= recently)
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
    fn a_branch_that_went_back_says_nothing_bad_of_the_revision() {
        for phase in [Phase::Reverting, Phase::Reverted] {
            let state = |kind: &str| {
                let mut rollout = rollout(phase);
                let cause = serde_json::from_value(json!({"kind": kind})).unwrap();
                rollout.status.as_mut().unwrap().cause = Some(cause);
                owed(&rollout, Timestamp::now()).map(|(_, state, _)| state)
            };
            assert_eq!(state("HeadReturned"), Some(State::Canceled));
            assert_eq!(state("GateFailed"), Some(State::Failure));
        }
    }

    #[test]
    fn the_oldest_attempt_is_told_first() {
        let attempt = |attempt| {
            let mut rollout = rollout(Phase::Succeeded);
            rollout.spec.attempt = attempt;
            Arc::new(rollout)
        };
        let told = in_order([10, 2, 9].map(attempt).into());
        assert_eq!(told.iter().map(|rollout| rollout.spec.attempt).collect::<Vec<_>>(), [2, 9, 10]);
    }

    #[test]
    fn a_status_of_staging_names_the_revision_and_the_whole_of_it_where_that_passed() {
        let digest = "4fab17b7".repeat(8);
        let mut rollout = rollout(Phase::Succeeded);
        let told = |rollout: &Rollout, state| status(rollout, &rollout.spec.units[0], state, "a sentence");
        assert_eq!(told(&rollout, State::Success).description, "a sentence");
        rollout.spec.environment = Environment::Staging;
        rollout.spec.units[0].revision = Some(digest.parse().unwrap());
        let passed = told(&rollout, State::Success);
        assert_eq!(passed.context, "sluice/staging/auth");
        assert_eq!(passed.description, format!("4fab17b7: a sentence (sha256:{digest})"));
        assert_eq!(told(&rollout, State::Failure).description, "4fab17b7: a sentence");
    }

    #[test]
    fn what_is_tried_in_another_cluster_is_told_by_that() {
        let repository = |evidence: &str| -> Repository {
            let spec = json!({"url": "https://git.example/team/edge", "stagingEvidence": evidence});
            Repository::new("edge", serde_json::from_value(spec).unwrap())
        };
        let (here, elsewhere) = (repository("InCluster"), repository("CommitStatus"));
        let (none, both) = (BTreeSet::new(), BTreeSet::from([Environment::Staging, Environment::Production]));
        let mut rollout = rollout(Phase::Superseded);
        assert!(is_anothers(&rollout, &here, &none), "it never started, and there are no groups");
        assert!(!is_anothers(&rollout, &here, &both));
        rollout.status.as_mut().unwrap().started_at = Some(MicroTime(Timestamp::now()));
        assert!(!is_anothers(&rollout, &here, &none), "its groups are gone since");
        rollout.spec.environment = Environment::Staging;
        assert!(is_anothers(&rollout, &elsewhere, &both));
        assert!(!is_anothers(&rollout, &here, &both));
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
