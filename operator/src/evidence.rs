//! Asks what another cluster's staging wrote to the statuses of commits, as long as a plan wants to know it: one task a
//! Repository, so that a slow provider holds up nobody else. It decides nothing, and keeps nothing over a restart.

mod look;
pub(crate) mod word;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use kube::runtime::reflector::ObjectRef;
use sluice_config::Environment;
use sluice_crds::{Branches, CommitStatus, Repository, RepositorySpec, Revision, RevisionSpec, SecretRef};
use sluice_rollout::{Elsewhere, UnitChange, Wanted};
use tokio::{sync::watch, task::JoinHandle, time::Instant};

use self::look::{Lists, Look, Subject};
use crate::{
    convert::ids,
    execute::Hands,
    polls,
    provider::Project,
    source::{RepositoryId, Web},
};

pub(crate) use look::{origin, paths};

/// What is known of all that is asked now.
pub type Known = BTreeMap<UnitChange, Elsewhere>;

/// Over a long time no more requests than one in this: the strictest of the providers allows 5,000 an hour.
const PACE: Duration = Duration::from_secs(1);
/// A provider that does not answer is asked again after the Repository's interval, then twice that, up to this.
const WAIT_MAX: Duration = Duration::from_secs(300);

/// Asks.
#[derive(Debug)]
pub struct Evidence {
    hands: Hands,
    web: Web,
    askers: BTreeMap<RepositoryId, Asker>,
    known: watch::Sender<Known>,
    seen: watch::Receiver<Known>,
}

/// The task of one Repository, as that was when it began.
#[derive(Debug)]
struct Asker {
    asks: Asks,
    wanted: watch::Sender<BTreeSet<UnitChange>>,
    task: JoinHandle<()>,
}

/// What of a Repository's spec says whom to ask for what: with another, nothing holds that was known.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Asks {
    url: String,
    path: String,
    branches: Branches,
    secret: Option<SecretRef>,
    api: Option<CommitStatus>,
}

impl Asks {
    fn of(spec: &RepositorySpec) -> Self {
        Self {
            url: spec.url.clone(),
            path: spec.path.clone(),
            branches: spec.branches.clone(),
            secret: spec.secret_ref.clone(),
            api: spec.commit_status.clone(),
        }
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Evidence {
    /// One that knows nothing yet.
    #[must_use]
    pub fn new(hands: Hands, web: Web) -> Self {
        let (known, seen) = watch::channel(Known::new());
        Self { hands, web, askers: BTreeMap::new(), known, seen }
    }

    /// Resolves when something else is known.
    pub async fn changed(&mut self) {
        // The sender is ours.
        let _ended = self.seen.changed().await;
    }

    /// All that is known of what was wanted last.
    pub fn known(&mut self) -> Known {
        self.seen.borrow_and_update().clone()
    }

    /// Asks this from now on, and nothing else.
    pub fn want(&mut self, wanted: &[Wanted]) {
        let mut by_repository: BTreeMap<RepositoryId, BTreeSet<UnitChange>> = BTreeMap::new();
        for want in wanted {
            let Wanted::Evidence { change } = want else { continue };
            let Some(unit) = self.hands.stores.unit(&ids::wire_unit(&change.unit)) else { continue };
            let id = RepositoryId { namespace: change.unit.namespace.clone(), name: unit.spec.repository.clone() };
            by_repository.entry(id).or_default().insert(change.clone());
        }
        let asks = |id: &RepositoryId| self.hands.stores.repository(id).map(|repository| Asks::of(&repository.spec));
        self.askers.retain(|id, asker| by_repository.contains_key(id) && asks(id).as_ref() == Some(&asker.asks));
        // Also what was known of a Repository before somebody changed it. Nobody has to wake up for that.
        let askers = &self.askers;
        self.known.send_if_modified(|known| {
            let asked = by_repository.iter().filter(|(id, _)| askers.contains_key(*id));
            let asked: BTreeSet<&UnitChange> = asked.flat_map(|(_, changes)| changes).collect();
            known.retain(|change, _| asked.contains(change));
            false
        });
        for (id, changes) in by_repository {
            if let Some(asker) = self.askers.get(&id) {
                let put = |old: &mut BTreeSet<UnitChange>| (*old != changes).then(|| *old = changes).is_some();
                asker.wanted.send_if_modified(put);
            } else if let Some(asks) = asks(&id) {
                let (wanted, wants) = watch::channel(changes);
                let (hands, web, known) = (self.hands.clone(), self.web.clone(), self.known.clone());
                let task = tokio::spawn(Asking { hands, web, id: id.clone(), known }.run(wants));
                self.askers.insert(id, Asker { asks, wanted, task });
            }
        }
    }
}

/// What the task of one Repository works with.
struct Asking {
    hands: Hands,
    web: Web,
    id: RepositoryId,
    known: watch::Sender<Known>,
}

/// What became of one round.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    requests: u32,
    failed: bool,
    /// Nothing could be read at all.
    is_down: bool,
}

impl Asking {
    async fn run(self, mut wants: watch::Receiver<BTreeSet<UnitChange>>) {
        let (mut due, mut lists) = (BTreeMap::<UnitChange, Instant>::new(), Lists::new());
        let (mut failures, mut rest) = (0, Instant::now());
        loop {
            let wanted = wants.borrow_and_update().clone();
            due.retain(|change, _| wanted.contains(change));
            let now = Instant::now();
            let asked = if now < rest { Vec::new() } else { is_due(&wanted, &due, now) };
            if !asked.is_empty() {
                let round = self.round(&asked, &mut lists).await;
                failures = if round.failed { failures + 1 } else { 0 };
                let (ended, pause) = (Instant::now(), pause(self.interval(), round, failures));
                rest = ended + pause.all;
                due.extend(asked.into_iter().map(|change| (change, ended + pause.these)));
            }
            let next = next(&wanted, &due, rest);
            let later = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = wants.changed() => if changed.is_err() { return },
                () = later => {}
            }
        }
    }

