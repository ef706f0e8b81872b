//! Which replica leads: one Lease, taken and renewed under its resourceVersion.
//!
//! Time is measured by each replica's own monotonic clock from the moment at which *it* saw the lease
//! change, never by comparing wall clocks. A leader that could not renew for two thirds of the lease's
//! duration stops by itself, before anyone else may take over. All other writes are fenced by their own
//! resourceVersions, so that two leaders do no harm even so.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use tokio::{sync::watch, time::Instant};

use crate::config::Config;

/// Talks to the API server about the Lease.
#[derive(Debug)]
pub struct Elector {
    api: Api<Lease>,
    name: String,
    identity: String,
    duration: Duration,
}

/// What this replica knows of the lease.
#[derive(Debug)]
struct Seen {
    lease: Lease,
    at: Instant,
}

/// Awaits something; whoever leads stops leading at the deadline, whatever is awaited.
async fn before<T>(deadline: Instant, leading: &watch::Sender<bool>, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    tokio::select! {
        done = &mut work => return done,
        () = tokio::time::sleep_until(deadline), if *leading.borrow() => {}
    }
    tracing::warn!("the lease could not be renewed in time: this replica stops by itself");
    leading.send_if_modified(|l| std::mem::replace(l, false));
    work.await
}

impl Elector {
    /// For this replica.
    #[must_use]
    pub fn new(client: Client, config: &Config) -> Self {
        Self {
            api: Api::namespaced(client, &config.namespace),
            name: config.lease_name.clone(),
            identity: config.pod_name.clone(),
            duration: config.lease(),
        }
    }

    /// Takes part in the election until `stop` is set; tells through `leading`. Releases at the end.
    pub async fn run(self, leading: watch::Sender<bool>, mut stop: watch::Receiver<bool>) {
        let mut seen: Option<Seen> = None;
        let mut renewed = Instant::now();
        loop {
            let asked = Instant::now();
            let step = self.step(&mut seen);
            match before(renewed + self.duration * 2 / 3, &leading, step).await {
                Ok(true) => {
                    renewed = asked;
                    leading.send_if_modified(|l| !std::mem::replace(l, true));
                }
                Ok(false) => {
                    leading.send_if_modified(|l| std::mem::replace(l, false));
                }
                Err(error) => tracing::warn!(%error, "lease"),
            }
            let pause = if *leading.borrow() { self.duration / 3 } else { self.duration / 7 };
            let pause = tokio::time::sleep(pause.min(Duration::from_secs(5)));
            tokio::select! {
                () = before(renewed + self.duration * 2 / 3, &leading, pause) => {}
                _ = stop.wait_for(|stopped| *stopped) => break,
            }
        }
        let led = leading.send_replace(false);
        if let (true, Some(seen)) = (led, seen)
            && let Err(error) = self.write(&seen.lease, None).await
        {
            tracing::warn!(%error, "the lease could not be released; it runs out by itself");
        }
    }

    /// One look, and a write where it is due. Whether this replica leads.
    async fn step(&self, seen: &mut Option<Seen>) -> Result<bool, kube::Error> {
        // A request that hangs must not outlive the lease.
        let limit = self.duration / 3;
        let late = || kube::Error::Service("the API server did not answer in time".into());
        tokio::time::timeout(limit, self.look(seen)).await.map_err(|_| late())?
    }

    async fn look(&self, seen: &mut Option<Seen>) -> Result<bool, kube::Error> {
        let lease = match self.api.get_opt(&self.name).await? {
            Some(lease) => lease,
            None => self.create().await?,
        };
        if seen.as_ref().is_none_or(|s| s.lease.metadata.resource_version != lease.metadata.resource_version) {
            *seen = Some(Seen { lease: lease.clone(), at: Instant::now() });
        }
        let age = seen.as_ref().map_or(Duration::ZERO, |s| s.at.elapsed());
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.unwrap_or_default();
        let theirs = u64::try_from(spec.lease_duration_seconds.unwrap_or(0)).unwrap_or(0);
        let free = holder.is_empty() || age > Duration::from_secs(theirs).max(self.duration);
        if holder != self.identity && !free {
            return Ok(false);
        }
        match self.write(&lease, Some(&self.identity)).await {
            Ok(lease) => {
                *seen = Some(Seen { lease, at: Instant::now() });
                Ok(true)
            }
            Err(kube::Error::Api(status)) if status.is_conflict() => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn create(&self) -> Result<Lease, kube::Error> {
        let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
        match self.api.create(&PostParams::default(), &Lease { metadata, spec: None }).await {
            Err(kube::Error::Api(status)) if status.is_already_exists() => self.api.get(&self.name).await,
            other => other,
        }
    }

    async fn write(&self, lease: &Lease, holder: Option<&str>) -> Result<Lease, kube::Error> {
        let now = MicroTime(Timestamp::now());
        let before = lease.spec.clone().unwrap_or_default();
        let same = before.holder_identity.as_deref() == holder;
        let transitions = before.lease_transitions.unwrap_or(0);
        let spec = LeaseSpec {
            holder_identity: holder.map(str::to_owned),
            lease_duration_seconds: Some(i32::try_from(self.duration.as_secs()).unwrap_or(i32::MAX)),
            acquire_time: if same { before.acquire_time } else { Some(now.clone()) },
            renew_time: Some(now),
            lease_transitions: Some(if same || holder.is_none() { transitions } else { transitions + 1 }),
            ..LeaseSpec::default()
        };
        let lease = Lease { metadata: lease.metadata.clone(), spec: Some(spec) };
        self.api.replace(&self.name, &PostParams::default(), &lease).await
    }
}
