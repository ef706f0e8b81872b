//! An operator replica's artifact server: HTTPS, a bearer token, and misbehaviour on demand.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use sluice_config::Digest;
use tokio::net::TcpListener;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::aws_lc_rs, pki_types::PrivateKeyDer},
};

pub const TOKEN: &str = "the-pods-token";

/// What is sent for an artifact.
#[derive(Clone)]
pub enum Conduct {
    Whole(Vec<u8>),
    /// A 200 with these bytes, whatever they are.
    Instead(Vec<u8>),
    Status(u16),
}

#[derive(Clone)]
pub struct Artifacts {
    pub address: SocketAddr,
    pub ca_file: PathBuf,
    pub token_file: PathBuf,
    conduct: Arc<Mutex<BTreeMap<Digest, Conduct>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Artifacts {
    pub async fn start(dir: &Path) -> Self {
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(ca, ca_key).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &ca).unwrap();
        let (ca_file, token_file) = (dir.join("ca.crt"), dir.join("token"));
        fs::write(&ca_file, ca.pem()).unwrap();
        fs::write(&token_file, format!("{TOKEN}\n")).unwrap();
        let tls = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let this = Self {
            address: listener.local_addr().unwrap(),
            ca_file,
            token_file,
            conduct: Arc::default(),
            asked: Arc::default(),
        };
        tokio::spawn(this.clone().serve(listener, TlsAcceptor::from(Arc::new(tls))));
        this
    }

    async fn serve(self, listener: TcpListener, tls: TlsAcceptor) {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (this, tls) = (self.clone(), tls.clone());
            tokio::spawn(async move {
                let Ok(stream) = tls.accept(stream).await else { return };
                let service = service_fn(|request| std::future::ready(Ok::<_, Infallible>(this.answer(&request))));
                let _client_left = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        self.asked.lock().unwrap().push(path.to_owned());
        let respond = |status: u16, body: Vec<u8>| {
            let mut response = Response::new(Full::new(Bytes::from(body)));
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            response
        };
        let token = request.headers().get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
        if token != Some(&format!("Bearer {TOKEN}")) {
            return respond(401, vec![]);
        }
        let digest = path.strip_prefix("/v1/artifacts/").and_then(|d| d.parse::<Digest>().ok());
        let conduct = digest.and_then(|d| self.conduct.lock().unwrap().get(&d).cloned());
        match conduct {
            Some(Conduct::Whole(bytes) | Conduct::Instead(bytes)) => respond(200, bytes),
            Some(Conduct::Status(status)) => respond(status, vec![]),
            None => respond(404, vec![]),
        }
    }

    pub fn set(&self, digest: &Digest, conduct: Conduct) {
        self.conduct.lock().unwrap().insert(digest.clone(), conduct);
    }

    pub fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    pub fn flags(&self) -> Vec<String> {
        vec![
            "--artifacts-url".into(),
            format!("https://localhost:{}", self.address.port()),
            "--artifacts-ca".into(),
            self.ca_file.display().to_string(),
            "--token-file".into(),
            self.token_file.display().to_string(),
        ]
    }
}
