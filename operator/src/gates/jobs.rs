//! Gates that are Jobs: created as the plan names them, under the restricted profile, and watched.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::{Api, ResourceExt, runtime::reflector::ObjectRef};
use serde_json::json;
use sluice_crds::{self as crd, quantities::Span};
use sluice_rollout::{GateRef, JobState, Target, UnitId};

use crate::{
    convert::ids,
    labels,
    stores::Stores,
    writer::{WriteError, Writer},
};

/// Finished Jobs stay this long, for people who want to read their logs.
const KEEP_SECONDS: u64 = 3600;

/// A Job that is wanted.
#[derive(Clone, Debug)]
pub struct Want {
    /// For this gate.
    pub gate: GateRef,
    /// Its name.
    pub name: String,
    /// What it runs.
    pub spec: crd::Job,
    /// Environment of the group.
    pub environment: sluice_config::Environment,
    /// Unit under test.
    pub unit: UnitId,
    /// What that becomes.
    pub target: Target,
}

/// The Jobs in the operator's namespace.
#[derive(Debug)]
pub struct Jobs {
    namespace: String,
    /// Jobs whose check was seen to run: a Job that fails afterwards has failed its check. Unknown after a
    /// restart, and then the check is run again rather than believed to have failed.
    ran: BTreeSet<String>,
    /// Jobs that the API server refused to create, and its words.
    refused: BTreeMap<String, String>,
}

impl Jobs {
    /// Those in a namespace.
    #[must_use]
    pub fn new(namespace: &str) -> Self {
        Self { namespace: namespace.to_owned(), ran: BTreeSet::new(), refused: BTreeMap::new() }
    }

    /// How each wanted Job stands; those that do not exist yet have no state.
    pub fn states(&mut self, stores: &Stores, wants: &[Want]) -> BTreeMap<GateRef, (String, JobState)> {
        let mut states = BTreeMap::new();
        for want in wants {
            let Some(job) = self.find(stores, &want.name) else {
                let refused = self.refused.get(&want.name).cloned().map(JobState::Error);
                states.extend(refused.map(|state| (want.gate.clone(), (want.name.clone(), state))));
                continue;
            };
            let pods = stores.pods.state_filter(|pod| {
                pod.labels().get("batch.kubernetes.io/job-name").map(String::as_str) == Some(&want.name)
            });
            if pods.iter().any(|pod| check_started(pod)) {
                self.ran.insert(want.name.clone());
            }
            let pods: Vec<&Pod> = pods.iter().map(AsRef::as_ref).collect();
            let state = state(&job, &pods, self.ran.contains(&want.name), want.spec.timeout);
            states.insert(want.gate.clone(), (want.name.clone(), state));
        }
        let wanted = |name: &String| wants.iter().any(|want| want.name == *name);
        self.ran.retain(wanted);
        self.refused.retain(|name, _| wanted(name));
        states
    }

    /// Whether its Job is known.
    pub fn is_there(&self, stores: &Stores, want: &Want) -> bool {
        self.find(stores, &want.name).is_some()
    }

    fn find(&self, stores: &Stores, name: &str) -> Option<std::sync::Arc<Job>> {
        stores.jobs.get(&ObjectRef::new(name).within(&self.namespace))
    }

    /// Creates what is wanted and missing; ends what runs and is wanted no more. What the API server refuses is
    /// told by the gate that wants it, and stops no other.
    ///
    /// # Errors
    /// The worst.
    pub async fn ensure(&mut self, writer: &Writer, stores: &Stores, wants: &[Want]) -> Result<(), WriteError> {
        let api: Api<Job> = Api::namespaced(writer.client().clone(), &self.namespace);
        let mut done = Ok(());
        for want in wants {
            if self.find(stores, &want.name).is_some() || self.refused.contains_key(&want.name) {
                continue;
            }
            match writer.create(&api, Some(&stores.jobs), &self.job(want)).await {
                Ok(_) | Err(WriteError::Conflict { .. }) => {}
                Err(error) if error.is_unanswered() => return Err(error),
                Err(error) => drop(self.refused.insert(want.name.clone(), error.to_string())),
            }
        }
        for job in stores.jobs.state() {
            let is_gate = job.labels().get(labels::COMPONENT).map(String::as_str) == Some(labels::GATE);
            let wanted = wants.iter().any(|want| want.name == job.name_any());
            if is_gate && !wanted && outcome(&job).is_none() && job.metadata.deletion_timestamp.is_none() {
                done = WriteError::worse(done, writer.delete(&api, &stores.jobs, &*job).await);
            }
        }
        done
    }

