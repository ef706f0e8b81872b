//! Prints what `kubectl get rollouts --watch` would, a line a change.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;
use kube::{Api, ResourceExt, api::ListParams};
use sluice_crds::Rollout;
use tokio::task::JoinHandle;

use crate::{Cluster, rollouts, stage::TEAM};

const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Prints until dropped.
#[derive(Debug)]
pub(super) struct Watch {
    task: JoinHandle<()>,
}

impl Watch {
    /// Starts to print, each line through `print`.
    pub(super) async fn start(cluster: &Cluster, print: impl Fn(&str) + Send + 'static) -> Result<Self> {
        let api: Api<Rollout> = Api::namespaced(cluster.client().await?, TEAM);
        let task = tokio::spawn(async move {
            let mut shown: BTreeMap<String, String> = BTreeMap::new();
            loop {
                // The API server may be away for a moment; the next look tells.
                if let Ok(list) = api.list(&ListParams::default()).await {
                    for rollout in list {
                        let line = line(&rollout);
                        if shown.get(&rollout.name_any()) != Some(&line) {
                            print(&line);
                            shown.insert(rollout.name_any(), line);
                        }
                    }
                }
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        });
        Ok(Self { task })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Without what it waits for, which changes all the time; with it when it is over or stuck.
fn line(rollout: &Rollout) -> String {
    let (spec, status) = (&rollout.spec, rollouts::status(rollout));
    let head = format!(
        "{:17} {:10} {:8}  {:13} {:?}",
        spec.title, spec.environment, spec.revision, status.group, status.phase
    );
    if status.message.is_empty() { head } else { format!("{head}: {}", status.message) }
}
