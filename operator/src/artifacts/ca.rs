//! The authority in the cluster: a Secret that whoever comes first makes, a ConfigMap that nodes mount.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
};
use kube::{Api, Client, api::PostParams};
use tokio::sync::watch;

use super::authority::{Authorities, Authority, AuthorityError, Issued};

/// Name of the Secret (`ca.crt`, `ca.key`) and of the ConfigMap (`ca.crt`).
pub const CA_NAME: &str = "sluice-artifacts-ca";

/// How often the cluster's authority and the own certificate are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(600);
/// Two replicas may write at the same time; the loser reads again.
const TRIES: usize = 5;

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The API server.
    #[error("{what} {CA_NAME} cannot be {how}: {error}")]
    Api {
        /// Secret or ConfigMap.
        what: &'static str,
        /// Read or written.
        how: &'static str,
        /// Why.
        error: Box<kube::Error>,
    },
    /// Another replica wrote each time.
    #[error("Secret {CA_NAME} changed under each of {TRIES} tries: it is tried again")]
    Contended,
    /// The certificate or its key.
    #[error("{0}: delete Secret {CA_NAME}, a new one is made and nodes follow within minutes")]
    Authority(#[from] AuthorityError),
}

/// This replica's serving certificate and whom it trusts, always fresh. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Identity {
    state: watch::Receiver<State>,
    sender: Arc<watch::Sender<State>>,
    names: Arc<Vec<String>>,
}

#[derive(Clone, Debug)]
struct State {
    issued: Issued,
    authorities: Authorities,
}

impl Identity {
    /// Reads or makes the cluster's authority, publishes it, and issues a certificate for these names.
    ///
    /// # Errors
    /// The API server refuses, or what is stored is no authority.
    pub async fn establish(client: &Client, namespace: &str, names: Vec<String>) -> Result<Self, CaError> {
        let now = Timestamp::now();
        let authorities = shared(client, namespace, now).await?;
        Ok(Self::of(authorities, names, now)?)
    }

    /// From an authority at hand.
    ///
    /// # Errors
    /// As [`Authority::issue`].
    pub fn of(authorities: Authorities, names: Vec<String>, now: Timestamp) -> Result<Self, AuthorityError> {
        let issued = authorities.current.issue(&names, now)?;
        let (sender, state) = watch::channel(State { issued, authorities });
        Ok(Self { state, sender: Arc::new(sender), names: Arc::new(names) })
    }

    /// Keeps authority and certificate fresh until dropped; trouble is logged and tried again.
    pub async fn keep_fresh(self, client: Client, namespace: String) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if let Err(error) = self.refresh(&client, &namespace, Timestamp::now()).await {
                tracing::warn!(%error, "the artifact server's certificate is not renewed");
            }
        }
    }

    async fn refresh(&self, client: &Client, namespace: &str, now: Timestamp) -> Result<(), CaError> {
        let authorities = shared(client, namespace, now).await?;
        let state = self.state.borrow().clone();
        if state.authorities == authorities && now < state.issued.renew_at {
            return Ok(());
        }
        let issued = authorities.current.issue(&self.names, now)?;
        self.sender.send_replace(State { issued, authorities });
        Ok(())
    }

    /// For the next connection.
    #[must_use]
    pub fn server_config(&self) -> Arc<rustls::ServerConfig> {
        self.state.borrow().issued.config.clone()
    }

    /// PEM of all authorities that replicas' certificates may come from.
    #[must_use]
    pub fn bundle_pem(&self) -> String {
        self.state.borrow().authorities.bundle_pem()
    }
}

/// The cluster's authorities: read, or made, or moved on; and published.
async fn shared(client: &Client, namespace: &str, now: Timestamp) -> Result<Authorities, CaError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    for _ in 0..TRIES {
        let stored = secrets.get_opt(CA_NAME).await.map_err(api("Secret", "read"))?;
        let authorities = match &stored {
            Some(secret) => from_secret(secret)?,
            None => Authorities::generate(now)?,
        };
        let advanced = authorities.advanced(now)?;
        let written = match stored {
            Some(_) if advanced == authorities => Ok(()),
            Some(mut secret) => {
                secret.data = Some(to_data(&advanced));
                // With the resourceVersion that was read: another replica's change is not overwritten.
                secrets.replace(CA_NAME, &PostParams::default(), &secret).await.map(drop)
            }
            None => {
                let mut secret = Secret { data: Some(to_data(&advanced)), ..Secret::default() };
                secret.metadata.name = Some(CA_NAME.to_owned());
                secret.type_ = Some("Opaque".to_owned());
                secrets.create(&PostParams::default(), &secret).await.map(drop)
            }
        };
        match written {
            Ok(()) => {
                publish(client, namespace, &advanced).await?;
                return Ok(advanced);
            }
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(api("Secret", "written")(error)),
        }
    }
    Err(CaError::Contended)
}

/// Writes the bundle into the ConfigMap that nodes mount, if it is not there as it should be.
async fn publish(client: &Client, namespace: &str, authorities: &Authorities) -> Result<(), CaError> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let data = BTreeMap::from([("ca.crt".to_owned(), authorities.bundle_pem())]);
    for _ in 0..TRIES {
        let written = match maps.get_opt(CA_NAME).await.map_err(api("ConfigMap", "read"))? {
            Some(map) if map.data.as_ref() == Some(&data) => return Ok(()),
            Some(mut map) => {
                map.data = Some(data.clone());
                maps.replace(CA_NAME, &PostParams::default(), &map).await
            }
            None => {
                let mut map = ConfigMap { data: Some(data.clone()), ..ConfigMap::default() };
                map.metadata.name = Some(CA_NAME.to_owned());
                maps.create(&PostParams::default(), &map).await
            }
        };
        match written {
            Ok(_) => return Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(api("ConfigMap", "written")(error)),
        }
    }
    Err(CaError::Contended)
}

fn api(what: &'static str, how: &'static str) -> impl Fn(kube::Error) -> CaError {
    move |error| CaError::Api { what, how, error: Box::new(error) }
}

fn to_data(authorities: &Authorities) -> BTreeMap<String, ByteString> {
    let Authorities { current, next, previous_pem } = authorities;
    let mut data = BTreeMap::new();
    let mut put = |key: &str, text: &str| data.insert(key.to_owned(), ByteString(text.as_bytes().to_vec()));
    put("ca.crt", &current.cert_pem);
    put("ca.key", &current.key_pem);
    if let Some(next) = next {
        put("next.crt", &next.cert_pem);
        put("next.key", &next.key_pem);
    }
    if let Some(previous) = previous_pem {
        put("previous.crt", previous);
    }
    data
}

fn from_secret(secret: &Secret) -> Result<Authorities, AuthorityError> {
    let text = |key: &str| {
        let bytes = secret.data.as_ref().and_then(|data| data.get(key))?;
        String::from_utf8(bytes.0.clone()).ok()
    };
    let missing = |key: &str| AuthorityError::Stored(format!("{key} is missing"));
    let authority = |crt: &str, key: &str| {
        Authority::parse(text(crt).ok_or_else(|| missing(crt))?, text(key).ok_or_else(|| missing(key))?)
    };
    Ok(Authorities {
        current: authority("ca.crt", "ca.key")?,
        next: text("next.crt").map(|_| authority("next.crt", "next.key")).transpose()?,
        previous_pem: text("previous.crt"),
    })
}