    fn job(&self, want: &Want) -> Job {
        let labels = json!({
            labels::MANAGED_BY.0: labels::MANAGED_BY.1,
            labels::COMPONENT: labels::GATE,
            labels::GROUP: want.gate.group,
        });
        let annotations = json!({
            labels::ROLLOUT: want.gate.rollout.name,
            labels::ROLLOUT_NAMESPACE: want.gate.rollout.namespace,
        });
        let restricted = json!({
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
        });
        let group_service = format!("sluice-group-{}.{}.svc", want.gate.group, self.namespace);
        let env = [
            ("SLUICE_UNIT", ids::wire_unit(&want.unit).to_string()),
            ("SLUICE_NAMESPACE", want.unit.namespace.clone()),
            ("SLUICE_GROUP", want.gate.group.clone()),
            ("SLUICE_GROUP_SERVICE", group_service),
            ("SLUICE_ENVIRONMENT", want.environment.as_str().to_owned()),
            ("SLUICE_REVISION", want.target.short().to_owned()),
            ("SLUICE_ROLLOUT", want.gate.rollout.name.clone()),
        ];
        let mut container = json!({
            "name": "check",
            "image": want.spec.image,
            "env": env.map(|(name, value)| json!({"name": name, "value": value})),
            "securityContext": restricted,
            // The last lines of the log are the evidence.
            "terminationMessagePolicy": "FallbackToLogsOnError",
        });
        if !want.spec.command.is_empty() {
            container["command"] = json!(want.spec.command);
        }
        if let Some(policy) = &want.spec.image_pull_policy {
            container["imagePullPolicy"] = json!(policy);
        }
        let job = json!({
            "metadata": {"name": want.name, "namespace": self.namespace, "labels": labels, "annotations": annotations},
            "spec": {
                "backoffLimit": 0,
                "activeDeadlineSeconds": want.spec.timeout.duration().as_secs().max(1),
                "ttlSecondsAfterFinished": KEEP_SECONDS,
                "template": {
                    "metadata": {"labels": labels, "annotations": annotations},
                    "spec": {
                        "restartPolicy": "Never",
                        "automountServiceAccountToken": false,
                        "enableServiceLinks": false,
                        "securityContext": {
                            "runAsNonRoot": true,
                            "runAsUser": 65534,
                            "runAsGroup": 65534,
                            "seccompProfile": {"type": "RuntimeDefault"},
                        },
                        "containers": [container],
                    },
                },
            },
        });
        serde_json::from_value(job).unwrap_or_default()
    }
}

/// Whether it is over: completed, or failed with a reason.
fn outcome(job: &Job) -> Option<Result<(), String>> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let over =
        conditions.iter().filter(|c| c.status == "True").find(|c| c.type_ == "Complete" || c.type_ == "Failed")?;
    Some(if over.type_ == "Complete" { Ok(()) } else { Err(over.reason.clone().unwrap_or_default()) })
}

fn state(job: &Job, pods: &[&Pod], ran: bool, timeout: Span) -> JobState {
    match outcome(job) {
        None => JobState::Running,
        Some(Ok(())) => JobState::Succeeded,
        Some(Err(reason)) if reason == "DeadlineExceeded" && ran => {
            JobState::Failed(format!("it took longer than {timeout}"))
        }
        Some(Err(reason)) => match pods.iter().find_map(|pod| exit(pod)) {
            Some(why) => JobState::Failed(why),
            None => JobState::Error(pods.iter().find_map(|pod| trouble(pod)).unwrap_or(reason)),
        },
    }
}

