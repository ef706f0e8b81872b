//! What people read of a rollout: the columns GROUP and WAITING FOR.

use crate::{GroupPhase, GroupProgress, Phase, RolloutReport, advance::Step, group};

/// Fills in the columns.
pub(crate) fn tell(step: &mut Step<'_>) {
    step.status.group = group_column(&step.status.groups);
    step.status.waiting_for = match step.status.phase {
        Phase::Pending | Phase::Progressing | Phase::Paused => waiting_column(step),
        Phase::Reverting => {
            let mut parts = vec![step.status.message.clone()];
            parts.extend(step.waiting.iter().map(|waiting| waiting.text(step.view.now)));
            parts.join("; ")
        }
        // Whoever succeeded has nothing to say, unless it was to be rolled back.
        Phase::Succeeded | Phase::Reverted | Phase::Aborted | Phase::Superseded => step.status.message.clone(),
    };
}

/// The same, for the plan's reader.
pub(crate) fn of(step: &Step<'_>) -> RolloutReport {
    RolloutReport {
        group: step.status.group.clone(),
        waiting: step.waiting.clone(),
        text: step.status.waiting_for.clone(),
    }
}

fn waiting_column(step: &Step<'_>) -> String {
    let parts: Vec<_> = step.waiting.iter().map(|waiting| waiting.text(step.view.now)).collect();
    parts.join("; ")
}

/// `2/4 canary`: the group that failed; else the first that was entered and is not done; else the last
/// that was entered.
fn group_column(groups: &[GroupProgress]) -> String {
    let entered = |group: &GroupProgress| group.phase != GroupPhase::Waiting;
    let failed = groups.iter().position(|group| group.phase == GroupPhase::Failed);
    let busy = || groups.iter().position(|group| entered(group) && !group::is_done(group.phase));
    let last = || groups.iter().rposition(entered);
    let at = failed.or_else(busy).or_else(last);
    at.map_or_else(String::new, |at| format!("{}/{} {}", at + 1, groups.len(), groups[at].name))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn column(phases: &[GroupPhase]) -> String {
        let groups: Vec<_> = ["internal", "canary", "eu"]
            .iter()
            .zip(phases)
            .map(|(name, phase)| GroupProgress {
                name: (*name).to_owned(),
                order: 0,
                phase: *phase,
                entered_at: None,
                told_at: None,
                behind_since: None,
                since: BTreeMap::new(),
                gates_started_at: None,
                gates: BTreeMap::new(),
            })
            .collect();
        group_column(&groups)
    }

    #[test]
    fn the_group_shown_is_the_one_that_matters() {
        use GroupPhase::{Failed, Passed, Verifying, Waiting};
        assert_eq!(column(&[Waiting, Waiting, Waiting]), "");
        assert_eq!(column(&[Passed, Verifying, Waiting]), "2/3 canary");
        assert_eq!(column(&[Passed, Verifying, Failed]), "3/3 eu");
        assert_eq!(column(&[Passed, Passed, Passed]), "3/3 eu");
    }
}