    fn repository(&self) -> Option<Arc<Repository>> {
        self.hands.stores.repository(&self.id)
    }

    fn interval(&self) -> Duration {
        let interval = self.repository().map(|repository| repository.spec.interval.duration());
        interval.unwrap_or_default().max(Duration::from_secs(1))
    }

    /// Asks once for each of these.
    async fn round(&self, asked: &[UnitChange], lists: &mut Lists) -> Round {
        let Some(repository) = self.repository() else { return Round::default() };
        let access = self.access(&repository).await;
        let project = match &access {
            Ok((api, token)) => Project { url: &repository.spec.url, api, token },
            Err(why) => {
                asked.iter().for_each(|change| self.unreadable(change, why));
                return Round { requests: 0, failed: true, is_down: true };
            }
        };
        let mut look = Look::new(&self.web, project, lists);
        let (mut failed, mut is_down) = (false, None::<String>);
        for change in asked {
            if let Some(why) = &is_down {
                self.unreadable(change, why);
                continue;
            }
            let Some(subject) = self.subject(&repository, change) else { continue };
            match look.at(&subject).await {
                Ok(there) => self.publish(change, there),
                Err(error) => {
                    failed = true;
                    tracing::warn!(repository = %self.id, unit = %change.unit, %error, "staging's evidence is not read");
                    self.unreadable(change, &error.to_string());
                    // All the others would hear the same.
                    is_down = (!error.is_of_one_commit()).then(|| error.to_string());
                }
            }
        }
        Round { requests: look.requests, failed, is_down: is_down.is_some() }
    }

    /// Whose API, and what lets us in.
    async fn access(&self, repository: &Repository) -> Result<(CommitStatus, String), String> {
        let Some(api) = &repository.spec.commit_status else {
            return Err("spec.commitStatus is missing: write commitStatus.provider".to_owned());
        };
        let credentials =
            polls::provider_credentials(self.hands.writer.client(), &self.id, &repository.spec, api).await?;
        let project = Project { url: &repository.spec.url, api, token: &credentials.password };
        if !project.is_over_tls() {
            return Err("the API is not reached over TLS: write https://… into spec.commitStatus.api".to_owned());
        }
        Ok((api.clone(), credentials.password))
    }

    /// What is to be looked for; none if the unit is gone.
    fn subject(&self, repository: &Repository, change: &UnitChange) -> Option<Subject> {
        let unit = ids::wire_unit(&change.unit);
        let stored = self.hands.stores.unit(&unit)?;
        let environments = &stored.spec.environments;
        let revision = ids::wire_target(&change.target);
        let artifact = revision.as_ref().and_then(|digest| {
            let key = ObjectRef::<Revision>::new(&RevisionSpec::object_name(&unit, digest)).within(&unit.namespace);
            self.hands.stores.revisions.get(&key)?.spec.source.artifact_path.clone()
        });
        let seen = environments.staging.head.as_ref().filter(|head| head.digest == revision);
        let commits = repository.status.as_ref().map(|status| &status.commits);
        Some(Subject {
            context: word::context(Environment::Staging, unit.kind, &unit.name),
            paths: paths(&repository.spec.path, &unit, artifact.as_deref()),
            staging: commits.and_then(|commits| commits.get(Environment::Staging.as_str())).cloned(),
            seen: seen.map(|head| head.commit.clone()),
            production: environments.production.head.as_ref().map(|head| head.commit.clone()),
            revision,
        })
    }

    fn unreadable(&self, change: &UnitChange, why: &str) {
        self.publish(change, Elsewhere::Unreadable { why: why.to_owned() });
    }

