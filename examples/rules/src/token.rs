//! Whose token it is, if it is one: RFC 7519, with the one algorithm that the issuer signs with.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use p256::{
    EncodedPoint, FieldBytes,
    ecdsa::{Signature, VerifyingKey, signature::Verifier},
};
use serde::{Deserialize, de::DeserializeOwned};

/// The issuer's public key, as in its `jwks_uri`. To change it is a release.
const KEY: &str = include_str!("issuer.jwk.json");
const ISSUER: &str = "https://login.example";
const AUDIENCE: &str = "shop";
/// Clocks are not the same everywhere.
const LEEWAY_SECONDS: u64 = 30;

#[derive(Deserialize)]
struct Key {
    x: String,
    y: String,
}

#[derive(Deserialize)]
struct Head {
    alg: String,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    aud: Audience,
    sub: String,
    exp: u64,
    #[serde(default)]
    nbf: u64,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Some(Vec<String>),
}

/// The subject of the one token in these values of `authorization`, or what is wrong with it.
pub fn subject(headers: &[Vec<u8>]) -> Result<String, &'static str> {
    let [header] = headers else { return Err("send one token") };
    let header = std::str::from_utf8(header).map_err(|_| "it is no token")?;
    let token = header.strip_prefix("Bearer ").ok_or("send a Bearer token")?;
    let (signed, signature) = token.rsplit_once('.').ok_or("it is no token")?;
    let (head, claims) = signed.split_once('.').ok_or("it is no token")?;
    // The algorithm is ours to choose, not the token's.
    if json::<Head>(head)?.alg != "ES256" {
        return Err("it is not signed with ES256");
    }
    let signature = Signature::from_slice(&bytes(signature)?).map_err(|_| "the signature is wrong")?;
    key().verify(signed.as_bytes(), &signature).map_err(|_| "the signature is wrong")?;
    let claims = json::<Claims>(claims)?;
    accept(&claims)?;
    Ok(claims.sub)
}

/// What to say where there is none that holds, in `www-authenticate`.
#[must_use]
pub fn challenge(why: &str) -> String {
    format!("Bearer error=\"invalid_token\", error_description=\"{why}\"")
}

fn accept(claims: &Claims) -> Result<(), &'static str> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let is_ours = match &claims.aud {
        Audience::One(audience) => audience == AUDIENCE,
        Audience::Some(audiences) => audiences.iter().any(|audience| audience == AUDIENCE),
    };
    if claims.iss != ISSUER || !is_ours {
        return Err("it is for somebody else");
    }
    if now >= claims.exp.saturating_add(LEEWAY_SECONDS) {
        return Err("it has expired");
    }
    if now.saturating_add(LEEWAY_SECONDS) < claims.nbf {
        return Err("it does not hold yet");
    }
    if claims.sub.is_empty() || !claims.sub.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("its subject fits into no header");
    }
    Ok(())
}

fn key() -> VerifyingKey {
    let key: Key = serde_json::from_str(KEY).expect("a JWK");
    let coordinate = |text: &str| {
        let bytes = bytes(text).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        FieldBytes::from(bytes.expect("32 bytes in base64url"))
    };
    let point = EncodedPoint::from_affine_coordinates(&coordinate(&key.x), &coordinate(&key.y), false);
    VerifyingKey::from_encoded_point(&point).expect("a point on the curve")
}

fn bytes(text: &str) -> Result<Vec<u8>, &'static str> {
    BASE64.decode(text).map_err(|_| "it is no token")
}

fn json<T: DeserializeOwned>(part: &str) -> Result<T, &'static str> {
    serde_json::from_slice(&bytes(part)?).map_err(|_| "it is no token")
}
