//! Bootstrap tokens: `<sha256 of the authority's certificate>.<id>.<secret>`.
//!
//! The first part lets a new node recognise its cluster; the other two, sent as bearer token `<id>.<secret>`, let the
//! cluster recognise the node. They have the lengths of Kubernetes' bootstrap tokens.
use std::{fmt, str::FromStr};

use ring::rand::{SecureRandom, SystemRandom};

use crate::Error;

const ID_LENGTH: usize = 6;
const SECRET_LENGTH: usize = 16;
const PIN_LENGTH: usize = 64;
const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// A bootstrap token.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// SHA-256 of the authority's certificate, in hexadecimal.
    pub ca_sha256: String,
    /// Public part; the bootstrap user is `system:bootstrap:<id>`.
    pub id: String,
    secret: String,
}

impl Token {
    /// Makes a token for the authority with this pin.
    pub fn generate(ca_sha256: String) -> Result<Self, Error> {
        Ok(Self { ca_sha256, id: random_text(ID_LENGTH)?, secret: random_text(SECRET_LENGTH)? })
    }

    /// What a node sends as bearer token.
    pub fn bearer(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }

    /// Whether a bearer token is this one, in time that does not tell how much of it fits.
    pub fn accepts(&self, bearer: &str) -> bool {
        let expected = self.bearer();
        let difference = expected.bytes().zip(bearer.bytes()).fold(0, |bits, (a, b)| bits | (a ^ b));
        expected.len() == bearer.len() && difference == 0
    }

    /// The whole token, secret included, as `bowsprit agent --token` takes it.
    pub fn reveal(&self) -> String {
        format!("{}.{}.{}", self.ca_sha256, self.id, self.secret)
    }
}

impl FromStr for Token {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let malformed = |reason: &str| {
            Error::malformed("token", format!("{reason}; copy it whole from `bowsprit token` on a server"))
        };
        let parts: Vec<&str> = text.trim().split('.').collect();
        let [pin, id, secret] = parts[..] else {
            return Err(malformed("it has not the three parts <authority>.<id>.<secret>"));
        };
        if pin.len() != PIN_LENGTH || !pin.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(malformed("its first part is not the 64 hexadecimal digits of a SHA-256"));
        }
        let good = |part: &str, length| part.len() == length && part.bytes().all(|b| ALPHABET.contains(&b));
        if !good(id, ID_LENGTH) || !good(secret, SECRET_LENGTH) {
            return Err(malformed("its id or secret is cut off"));
        }
        Ok(Self { ca_sha256: pin.to_ascii_lowercase(), id: id.into(), secret: secret.into() })
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({}.{}.***)", self.ca_sha256, self.id)
    }
}

fn random_text(length: usize) -> Result<String, Error> {
    let mut text = String::with_capacity(length);
    let mut byte = [0];
    while text.len() < length {
        SystemRandom::new()
            .fill(&mut byte)
            .map_err(|error| Error::Crypto { action: "read random bytes", reason: error.to_string() })?;
        // 252 is the largest multiple of 36 that fits: bytes above it would favour the first letters.
        if byte[0] < 252 {
            text.push(char::from(ALPHABET[usize::from(byte[0]) % ALPHABET.len()]));
        }
    }
    Ok(text)
}
