//! EndpointSlices as the API carries them: all of it, because this controller writes them.
use client::{Meta, objects::nullable};
use serde::{Deserialize, Serialize};

/// A part of a Service's endpoints that share ports and address family.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EndpointSlice {
    /// Metadata.
    pub metadata: Meta,
    /// IPv4 or IPv6.
    pub address_type: Box<str>,
    /// Ports of every endpoint.
    #[serde(deserialize_with = "nullable")]
    pub ports: Vec<Port>,
    /// Endpoints.
    #[serde(deserialize_with = "nullable")]
    pub endpoints: Vec<Endpoint>,
}

/// A port of endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Port {
    /// The Service port's name.
    #[serde(deserialize_with = "nullable")]
    pub name: Box<str>,
    /// TCP, UDP or SCTP.
    pub protocol: Box<str>,
    /// Number.
    pub port: i32,
    /// What is spoken on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<Box<str>>,
}

/// A pod of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Endpoint {
    /// Its address.
    pub addresses: Vec<Box<str>>,
    /// What may be sent to it.
    pub conditions: Conditions,
    /// Its name in DNS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<Box<str>>,
    /// Its node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<Box<str>>,
    /// Its node's zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<Box<str>>,
    /// The pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<TargetRef>,
}

/// What may be sent to an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Conditions {
    /// New connections.
    pub ready: Option<bool>,
    /// Connections, if there is no ready endpoint: it passes its probes, but may be terminating.
    pub serving: Option<bool>,
    /// It is going.
    pub terminating: Option<bool>,
}

/// The pod behind an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TargetRef {
    /// Pod.
    pub kind: Box<str>,
    /// Its namespace.
    pub namespace: Box<str>,
    /// Its name.
    pub name: Box<str>,
    /// Its uid.
    pub uid: Box<str>,
}

client::resource!(EndpointSlice: "discovery.k8s.io" / "v1" / "endpointslices", "EndpointSlice", namespaced, index {
    "service" => |slice: &EndpointSlice, add: &mut dyn FnMut(&str)| {
        if let Some(service) = slice.metadata.labels.get(super::SERVICE_NAME) {
            add(&format!("{}/{service}", slice.metadata.namespace));
        }
    },
});
