//! The authority that all replicas share, against a few lines that behave like the API server.
#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping")]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use kube::Client;
use serde_json::{Value, json};
use sluice_operator::artifacts::{CA_NAME, Identity};

/// Objects by path, as the API server holds them: `create` conflicts, `replace` wants the version that it replaces.
#[derive(Clone, Default)]
struct Api(Arc<Mutex<BTreeMap<String, Value>>>);

impl Api {
    async fn client(&self) -> Client {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let api = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let api = api.clone();
                tokio::spawn(async move {
                    let service = service_fn(move |request| api.clone().answer(request));
                    let http1 = hyper::server::conn::http1::Builder::new();
                    let _closed = http1.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Client::try_from(kube::Config::new(url.parse().unwrap())).unwrap()
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, std::io::Error> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
        let mut object: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let mut objects = self.0.lock().unwrap();
        let path = match head.method {
            Method::POST => format!("{}/{CA_NAME}", head.uri.path()),
            _ => head.uri.path().to_owned(),
        };
        let stored = objects.get(&path).cloned();
        let version = |object: &Value| object["metadata"]["resourceVersion"].as_str().unwrap_or("0").to_owned();
        let (code, answer) = match (head.method, stored) {
            (Method::GET, Some(object)) => (200, object),
            (Method::POST, Some(_)) => (409, Value::Null),
            (Method::PUT, Some(old)) if version(&old) != version(&object) => (409, Value::Null),
            (Method::POST | Method::PUT, old) => {
                let next = old.map_or(1, |old| version(&old).parse::<u64>().unwrap() + 1);
                object["metadata"]["resourceVersion"] = json!(next.to_string());
                objects.insert(path, object.clone());
                (200, object)
            }
            _ => (404, Value::Null),
        };
        let answer = match code {
            200 => answer,
            409 => json!({"kind": "Status", "status": "Failure", "code": 409, "reason": "Conflict", "message": ""}),
            _ => json!({"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound", "message": ""}),
        };
        Ok(Response::builder().status(code).body(Full::from(answer.to_string())).unwrap())
    }

    fn object(&self, kind: &str) -> Value {
        self.0.lock().unwrap()[&path(kind)].clone()
    }
}

fn path(kind: &str) -> String {
    format!("/api/v1/namespaces/sluice-system/{kind}/{CA_NAME}")
}

fn names() -> Vec<String> {
    vec!["sluice-operator-artifacts.sluice-system.svc".into()]
}

#[tokio::test]
async fn whoever_comes_first_makes_the_authority_for_all() {
    let api = Api::default();
    let clients = (api.client().await, api.client().await, api.client().await);
    let establish = |client| async move { Identity::establish(&client, "sluice-system", names()).await.unwrap() };
    let (a, b, c) = tokio::join!(establish(clients.0), establish(clients.1), establish(clients.2.clone()));
    assert_eq!((a.bundle_pem(), b.bundle_pem()), (c.bundle_pem(), c.bundle_pem()));
    assert_eq!(api.object("configmaps")["data"]["ca.crt"], a.bundle_pem());
    let written = [api.object("secrets"), api.object("configmaps")];
    establish(clients.2).await;
    assert_eq!([api.object("secrets"), api.object("configmaps")], written, "nothing is written in the steady state");
}

#[tokio::test]
async fn what_was_edited_by_hand_is_restored_or_told() {
    let api = Api::default();
    let client = api.client().await;
    let first = Identity::establish(&client, "sluice-system", names()).await.unwrap();
    let edited = "configmaps";
    api.0.lock().unwrap().get_mut(&path(edited)).unwrap()["data"]["ca.crt"] = json!("mine");
    Identity::establish(&client, "sluice-system", names()).await.unwrap();
    assert_eq!(api.object("configmaps")["data"]["ca.crt"], first.bundle_pem());

    api.0.lock().unwrap().get_mut(&path("secrets")).unwrap()["data"]["ca.key"] = json!(STANDARD.encode("mine"));
    let told = Identity::establish(&client, "sluice-system", names()).await.unwrap_err().to_string();
    assert!(told.starts_with("what is stored is no certificate authority ("), "{told}");
    assert!(
        told.ends_with("delete Secret sluice-artifacts-ca, a new one is made and nodes follow within minutes"),
        "{told}"
    );
}
