//! What one unit may have of the node, over all its revisions: calls at once, CPU time, lines of the log.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, Weak, atomic::AtomicU64},
    time::{Duration, Instant},
};

use sluice_worker::LogBudget;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use crate::{
    cpu::{NodeCpu, UnitCpu},
    rate::Rate,
};

/// Why a call is shed. Nobody's fault, and no evidence against a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Shed {
    #[error("it has all the calls at once that one unit may have")]
    Calls,
    #[error("the node has no room for its call, and for those that the request needs after it")]
    Room,
    #[error("the node is busy, and it is above the share of CPU time that one unit may have")]
    Cpu,
}

/// A unit's share. Snapshots come and go; calls under way on old ones still count.
pub(crate) struct Share {
    calls: Arc<Semaphore>,
    pub(crate) log: Arc<LogBudget>,
    cpu: UnitCpu,
    /// Of its `rate` bindings, by name: a new revision goes on where the old one was. Gone with the last snapshot that has it.
    rates: Mutex<BTreeMap<String, Weak<Rate>>>,
}

impl Share {
    pub(crate) fn new(calls_max: usize) -> Self {
        let calls = Arc::new(Semaphore::new(calls_max.min(Semaphore::MAX_PERMITS)));
        Self { calls, log: Arc::default(), cpu: UnitCpu::default(), rates: Mutex::default() }
    }

    /// The rate of this binding; a new one where there was none, or another.
    pub(crate) fn rate(&self, binding: &str, requests: u32, per: Duration) -> Arc<Rate> {
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        rates.retain(|_, rate| rate.strong_count() > 0);
        let known = rates.get(binding).and_then(Weak::upgrade);
        let known = known.filter(|rate| (rate.requests, rate.per) == (requests, per));
        let rate = known.unwrap_or_else(|| Arc::new(Rate::new(requests, per)));
        rates.insert(binding.to_owned(), Arc::downgrade(&rate));
        rate
    }

    /// Whether a request that began then may take the unit's CPU time. Asked before a worker's work on a request, and never in
    /// the middle: what upstreams and other workers have done by then would be lost.
    pub(crate) fn may_run(&self, node: &NodeCpu, began: Instant) -> Result<(), Shed> {
        if self.cpu.may_run(node, began) { Ok(()) } else { Err(Shed::Cpu) }
    }

    /// Room for a call.
    pub(crate) fn take(&self) -> Result<SemaphorePermit<'_>, Shed> {
        self.calls.try_acquire().map_err(|_| Shed::Calls)
    }

    /// The same, to be kept for longer than this is borrowed.
    pub(crate) fn take_owned(&self) -> Result<OwnedSemaphorePermit, Shed> {
        self.calls.clone().try_acquire_owned().map_err(|_| Shed::Calls)
    }

    /// What calls move on by what they use.
    pub(crate) fn cpu_ns(&self) -> Arc<AtomicU64> {
        self.cpu.used_ns.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_lasts_as_long_as_somebody_has_it() {
        let (share, minute) = (Share::new(1), Duration::from_secs(60));
        let old = share.rate("logins", 1, minute);
        assert_eq!(old.take("a", Instant::now()), None);
        let new = share.rate("logins", 1, minute);
        drop(old);
        assert!(new.take("a", Instant::now()).is_some(), "a new revision goes on where the old one was");
        assert!(share.rate("logins", 2, minute).take("a", Instant::now()).is_none(), "it is another one");
        drop(new);
        let other = share.rate("other", 1, minute);
        assert_eq!(share.rates.lock().unwrap().len(), 1, "what nobody has is gone");
        drop(other);
    }
}
