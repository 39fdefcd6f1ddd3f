//! Service account tokens: JSON web tokens signed with ES256.
use std::{fmt, path::Path, time::SystemTime};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use ring::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
        UnparsedPublicKey,
    },
};
use rustls_pki_types::{PrivatePkcs8KeyDer, pem::PemObject};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{Error, files};

/// Clocks of a cluster differ by this much at most, in seconds.
const CLOCK_SKEW_SECONDS: u64 = 60;
/// Longer tokens are not looked at: ours have well under 2 KiB.
const TOKEN_LENGTH_MAX: usize = 8 * 1024;

/// The key that signs service account tokens.
pub struct ServiceAccountKey {
    pair: EcdsaKeyPair,
    key_id: String,
}

/// What a service account token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Who issued it.
    #[serde(rename = "iss")]
    pub issuer: String,
    /// `system:serviceaccount:<namespace>:<name>`.
    #[serde(rename = "sub")]
    pub subject: String,
    /// Who may accept it.
    #[serde(rename = "aud")]
    pub audiences: Vec<String>,
    /// End of its validity, in seconds since 1970.
    #[serde(rename = "exp")]
    pub expires: u64,
    /// When it was issued.
    #[serde(rename = "iat")]
    pub issued_at: u64,
    /// Start of its validity.
    #[serde(rename = "nbf")]
    pub not_before: u64,
    /// Its own name, for audit.
    #[serde(rename = "jti", default, skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// The objects it is bound to.
    #[serde(rename = "kubernetes.io")]
    pub bound: BoundClaims,
}

/// The objects that a token lives as long as.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoundClaims {
    /// Namespace of the account.
    pub namespace: String,
    /// The account.
    pub serviceaccount: ObjectClaim,
    /// The pod that uses it, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<ObjectClaim>,
    /// The node that the pod runs on, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<ObjectClaim>,
    /// The secret it is bound to, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<ObjectClaim>,
}

/// Name and identity of an object in a token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectClaim {
    /// Its name.
    pub name: String,
    /// Its uid; another object of the same name does not count.
    pub uid: String,
}

#[derive(Serialize, Deserialize)]
struct Header {
    alg: String,
    kid: String,
}

// === impl ServiceAccountKey ===

impl ServiceAccountKey {
    /// The key in the file, made if there is none.
    pub fn open_or_create(path: &Path) -> Result<Self, Error> {
        if let Some(pem) = files::read(path)? {
            return Self::from_pem(&pem);
        }
        let pem = Self::generate_pem()?;
        files::write(path, &pem, files::MODE_SECRET)?;
        Self::from_pem(&pem)
    }

    /// A new key, as PEM.
    pub fn generate_pem() -> Result<String, Error> {
        let key = rcgen::KeyPair::generate().map_err(Error::crypto("generate a key"))?;
        Ok(key.serialize_pem())
    }

    /// Reads a key.
    pub fn from_pem(pem: &str) -> Result<Self, Error> {
        let malformed = |reason: String| Error::malformed("service account key", reason);
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes())
            .map_err(|error| malformed(error.to_string()))?;
        let random = SystemRandom::new();
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.secret_pkcs8_der(), &random)
                .map_err(|error| malformed(error.to_string()))?;
        let key_id = BASE64URL.encode(Sha256::digest(pair.public_key().as_ref()));
        Ok(Self { pair, key_id })
    }

    /// Signs a token.
    pub fn sign(&self, claims: &Claims) -> Result<String, Error> {
        let encode = |bytes: serde_json::Result<Vec<u8>>| {
            bytes
                .map(|bytes| BASE64URL.encode(bytes))
                .map_err(|error| Error::malformed("token claims", error))
        };
        let header = Header { alg: "ES256".into(), kid: self.key_id.clone() };
        let signed =
            format!("{}.{}", encode(serde_json::to_vec(&header))?, encode(serde_json::to_vec(claims))?);
        let signature = self
            .pair
            .sign(&SystemRandom::new(), signed.as_bytes())
            .map_err(|error| Error::Crypto { action: "sign a token", reason: error.to_string() })?;
        Ok(format!("{signed}.{}", BASE64URL.encode(signature)))
    }

    /// Verifies signature, validity and audience (any of `audiences`). The caller checks that the bound objects live.
    pub fn verify(&self, token: &str, audiences: &[&str], now: SystemTime) -> Result<Claims, Error> {
        const MALFORMED: Error = Error::Token { reason: "it is not a JSON web token" };
        if token.len() > TOKEN_LENGTH_MAX {
            return Err(Error::Token { reason: "it is too long" });
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(MALFORMED)?;
        let (header, claims) = signed.split_once('.').ok_or(MALFORMED)?;
        let header: Header = decode(header).ok_or(MALFORMED)?;
        if header.alg != "ES256" || header.kid != self.key_id {
            return Err(Error::Token { reason: "it is signed by an unknown key" });
        }
        let signature = BASE64URL.decode(signature).map_err(|_| MALFORMED)?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.pair.public_key().as_ref())
            .verify(signed.as_bytes(), &signature)
            .map_err(|_| Error::Token { reason: "its signature is wrong" })?;
        let claims: Claims = decode(claims).ok_or(MALFORMED)?;
        check(&claims, audiences, now)?;
        Ok(claims)
    }

    /// The public key as JWKS documents list it.
    pub fn jwk(&self) -> serde_json::Value {
        // An uncompressed point: the byte 4, then 32 bytes each of x and y.
        let point = self.pair.public_key().as_ref();
        serde_json::json!({
            "use": "sig", "kty": "EC", "kid": self.key_id, "crv": "P-256", "alg": "ES256",
            "x": BASE64URL.encode(&point[1..33]), "y": BASE64URL.encode(&point[33..]),
        })
    }
}

impl fmt::Debug for ServiceAccountKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ServiceAccountKey").field(&self.key_id).finish()
    }
}

fn check(claims: &Claims, audiences: &[&str], now: SystemTime) -> Result<(), Error> {
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    if now >= claims.expires {
        return Err(Error::Token { reason: "it has expired" });
    }
    if now + CLOCK_SKEW_SECONDS < claims.not_before {
        return Err(Error::Token { reason: "it is not valid yet" });
    }
    if !claims.audiences.iter().any(|audience| audiences.contains(&audience.as_str())) {
        return Err(Error::Token { reason: "it is for another audience" });
    }
    Ok(())
}

fn decode<T: serde::de::DeserializeOwned>(part: &str) -> Option<T> {
    serde_json::from_slice(&BASE64URL.decode(part).ok()?).ok()
}