    fn publish(&self, change: &UnitChange, there: Elsewhere) {
        self.known.send_if_modified(|known| {
            let before = known.get(change);
            let is_news = before != Some(&there) && !is_kept(before, &there);
            if is_news {
                known.insert(change.clone(), there);
            }
            is_news
        });
    }
}

/// That it passed is not unknown again because nobody answers.
fn is_kept(before: Option<&Elsewhere>, there: &Elsewhere) -> bool {
    matches!((before, there), (Some(Elsewhere::Passed), Elsewhere::Unreadable { .. }))
}

/// What of all that is wanted was not asked yet, or long enough ago.
fn is_due(wanted: &BTreeSet<UnitChange>, due: &BTreeMap<UnitChange, Instant>, now: Instant) -> Vec<UnitChange> {
    wanted.iter().filter(|change| due.get(*change).is_none_or(|at| *at <= now)).cloned().collect()
}

/// When something is to be asked; none: when something else is wanted.
fn next(wanted: &BTreeSet<UnitChange>, due: &BTreeMap<UnitChange, Instant>, rest: Instant) -> Option<Instant> {
    wanted.iter().map(|change| due.get(change).map_or(rest, |at| rest.max(*at))).min()
}

/// How long is waited after a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pause {
    /// With what was asked in it.
    these: Duration,
    /// With everything.
    all: Duration,
}

/// `failures`: rounds in a row that failed, this one included.
fn pause(interval: Duration, round: Round, failures: u32) -> Pause {
    let pace = PACE * round.requests;
    let doubled = 1_u32.checked_shl(failures).unwrap_or(u32::MAX);
    let wait = if failures == 0 { interval } else { interval.saturating_mul(doubled).min(WAIT_MAX.max(interval)) };
    let these = wait.max(pace);
    Pause { these, all: if round.is_down { these } else { pace } }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use sluice_rollout::{Target, UnitId, UnitKind};

    use super::*;

    #[test]
    fn it_is_asked_at_the_interval_but_no_provider_more_than_it_allows() {
        let interval = Duration::from_secs(30);
        let after = |requests, failures| {
            let pause = pause(interval, Round { requests, failed: failures > 0, is_down: false }, failures);
            assert_eq!(pause.all.as_secs(), u64::from(requests));
            pause.these.as_secs()
        };
        assert_eq!(after(3, 0), 30);
        assert_eq!(after(200, 0), 200);
        assert_eq!((after(3, 1), after(3, 2), after(3, 9), after(3, 99)), (60, 120, 300, 300));
        let down = pause(Duration::from_secs(3600), Round { is_down: true, ..Round::default() }, 1);
        assert_eq!((down.these.as_secs(), down.all.as_secs()), (3600, 3600));
    }

    #[tokio::test]
    async fn what_is_wanted_anew_waits_for_the_pace_as_well() {
        let change = |name: &str| {
            let (namespace, name) = ("team".to_owned(), name.to_owned());
            UnitChange { unit: UnitId { kind: UnitKind::Worker, namespace, name }, target: Target::Removed }
        };
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let wanted: BTreeSet<UnitChange> = [change("asked"), change("new")].into();
        let due = BTreeMap::from([(change("asked"), now + 30 * second)]);
        assert_eq!(is_due(&wanted, &due, now), [change("new")]);
        assert_eq!(next(&wanted, &due, now + 5 * second), Some(now + 5 * second));
        assert_eq!(next(&[change("asked")].into(), &due, now + 5 * second), Some(now + 30 * second));
        assert_eq!(next(&BTreeSet::new(), &due, now), None);
    }

    #[test]
    fn only_who_is_asked_for_what_makes_it_ask_anew() {
        let asks = |more: serde_json::Value| {
            let mut spec = json!({"url": "https://git.example/team/edge"});
            spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            Asks::of(&serde_json::from_value(spec).unwrap())
        };
        let plain = asks(json!({}));
        assert_eq!(asks(json!({"verbs": {"confirmRemoval": "c0ffee1"}, "interval": "5s"})), plain);
        for other in [
            json!({"path": "/edge"}),
            json!({"branches": {"staging": "main", "production": "live"}}),
            json!({"secretRef": {"name": "git"}}),
            json!({"commitStatus": {"provider": "Gitea", "evidenceFrom": "bot"}}),
        ] {
            assert_ne!(asks(other.clone()), plain, "{other}");
        }
    }

    #[test]
    fn what_passed_stays_known_while_nobody_answers_and_no_longer() {
        let unreadable = Elsewhere::Unreadable { why: "it is gone".into() };
        assert!(is_kept(Some(&Elsewhere::Passed), &unreadable));
        let untold = Elsewhere::Untold { context: "c".into(), commit: None, others: 0, says: None };
        assert!(!is_kept(Some(&Elsewhere::Passed), &untold));
        assert!(!is_kept(Some(&untold), &unreadable));
    }
}
