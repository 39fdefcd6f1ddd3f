//! What the runtime gets: results and errors in the forms of the CNI specification.

use std::{net::IpAddr, path::Path};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::VERSIONS;
use crate::{
    devices::{GATEWAY4, GATEWAY6},
    error::Error,
    ipam::{IpamError, Record},
    netlink::Mac,
};

/// Error codes of the specification, and one of our own.
pub mod code {
    /// The version is not supported.
    pub const VERSION: u32 = 1;
    /// The container is not known (or gone).
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// An environment variable is wrong.
    pub const ENVIRONMENT: u32 = 4;
    /// Input or output failed.
    pub const IO: u32 = 5;
    /// The input could not be decoded.
    pub const DECODE: u32 = 6;
    /// The network configuration is wrong.
    pub const CONFIG: u32 = 7;
    /// Try again later.
    pub const LATER: u32 = 11;
    /// The device could not be made or is not as it was made.
    pub const NETWORK: u32 = 100;
}

/// A failure as the runtime shows it to people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{msg}{}{details}", if .details.is_empty() { "" } else { ": " })]
pub struct CniError {
    /// One of [`code`].
    pub code: u32,
    /// What went wrong.
    pub msg: String,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
}

/// What crosses the socket on the way back.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Answer {
    /// To print; null prints nothing.
    Result(Value),
    /// To print, and fail.
    Error(CniError),
}

// === impl CniError ===

impl CniError {
    /// An error without details.
    pub fn new(code: u32, msg: impl Into<String>) -> Self {
        CniError { code, msg: msg.into(), details: String::new() }
    }

    /// Adds why.
    pub fn details(self, details: impl Into<String>) -> Self {
        CniError { details: details.into(), ..self }
    }

    /// The form of the specification.
    pub(super) fn to_json(&self, version: &str) -> Value {
        json!({ "cniVersion": version, "code": self.code, "msg": self.msg, "details": self.details })
    }
}

impl From<IpamError> for CniError {
    fn from(error: IpamError) -> Self {
        let code = match error {
            IpamError::NoCidr | IpamError::Exhausted { .. } => code::LATER,
            _ => code::IO,
        };
        CniError::new(code, error.to_string()).details(causes(&error))
    }
}

impl From<Error> for CniError {
    fn from(error: Error) -> Self {
        let code = match error {
            Error::Namespace { .. } => code::UNKNOWN_CONTAINER,
            _ => code::NETWORK,
        };
        CniError::new(code, error.to_string()).details(causes(&error))
    }
}

/// The chain behind an error, in one line.
fn causes(error: &dyn std::error::Error) -> String {
    let chain = std::iter::successors(error.source(), |error| error.source());
    chain.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// What VERSION says.
pub(super) fn versions() -> Value {
    json!({ "cniVersion": VERSIONS.last(), "supportedVersions": VERSIONS })
}

/// What ADD says of a device.
pub(crate) fn result(
    version: &str,
    record: &Record,
    mac: Mac,
    gateway_mac: Mac,
    netns: &Path,
    mtu: u32,
) -> Value {
    let ips: Vec<Value> = record.addresses.iter().map(|address| ip(version, *address)).collect();
    let routes: Vec<Value> = record
        .addresses
        .iter()
        .map(|address| json!({ "dst": if address.is_ipv6() { "::/0" } else { "0.0.0.0/0" }, "gw": gateway(*address) }))
        .collect();
    json!({
        "cniVersion": version,
        "interfaces": [
            { "name": record.device, "mac": mac_text(gateway_mac) },
            { "name": record.ifname, "mac": mac_text(mac), "mtu": mtu, "sandbox": netns },
        ],
        "ips": ips,
        "routes": routes,
        "dns": {},
    })
}

/// Versions before 1.0.0 say the family of each address.
fn ip(version: &str, address: IpAddr) -> Value {
    let bits = if address.is_ipv6() { 128 } else { 32 };
    let mut ip = json!({
        "address": format!("{address}/{bits}"),
        "gateway": gateway(address),
        "interface": 1,
    });
    if version.starts_with("0.") {
        ip["version"] = json!(if address.is_ipv6() { "6" } else { "4" });
    }
    ip
}

fn gateway(address: IpAddr) -> IpAddr {
    if address.is_ipv6() { GATEWAY6.into() } else { GATEWAY4.into() }
}

fn mac_text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