/// Whether the check itself began.
fn check_started(pod: &Pod) -> bool {
    let statuses = pod.status.as_ref().and_then(|s| s.container_statuses.as_ref());
    statuses.is_some_and(|all| {
        all.iter().filter_map(|c| c.state.as_ref()).any(|s| s.running.is_some() || s.terminated.is_some())
    })
}

/// How the check ended by itself; nothing where the pod was taken from it.
fn exit(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let evicted = status.reason.is_some()
        || status.conditions.iter().flatten().any(|c| c.type_ == "DisruptionTarget" && c.status == "True");
    if evicted {
        return None;
    }
    let terminated = status.container_statuses.as_ref()?.iter().find_map(|c| c.state.as_ref()?.terminated.as_ref())?;
    // 128 and more are signals, of the kernel's or the kubelet's; what cannot be started ends as 125 to 127 or
    // with a reason of its own. Neither says anything about the revision.
    let by_itself = (1..125).contains(&terminated.exit_code);
    let started = !matches!(terminated.reason.as_deref(), Some("ContainerCannotRun" | "StartError" | "OOMKilled"));
    let message = terminated.message.as_deref().unwrap_or_default().trim();
    let tail: String =
        message.lines().rev().take(3).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join(" | ");
    let tail: String = tail.chars().take(300).collect();
    let text = format!("exit code {}{}{tail}", terminated.exit_code, if tail.is_empty() { "" } else { ": " });
    (by_itself && started && pod.metadata.deletion_timestamp.is_none()).then_some(text)
}

/// Why a pod did not get to run the check.
fn trouble(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let waiting = status.container_statuses.iter().flatten().find_map(|c| c.state.as_ref()?.waiting.as_ref());
    let waiting = waiting.and_then(|w| w.message.clone().or_else(|| w.reason.clone()));
    let ended = status.container_statuses.iter().flatten().find_map(|c| c.state.as_ref()?.terminated.as_ref());
    let ended = ended
        .map(|ended| format!("killed: exit code {} {}", ended.exit_code, ended.reason.as_deref().unwrap_or_default()));
    let text = waiting.or(ended).or_else(|| status.message.clone()).or_else(|| status.reason.clone())?;
    Some(text.chars().take(300).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(exit_code: i32, reason: &str) -> Pod {
        let terminated = json!({"exitCode": exit_code, "reason": reason, "message": "checkout answers 500"});
        let status = json!({"containerStatuses": [{"name": "check", "image": "x", "imageID": "", "ready": false,
            "restartCount": 0, "state": {"terminated": terminated}}]});
        serde_json::from_value(json!({"metadata": {"name": "check"}, "status": status})).unwrap()
    }

    #[test]
    fn a_check_that_took_too_long_failed_and_one_that_never_began_did_not() {
        let condition = json!({"type": "Failed", "status": "True", "reason": "DeadlineExceeded"});
        let job: Job = serde_json::from_value(json!({"status": {"conditions": [condition]}})).unwrap();
        let state = |ran| state(&job, &[], ran, Span::from_secs(300));
        assert_eq!(state(true), JobState::Failed("it took longer than 5m".to_owned()));
        assert_eq!(state(false), JobState::Error("DeadlineExceeded".to_owned()));
    }

    #[test]
    fn only_a_check_that_ended_by_itself_says_something_of_the_revision() {
        assert_eq!(exit(&pod(1, "Error")).as_deref(), Some("exit code 1: checkout answers 500"));
        for (code, reason) in
            [(137, "OOMKilled"), (137, "Error"), (143, "Error"), (127, "StartError"), (0, "Completed")]
        {
            assert_eq!(exit(&pod(code, reason)), None, "{code} {reason}");
        }
        assert_eq!(trouble(&pod(137, "OOMKilled")).as_deref(), Some("killed: exit code 137 OOMKilled"));
    }
}
