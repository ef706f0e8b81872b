//! One task a Repository, on the leader: asks git at the Repository's interval and publishes what it says.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt};
use sluice_crds::{CommitStatus, Repository, RepositorySpec};
use tokio::{sync::watch, task::JoinHandle};

use crate::{
    execute::Hands,
    holdings::Holdings,
    publish::{self, Problems},
    published::Published,
    source::{Credentials, RepositoryId, Source},
};

/// With a token as the password, every provider takes any name.
const TOKEN_USER: &str = "x-access-token";

/// What is wrong with units' files, as of each repository's last poll by this process.
pub type Reports = BTreeMap<RepositoryId, Problems>;

/// What every poll needs.
#[derive(Clone)]
pub struct Poller {
    /// Reads git.
    pub source: Source,
    /// Writes to the cluster.
    pub hands: Hands,
    /// Keeps artifacts.
    pub holdings: Arc<Holdings>,
    /// Where problems are told.
    pub reports: watch::Sender<Reports>,
    /// Where it is told what is published whole.
    pub published: Published,
}

struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Poller {
    /// Polls every Repository that there is, as long as it is not dropped.
    pub async fn run(self) {
        let stores = self.hands.stores.clone();
        let mut changes = stores.changes();
        let mut tasks: BTreeMap<RepositoryId, (RepositorySpec, Task)> = BTreeMap::new();
        loop {
            let repositories: BTreeMap<_, _> = stores.repositories.state().into_iter().filter_map(known).collect();
            tasks.retain(|id, (spec, _)| repositories.get(id).is_some_and(|r| r.spec == *spec));
            let gone = |id: &RepositoryId| !repositories.contains_key(id);
            self.reports.send_if_modified(|all| {
                let before = all.len();
                all.retain(|id, _| !gone(id));
                all.len() != before
            });
            self.published.retain(|id| !gone(id));
            for (id, repository) in repositories {
                tasks.entry(id.clone()).or_insert_with(|| {
                    let task = self.clone().follow(id, repository.spec.clone());
                    (repository.spec.clone(), Task(tokio::spawn(task)))
                });
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    async fn follow(self, id: RepositoryId, spec: RepositorySpec) {
        let interval = spec.interval.duration().max(Duration::from_secs(1));
        loop {
            self.poll(&id, &spec).await;
            tokio::time::sleep(interval).await;
        }
    }

    async fn poll(&self, id: &RepositoryId, spec: &RepositorySpec) {
        let (heads, credentials) = match self.credentials(id, spec).await {
            Ok(credentials) => (self.source.poll(id, spec, credentials.as_ref()).await, credentials),
            Err(trouble) => {
                self.hands.writer.metrics().polled(&id.namespace, &id.name, "error");
                return publish::trouble(&self.hands, id, "SecretMissing", &trouble, true).await;
            }
        };
        match heads {
            Ok(heads) => {
                self.hands.writer.metrics().polled(&id.namespace, &id.name, "ok");
                let (credentials, published) = (credentials.as_ref(), &self.published);
                let input = publish::Input { id, spec, credentials, heads: &heads, published };
                let problems = publish::publish(&self.hands, &self.holdings, &input).await;
                self.reports.send_if_modified(|all| {
                    let known = all.get(id) == Some(&problems);
                    if !known {
                        all.insert(id.clone(), problems);
                    }
                    !known
                });
            }
            Err(error) => {
                self.hands.writer.metrics().polled(&id.namespace, &id.name, "error");
                publish::trouble(&self.hands, id, error.reason(), &error.to_string(), error.stalled()).await;
            }
        }
    }

    async fn credentials(&self, id: &RepositoryId, spec: &RepositorySpec) -> Result<Option<Credentials>, String> {
        credentials(self.hands.writer.client(), id, spec).await
    }
}

/// What the Secret of a Repository holds, read from its own namespace and no other.
///
/// # Errors
/// The Secret is not there, cannot be read, or lacks a key.
pub async fn credentials(
    client: &kube::Client,
    id: &RepositoryId,
    spec: &RepositorySpec,
) -> Result<Option<Credentials>, String> {
    let Some(reference) = &spec.secret_ref else { return Ok(None) };
    let (name, hint) = (&reference.name, " (a token goes into password)");
    let [username, password] = keys(client, &id.namespace, name, ["username", "password"], hint).await?;
    Ok(Some(Credentials { username, password }))
}

/// What lets us in where a Repository has its provider's API, and into its git with the same rights.
///
/// # Errors
/// There is no Secret, it cannot be read, or lacks a key.
pub async fn provider_credentials(
    client: &kube::Client,
    id: &RepositoryId,
    spec: &RepositorySpec,
    api: &CommitStatus,
) -> Result<Credentials, String> {
    let Some(reference) = &api.secret_ref else {
        let missing = "no token: name a Secret with the key token in spec.commitStatus.secretRef";
        return credentials(client, id, spec).await?.ok_or_else(|| missing.to_owned());
    };
    let [token] = keys(client, &id.namespace, &reference.name, ["token"], "").await?;
    Ok(Credentials { username: TOKEN_USER.to_owned(), password: token.trim().to_owned() })
}

/// What a Secret holds under these keys; `hint` is said where one is missing.
///
/// # Errors
/// The Secret is not there, cannot be read, or lacks a key.
pub async fn keys<const N: usize>(
    client: &kube::Client,
    namespace: &str,
    name: &str,
    keys: [&str; N],
    hint: &str,
) -> Result<[String; N], String> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let secret = match api.get_opt(name).await {
        Ok(Some(secret)) => secret,
        Ok(None) => return Err(format!("Secret {name} is not there: create it with {}", keys.join(" and "))),
        Err(error) => return Err(format!("Secret {name} cannot be read: {error}")),
    };
    let data = secret.data.unwrap_or_default();
    let text = |key: &str| String::from_utf8(data.get(key)?.0.clone()).ok();
    let missing = |key: &&str| text(key).is_none();
    match keys.iter().find(|key| missing(key)) {
        Some(key) => Err(format!("Secret {name} has no key {key}: add it{hint}")),
        None => Ok(keys.map(|key| text(key).unwrap_or_default())),
    }
}

fn known(repository: Arc<Repository>) -> Option<(RepositoryId, Arc<Repository>)> {
    let id = RepositoryId { namespace: repository.namespace()?, name: repository.name_any() };
    repository.metadata.deletion_timestamp.is_none().then_some((id, repository))
}
