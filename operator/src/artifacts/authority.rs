//! The certificate authority of artifact servers: made, renewed and used; no I/O, no clock.

use std::sync::Arc;

use jiff::{Span, Timestamp, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData,
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// Life of an authority; its successor is published after three quarters, used after seven eighths.
const CA_DAYS: i64 = 5 * 365;
/// Life of a serving certificate, renewed after two thirds. It lives in memory only.
const SERVING_DAYS: i64 = 30;
const DAY_SECONDS: i64 = 86_400;

/// Why a certificate cannot be made or read.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// It cannot be made.
    #[error("a certificate cannot be made: {0}")]
    Make(String),
    /// What is stored is no authority.
    #[error("what is stored is no certificate authority ({0})")]
    Stored(String),
}

fn make(error: impl std::fmt::Display) -> AuthorityError {
    AuthorityError::Make(error.to_string())
}

fn stored(error: impl std::fmt::Display) -> AuthorityError {
    AuthorityError::Stored(error.to_string())
}

/// One authority: its certificate and its key.
#[derive(Clone, PartialEq, Eq)]
pub struct Authority {
    /// PEM of the certificate.
    pub cert_pem: String,
    /// PEM of the private key.
    pub key_pem: String,
    starts: Timestamp,
    ends: Timestamp,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("starts", &self.starts).field("ends", &self.ends).finish_non_exhaustive()
    }
}

/// A serving certificate, ready for use.
#[derive(Clone, Debug)]
pub struct Issued {
    /// With the certificate and its key.
    pub config: Arc<rustls::ServerConfig>,
    /// When to issue another.
    pub renew_at: Timestamp,
}

impl Authority {
    /// A new one.
    ///
    /// # Errors
    /// No randomness.
    pub fn generate(now: Timestamp) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate().map_err(make)?;
        let mut params = CertificateParams::new(Vec::new()).map_err(make)?;
        params.distinguished_name.push(DnType::CommonName, "sluice artifacts");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        set_life(&mut params, now, CA_DAYS)?;
        let cert = params.self_signed(&key).map_err(make)?;
        Self::parse(cert.pem(), key.serialize_pem())
    }

    /// One that was stored.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(cert_pem: String, key_pem: String) -> Result<Self, AuthorityError> {
        let (_, pem) = x509_parser::pem::parse_x509_pem(cert_pem.as_bytes()).map_err(stored)?;
        let cert = pem.parse_x509().map_err(stored)?;
        if !cert.is_ca() {
            return Err(stored("the certificate is of no authority"));
        }
        let key = KeyPair::from_pem(&key_pem).map_err(stored)?;
        if key.subject_public_key_info() != cert.public_key().raw {
            return Err(stored("certificate and key do not belong together"));
        }
        let at = |seconds| Timestamp::from_second(seconds).map_err(stored);
        let (starts, ends) = (at(cert.validity().not_before.timestamp())?, at(cert.validity().not_after.timestamp())?);
        Ok(Self { cert_pem, key_pem, starts, ends })
    }

    /// A serving certificate for these names, with a key that nobody else ever sees.
    ///
    /// # Errors
    /// A name is none, or no randomness.
    pub fn issue(&self, names: &[String], now: Timestamp) -> Result<Issued, AuthorityError> {
        let authority_key = KeyPair::from_pem(&self.key_pem).map_err(stored)?;
        let issuer = Issuer::from_ca_cert_pem(&self.cert_pem, authority_key).map_err(stored)?;
        let key = KeyPair::generate().map_err(make)?;
        let mut params = CertificateParams::new(names.to_vec()).map_err(make)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        set_life(&mut params, now, SERVING_DAYS)?;
        let cert = params.signed_by(&key, &issuer).map_err(make)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config =
            rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
                .with_protocol_versions(&[&rustls::version::TLS13])
                .map_err(make)?
                .with_no_client_auth()
                .with_single_cert(vec![cert.der().clone()], key)
                .map_err(make)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let renew_at = after_days(now, SERVING_DAYS * 2 / 3).min(self.ends);
        Ok(Issued { config: Arc::new(config), renew_at })
    }

    /// The share of its life that is over, in eighths.
    fn eighths_over(&self, now: Timestamp) -> i64 {
        let life = (self.ends.as_second() - self.starts.as_second()).max(1);
        (now.as_second() - self.starts.as_second()).saturating_mul(8) / life
    }
}

/// The authority in use, the one that comes, the one that was: nodes trust all three, so that no
/// replica needs to change at the same moment as another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorities {
    /// Signs.
    pub current: Authority,
    /// Trusted already, signs later.
    pub next: Option<Authority>,
    /// PEM of the certificate that signed before.
    pub previous_pem: Option<String>,
}

impl Authorities {
    /// The first ones.
    ///
    /// # Errors
    /// As [`Authority::generate`].
    pub fn generate(now: Timestamp) -> Result<Self, AuthorityError> {
        Ok(Self { current: Authority::generate(now)?, next: None, previous_pem: None })
    }

    /// What they should be by now; equal to what they are but in the last quarter of a life.
    ///
    /// # Errors
    /// As [`Authority::generate`].
    pub fn advanced(&self, now: Timestamp) -> Result<Self, AuthorityError> {
        let eighths = self.current.eighths_over(now);
        Ok(match &self.next {
            None if eighths >= 6 => Self { next: Some(Authority::generate(now)?), ..self.clone() },
            Some(next) if eighths >= 7 => {
                Self { current: next.clone(), next: None, previous_pem: Some(self.current.cert_pem.clone()) }
            }
            None | Some(_) => self.clone(),
        })
    }

    /// All that are trusted.
    #[must_use]
    pub fn bundle_pem(&self) -> String {
        let next = self.next.as_ref().map(|a| a.cert_pem.as_str());
        [Some(self.current.cert_pem.as_str()), next, self.previous_pem.as_deref()]
            .into_iter()
            .flatten()
            .map(|pem| format!("{}\n", pem.trim_end()))
            .collect()
    }
}

/// Whole days: certificates count in seconds, the maker of certificates in dates.
fn set_life(params: &mut CertificateParams, now: Timestamp, days: i64) -> Result<(), AuthorityError> {
    let date = |at: Timestamp| -> Result<_, AuthorityError> {
        let date = at.to_zoned(TimeZone::UTC).date();
        let (month, day) = (u8::try_from(date.month()).map_err(make)?, u8::try_from(date.day()).map_err(make)?);
        Ok(rcgen::date_time_ymd(date.year().into(), month, day))
    };
    // From the day before, so that a node whose clock is behind believes it.
    params.not_before = date(after_days(now, -1))?;
    params.not_after = date(after_days(now, days))?;
    Ok(())
}

fn after_days(now: Timestamp, days: i64) -> Timestamp {
    now.checked_add(Span::new().seconds(days * DAY_SECONDS)).unwrap_or(now)
}
