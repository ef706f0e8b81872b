//! A cluster's certificate authority, its certificates and the kubeconfigs that carry them.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use base64::Engine;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde_json::json;

use crate::{address, state::Folder};

/// Whom a certificate speaks for.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Common name: the user.
    pub user: String,
    /// Organizations: the groups.
    pub groups: Vec<String>,
    /// DNS names and addresses, for servers.
    pub names: Vec<String>,
}

impl Identity {
    /// A user without names of its own.
    pub fn client(user: &str, groups: &[&str]) -> Self {
        Self {
            user: user.to_owned(),
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
            names: Vec::new(),
        }
    }

    /// A server under these names.
    pub fn server(user: &str, names: Vec<String>) -> Self {
        Self { user: user.to_owned(), groups: Vec::new(), names }
    }
}

/// The certificate files of one cluster.
#[derive(Clone, Debug)]
pub struct Pki {
    folder: PathBuf,
}

impl Pki {
    /// The files in this cluster's folder; makes the authority if there is none.
    pub fn of(folder: &Folder) -> Result<Self> {
        let pki = Self { folder: folder.join("pki") };
        fs::create_dir_all(&pki.folder)?;
        fs::set_permissions(&pki.folder, fs::Permissions::from_mode(0o700))?;
        if !pki.ca().exists() {
            let key = KeyPair::generate()?;
            let certificate = authority()?.self_signed(&key)?;
            write_secret(&pki.folder.join("ca.key"), &key.serialize_pem())?;
            fs::write(pki.ca(), certificate.pem())?;
        }
        if !pki.service_account_key().exists() {
            let key = KeyPair::generate()?;
            fs::write(pki.service_account_public_key(), key.public_key_pem())?;
            write_secret(&pki.service_account_key(), &key.serialize_pem())?;
        }
        Ok(pki)
    }

    /// The authority's certificate.
    pub fn ca(&self) -> PathBuf {
        self.folder.join("ca.crt")
    }

    /// Signs service account tokens.
    pub fn service_account_key(&self) -> PathBuf {
        self.folder.join("service-account.key")
    }

    /// Verifies them.
    pub fn service_account_public_key(&self) -> PathBuf {
        self.folder.join("service-account.pub")
    }

    /// Certificate and key under a file name, made on first use.
    pub fn issue(&self, file: &str, identity: &Identity) -> Result<(PathBuf, PathBuf)> {
        let (certificate_path, key_path) =
            (self.folder.join(format!("{file}.crt")), self.folder.join(format!("{file}.key")));
        if certificate_path.exists() {
            return Ok((certificate_path, key_path));
        }
        let ca_key_path = self.folder.join("ca.key");
        let ca_key =
            fs::read_to_string(&ca_key_path).with_context(|| format!("cannot read {}", ca_key_path.display()))?;
        let issuer = Issuer::new(authority()?, KeyPair::from_pem(&ca_key)?);
        let mut params = CertificateParams::new(identity.names.clone())?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, identity.user.as_str());
        for group in &identity.groups {
            params.distinguished_name.push(DnType::OrganizationName, group.as_str());
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &issuer)?;
        write_secret(&key_path, &key.serialize_pem())?;
        fs::write(&certificate_path, certificate.pem())?;
        Ok((certificate_path, key_path))
    }

    /// A kubeconfig for an identity at an API server, under a file name.
    pub fn kubeconfig(&self, file: &str, api_server: &str, identity: &Identity) -> Result<PathBuf> {
        let path = self.folder.join(format!("{file}.kubeconfig"));
        if path.exists() {
            return Ok(path);
        }
        let (certificate, key) = self.issue(file, identity)?;
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "sluice",
            "contexts": [{"name": "sluice", "context": {"cluster": "sluice", "user": identity.user}}],
            "clusters": [{"name": "sluice", "cluster": {
                "server": format!("https://{api_server}:{}", address::API_SERVER_PORT),
                "certificate-authority-data": encoded(&self.ca())?,
            }}],
            "users": [{"name": identity.user, "user": {
                "client-certificate-data": encoded(&certificate)?,
                "client-key-data": encoded(&key)?,
            }}],
        });
        write_secret(&path, &serde_json::to_string_pretty(&config)?)?;
        Ok(path)
    }
}

fn authority() -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "sluice local cluster");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    Ok(params)
}

/// Inside the kubeconfig rather than beside it, so that it can be copied elsewhere.
fn encoded(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(base64::engine::general_purpose::STANDARD.encode(bytes))
}

fn write_secret(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o600))?)
}
