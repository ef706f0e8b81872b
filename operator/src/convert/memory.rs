//! What is remembered of a unit.

use sluice_crds::{Change, Memory, Passed, Rejected, Suspect as StoredSuspect};
use sluice_rollout::{Rejection, Suspect, UnitMemory};

use super::ids;
use crate::times;

/// As the planner knows it. All names of rollouts are of the unit's own namespace.
#[must_use]
pub fn read(namespace: &str, stored: &Memory) -> UnitMemory {
    // Every field is named: one that is added must be read, too.
    let Memory { head: _, stable, in_flight, passed, rejected, attempts, suspect } = stored;
    UnitMemory {
        stable: stable.as_ref().map(|s| ids::target(s.digest.as_ref())),
        passed: passed.iter().map(|p| (ids::digest(&p.digest), times::from_micro(&p.at))).collect(),
        rejected: rejected
            .iter()
            .map(|r| {
                let by = ids::rollout(namespace, &r.rollout);
                (ids::target(r.digest.as_ref()), Rejection { by, why: r.reason.clone() })
            })
            .collect(),
        attempts: *attempts,
        in_flight: in_flight.as_ref().map(|name| ids::rollout(namespace, name)),
        suspect: suspect
            .as_ref()
            .map(|s| Suspect { target: ids::target(s.digest.as_ref()), since: times::from_micro(&s.since) }),
    }
}

/// Replaces what is remembered; what the branch wants is not the planner's to write.
pub fn write(memory: &UnitMemory, stored: &mut Memory) {
    let UnitMemory { stable, passed, rejected, attempts, in_flight, suspect } = memory;
    *stored = Memory {
        head: stored.head.take(),
        stable: stable.as_ref().map(|target| Change { digest: ids::wire_target(target) }),
        in_flight: in_flight.as_ref().map(|id| id.name.clone()),
        passed: passed
            .iter()
            .map(|(digest, at)| Passed { digest: ids::wire_digest(digest), at: times::to_micro(*at) })
            .collect(),
        rejected: rejected
            .iter()
            .map(|(target, rejection)| Rejected {
                digest: ids::wire_target(target),
                rollout: rejection.by.name.clone(),
                reason: rejection.why.clone(),
            })
            .collect(),
        attempts: *attempts,
        suspect: suspect
            .as_ref()
            .map(|s| StoredSuspect { digest: ids::wire_target(&s.target), since: times::to_micro(s.since) }),
    };
}

#[cfg(test)]
mod tests {
    use sluice_rollout::{Target, Time};

    use super::*;

    #[test]
    fn what_is_remembered_comes_back_unchanged() {
        let digest: sluice_rollout::Digest = "9f2c1a77".repeat(8).parse().unwrap();
        let target = Target::Revision(digest.clone());
        let rejection = Rejection { by: ids::rollout("team", "shop-w-pr-9f2c1a77-1"), why: "errors: 3.1%".into() };
        let memory = UnitMemory {
            stable: Some(Target::Removed),
            passed: [(digest, Time(1_795_435_200_123))].into(),
            rejected: [(target.clone(), rejection.clone()), (Target::Removed, rejection)].into(),
            attempts: 7,
            in_flight: Some(ids::rollout("team", "shop-w-pr-9f2c1a77-2")),
            suspect: Some(Suspect { target, since: Time(5) }),
        };
        for memory in [memory, UnitMemory::default()] {
            let mut stored = Memory::default();
            write(&memory, &mut stored);
            let stored: Memory = serde_json::from_str(&serde_json::to_string(&stored).unwrap()).unwrap();
            assert_eq!(read("team", &stored), memory);
        }
    }
}
