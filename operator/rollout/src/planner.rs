//! Puts a plan together: the table of contents of this crate.

use std::collections::BTreeSet;

use crate::{
    Effect, Environment, Phase, Plan, RolloutId, Snapshot, Time, Write,
    advance::Step,
    assign, blame, create, memory, newcomers,
    pace::{Pace, pace},
    report, rollback,
    view::View,
};

/// What happens next: a function of what is known and of the time, and of nothing else.
pub fn plan(snapshot: &Snapshot, now: Time) -> Plan {
    let view = View::new(snapshot, now);
    let mut plan = Plan::default();
    // What traffic depends on goes first: a revert must not queue behind anything.
    plan.effects.extend(assign::writes(&view));
    plan.effects.extend(newcomers::writes(&view));
    let steps = steps(&view);
    units(&view, &steps, &mut plan);
    rollouts(&view, steps, &mut plan);
    attempts(&view, &mut plan);
    plan
}

/// Each rollout goes as far as it can.
fn steps<'a>(view: &'a View<'a>) -> Vec<Step<'a>> {
    let rollouts = view.snapshot.rollouts.iter();
    let open = rollouts.filter(|(id, r)| !r.status.phase.is_over() || rollback::concerns(view, id, r));
    open.map(|(id, rollout)| Step::of(view, id, rollout)).collect()
}

/// Each unit remembers how its attempt ended, and gets the next one; not while this very plan ends the
/// former: its verdict has to be stored, and taken over, before the unit goes on.
fn units(view: &View<'_>, steps: &[Step<'_>], plan: &mut Plan) {
    let ends = |step: &&Step<'_>| match step.status.phase {
        Phase::Pending | Phase::Progressing | Phase::Paused => false,
        Phase::Succeeded | Phase::Reverted | Phase::Aborted | Phase::Superseded => true,
        Phase::Reverting => step.rollout.status.phase != Phase::Reverting,
    };
    let ending: BTreeSet<&RolloutId> = steps.iter().filter(ends).map(|step| step.id).collect();
    for (id, unit) in &view.snapshot.units {
        plan.effects.extend(memory::update(view, id, unit, &ending));
    }
}

/// What becomes of each rollout is stored and told.
fn rollouts(view: &View<'_>, steps: Vec<Step<'_>>, plan: &mut Plan) {
    for step in steps {
        let (id, rollout) = (step.id, step.rollout);
        wake(plan, view.now, step.wake.iter().copied());
        if !step.status.phase.is_over() {
            plan.rollouts.insert(id.clone(), report::of(&step));
        }
        let (mut status, events) = (step.status, step.events);
        plan.observe.extend(step.observe);
        match pace(&rollout.status, &status, view.now) {
            Pace::Never => {}
            Pace::At(due) => wake(plan, view.now, [due]),
            Pace::Now => {
                status.written_at = Some(view.now);
                let based_on = blame::basis(view, rollout, &status, &plan.effects);
                let write = Write::SetRolloutStatus {
                    rollout: id.clone(),
                    resource_version: rollout.resource_version.clone(),
                    status: Box::new(status),
                    based_on,
                };
                plan.effects.push(Effect { write, events });
            }
        }
    }
}

/// Each thing that a branch wants and that is not so gets an attempt.
fn attempts(view: &View<'_>, plan: &mut Plan) {
    for (id, unit) in &view.snapshot.units {
        for environment in Environment::ALL {
            let (effect, report) = create::missing(view, id, unit, environment);
            plan.effects.extend(effect);
            if let Some(report) = report {
                plan.units.insert((id.clone(), environment), report);
            }
        }
    }
}

/// The earliest of the times that are still to come.
fn wake(plan: &mut Plan, now: Time, times: impl IntoIterator<Item = Time>) {
    let ahead = times.into_iter().filter(|time| *time > now);
    plan.wake_at = ahead.chain(plan.wake_at).min();
}
