//! Status and events of Repositories.

use std::collections::BTreeMap;

use sluice_crds::{Repository, RepositoryStatus};

use super::{Input, Problems};
use crate::{
    conditions::{self, Truth},
    execute::Hands,
    source::RepositoryId,
    writer::WriteError,
};

/// Says that the repository as a whole cannot be read. What runs keeps running.
pub async fn trouble(hands: &Hands, id: &RepositoryId, reason: &str, message: &str, stalled: bool) {
    tracing::warn!(repository = %id, reason, message, "a poll failed");
    let message = message.to_owned();
    write(hands, id, |status, generation| {
        verdict(status, generation, Some((reason, &message, stalled)), "");
        Some((reason.to_owned(), message.clone()))
    })
    .await;
}

/// Says what a poll saw.
pub(super) async fn report(hands: &Hands, input: &Input<'_>, problems: &Problems) {
    let mut trouble: Option<(String, String)> = None;
    let mut units = std::collections::BTreeSet::new();
    let mut commits = BTreeMap::new();
    for (environment, head) in input.heads {
        match head {
            Ok(head) => {
                commits.insert(environment.as_str().to_owned(), head.commit.sha.clone());
                units.extend(head.units.iter().map(|parsed| &parsed.unit));
                if let Some(problem) = head.problems.first() {
                    trouble = trouble.or_else(|| Some(("BadManifest".to_owned(), format!("{environment}: {problem}"))));
                }
            }
            Err(error) => trouble = Some((error.reason().to_owned(), error.to_string())),
        }
    }
    if let (None, Some((unit, (_, text)))) = (&trouble, problems.iter().next()) {
        let count = problems.len();
        trouble = Some(("UnitsStalled".to_owned(), format!("{count} of {} units: {unit}: {text}", units.len())));
    }
    let shown: Vec<String> = commits.iter().map(|(e, c)| format!("{e} {}", &c[..8.min(c.len())])).collect();
    let count = i64::try_from(units.len()).unwrap_or(i64::MAX);
    write(hands, input.id, |status, generation| {
        status.commits.extend(commits.clone());
        status.units = count;
        let bad = trouble.as_ref().map(|(reason, text)| (reason.as_str(), text.as_str(), true));
        verdict(status, generation, bad, &shown.join(", "));
        trouble.clone()
    })
    .await;
    if let Some(repository) = hands.stores.repository(input.id) {
        for (unit, (reason, text)) in problems {
            let note = format!("{unit}: {text}");
            hands.events.publish(&*repository, true, reason, &note, "").await;
        }
    }
}

fn verdict(status: &mut RepositoryStatus, generation: Option<i64>, bad: Option<(&str, &str, bool)>, shown: &str) {
    status.observed_generation = generation;
    let all = &mut status.conditions;
    let ready = match bad {
        Some((reason, message, _)) => Truth::of(false, reason, message),
        None => Truth::of(true, "Read", shown),
    };
    conditions::set(all, "Ready", ready, generation);
    let stalled = bad.filter(|bad| bad.2).map(|(reason, message, _)| Truth::of(true, reason, message));
    conditions::set_or_drop(all, "Stalled", stalled, generation);
    let again = bad.filter(|bad| !bad.2).map(|(reason, message, _)| Truth::of(true, reason, message));
    conditions::set_or_drop(all, "Reconciling", again, generation);
}

/// Writes the status where it differs, and says what went wrong once.
async fn write(
    hands: &Hands,
    id: &RepositoryId,
    mut change: impl FnMut(&mut RepositoryStatus, Option<i64>) -> Option<(String, String)>,
) {
    let api = hands.api::<Repository>(&id.namespace);
    let mut cached = hands.stores.repository(id).map(|r| Repository::clone(&r));
    for _ in 0..3 {
        let Some(mut repository) = cached else { return };
        let mut status = repository.status.clone().unwrap_or_default();
        let said = change(&mut status, repository.metadata.generation);
        if repository.status.as_ref() == Some(&status) {
            return;
        }
        repository.status = Some(status);
        match hands.writer.replace_status(&api, &hands.stores.repositories, &repository).await {
            Ok(written) => {
                if let Some((reason, note)) = said {
                    hands.events.publish(&written, true, &reason, &note, "").await;
                }
                return;
            }
            Err(WriteError::Conflict { .. }) => cached = api.get_opt(&id.name).await.ok().flatten(),
            Err(error) => return tracing::warn!(%error, repository = %id, "status"),
        }
    }
}
