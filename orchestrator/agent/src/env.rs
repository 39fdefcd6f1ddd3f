//! A container's environment: Services, ConfigMaps, Secrets, fields of the pod, and `$(VAR)` expansion. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use client::objects::StringMap;

use crate::objects::{
    ConfigMap, Container, EnvVar, KeyRef, Pod, Quantity, ResourceFieldRef, Secret, Service,
};
use crate::resources;

/// What a container's environment is computed from.
pub struct EnvInputs<'a> {
    /// The pod, for `fieldRef`.
    pub pod: &'a Pod,
    /// The container.
    pub container: &'a Container,
    /// The pod's addresses, first one first.
    pub pod_ips: &'a [IpAddr],
    /// The node's addresses, first one first.
    pub host_ips: &'a [IpAddr],
    /// Services visible to the pod.
    pub services: &'a [std::sync::Arc<Service>],
    /// ConfigMaps of the pod's namespace by name; absent ones are absent here.
    pub config_maps: &'a BTreeMap<String, std::sync::Arc<ConfigMap>>,
    /// Secrets of the pod's namespace by name.
    pub secrets: &'a BTreeMap<String, std::sync::Arc<Secret>>,
    /// What the node can give to pods, for limits that are not set.
    pub allocatable: &'a NodeAllocatable,
}

/// What the node can give to pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeAllocatable {
    /// Thousandths of a CPU.
    pub milli_cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes.
    pub ephemeral_storage: i64,
}

/// An environment that cannot be made: shown as `CreateContainerConfigError` until it can.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum EnvError {
    /// The object is not there.
    #[error("{kind} \"{name}\" not found")]
    ObjectAbsent {
        /// `configmap` or `secret`.
        kind: &'static str,
        /// Object name.
        name: String,
    },
    /// The object is there, the entry is not.
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    KeyAbsent {
        /// `ConfigMap` or `Secret`.
        kind: &'static str,
        /// Object namespace.
        namespace: String,
        /// Object name.
        name: String,
        /// Entry.
        key: String,
    },
    /// A Secret's entry is not text.
    #[error("environment variable {name}: key {key} of secret {secret} is not valid UTF-8")]
    NotText {
        /// Variable.
        name: String,
        /// Secret.
        secret: String,
        /// Entry.
        key: String,
    },
    /// A field that the downward API does not have.
    #[error(
        "unsupported field path {path:?}: use metadata.name, metadata.namespace, metadata.uid, metadata.labels['KEY'], metadata.annotations['KEY'], spec.nodeName, spec.serviceAccountName, status.hostIP(s) or status.podIP(s)"
    )]
    Field {
        /// As written.
        path: String,
    },
    /// A resource or container that does not exist.
    #[error("resourceFieldRef {resource:?} of container {container:?} cannot be resolved: {reason}")]
    Resource {
        /// As written.
        resource: String,
        /// Container name.
        container: String,
        /// What is wrong.
        reason: &'static str,
    },
}

/// Names of the ConfigMaps and Secrets that the container's environment needs.
pub fn referenced_objects(container: &Container) -> (Vec<String>, Vec<String>) {
    let sources = container.env.iter().filter_map(|variable| variable.value_from.as_ref());
    let (mut config_maps, mut secrets): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
    for source in sources {
        config_maps.extend(source.config_map_key_ref.iter().map(|reference| reference.name.clone()));
        secrets.extend(source.secret_key_ref.iter().map(|reference| reference.name.clone()));
    }
    for source in &container.env_from {
        config_maps.extend(source.config_map_ref.iter().map(|reference| reference.name.clone()));
        secrets.extend(source.secret_ref.iter().map(|reference| reference.name.clone()));
    }
    for list in [&mut config_maps, &mut secrets] {
        list.sort();
        list.dedup();
    }
    (config_maps, secrets)
}

/// The environment in order. Variables of Services come first and yield to every other; `env` wins over `envFrom`.
pub fn environment(inputs: &EnvInputs<'_>) -> Result<Vec<(String, String)>, EnvError> {
    let mut made = Environment::default();
    for (name, value) in service_variables(inputs) {
        made.set(name, value);
    }
    add_whole_objects(inputs, &mut made)?;
    for variable in &inputs.container.env {
        if let Some(value) = variable_value(inputs, variable, &made)? {
            made.set(variable.name.clone(), value);
        }
    }
    Ok(made.entries)
}

/// Replaces `$(NAME)` by the variable's value; an unknown name stays as it is, and `$$(NAME)` is an escape.
pub fn expand(text: &str, variables: &[(String, String)]) -> String {
    expand_with(text, &|name| {
        variables.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.clone())
    })
}

/// A field of the pod as text, for `fieldRef` in variables and downward API files alike. Addresses are those given here:
/// the status in the object may be older.
pub fn field_value(
    pod: &Pod,
    path: &str,
    pod_ips: &[IpAddr],
    host_ips: &[IpAddr],
) -> Result<String, EnvError> {
    let join = |ips: &[IpAddr]| ips.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",");
    let first = |ips: &[IpAddr]| ips.first().map(IpAddr::to_string).unwrap_or_default();
    let lines = |map: &StringMap| {
        map.iter().map(|(key, value)| format!("{key}={}", quoted(value))).collect::<Vec<_>>().join("\n")
    };
    let meta = &pod.metadata;
    Ok(match path {
        "metadata.name" => meta.name.to_string(),
        "metadata.namespace" => meta.namespace.to_string(),
        "metadata.uid" => meta.uid.to_string(),
        "metadata.labels" => lines(&meta.labels),
        "metadata.annotations" => lines(&meta.annotations),
        "spec.nodeName" => pod.spec.node_name.clone(),
        "spec.serviceAccountName" => pod.spec.service_account_name.clone(),
        "status.hostIP" => first(host_ips),
        "status.hostIPs" => join(host_ips),
        "status.podIP" => first(pod_ips),
        "status.podIPs" => join(pod_ips),
        _ => {
            let (map, key) = subscript(path).ok_or_else(|| EnvError::Field { path: path.to_owned() })?;
            let entries = match map {
                "metadata.labels" => &meta.labels,
                "metadata.annotations" => &meta.annotations,
                _ => return Err(EnvError::Field { path: path.to_owned() }),
            };
            entries.get(key).unwrap_or_default().to_owned()
        }
    })
}

/// A request or limit as text, divided and rounded up.
pub fn resource_value(
    pod: &Pod,
    own: Option<&Container>,
    reference: &ResourceFieldRef,
    allocatable: &NodeAllocatable,
) -> Result<String, EnvError> {
    let fail = |reason: &'static str| EnvError::Resource {
        resource: reference.resource.clone(),
        container: reference.container_name.clone(),
        reason,
    };
    let container = if reference.container_name.is_empty() {
        own.ok_or_else(|| fail("name a container"))?
    } else {
        let mut named = pod.all_containers().filter(|container| container.name == reference.container_name);
        named.next().ok_or_else(|| fail("the pod has no such container"))?
    };
    let (kind, resource) =
        reference.resource.split_once('.').ok_or_else(|| fail("write requests.R or limits.R"))?;
    let given = match kind {
        "limits" => container.resources.limits.get(resource),
        "requests" => container.resources.requests.get(resource).or(container.resources.limits.get(resource)),
        _ => return Err(fail("write requests.R or limits.R")),
    };
    let unset = |whole: i64| if kind == "limits" { whole } else { 0 };
    let thousandths = match (given, resource) {
        (Some(quantity), _) => {
            resources::milli(quantity).ok_or_else(|| fail("the quantity does not parse"))?
        }
        (None, "cpu") => unset(allocatable.milli_cpu),
        (None, "memory") => unset(allocatable.memory).saturating_mul(1000),
        (None, "ephemeral-storage") => unset(allocatable.ephemeral_storage).saturating_mul(1000),
        (None, _) if resource.starts_with("hugepages-") => 0,
        (None, _) => return Err(fail("the node knows cpu, memory, ephemeral-storage and hugepages-SIZE")),
    };
    let one = Quantity("1".to_owned());
    let divisor = resources::milli(reference.divisor.as_ref().unwrap_or(&one)).filter(|divisor| *divisor > 0);
    let divisor = divisor.unwrap_or(1000);
    Ok((thousandths / divisor + i64::from(thousandths % divisor > 0)).to_string())
}

// === helpers ===

#[derive(Default)]
struct Environment {
    entries: Vec<(String, String)>,
}

impl Environment {
    /// A variable that is set again keeps its place.
    fn set(&mut self, name: String, value: String) {
        match self.entries.iter_mut().find(|(known, _)| *known == name) {
            Some(entry) => entry.1 = value,
            None => self.entries.push((name, value)),
        }
    }
}

fn service_variables(inputs: &EnvInputs<'_>) -> Vec<(String, String)> {
    let links = inputs.pod.spec.enable_service_links != Some(false);
    let mut variables = Vec::new();
    for service in inputs.services {
        let meta = &service.metadata;
        let api = &*meta.namespace == "default" && &*meta.name == "kubernetes";
        let own = links && meta.namespace == inputs.pod.metadata.namespace;
        let address = service.spec.cluster_ip.as_str();
        if !(api || own) || matches!(address, "" | "None") || service.spec.ports.is_empty() {
            continue;
        }
        variables.extend(variables_of(service));
    }
    variables
}

/// `X_SERVICE_HOST` and `X_SERVICE_PORT`, and the older link variables `X_PORT_80_TCP...`.
fn variables_of(service: &Service) -> Vec<(String, String)> {
    let name = variable_name(&service.metadata.name);
    let address = service.spec.cluster_ip.as_str();
    let bracketed = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
    let mut variables = vec![(format!("{name}_SERVICE_HOST"), address.to_owned())];
    if let Some(first) = service.spec.ports.first() {
        variables.push((format!("{name}_SERVICE_PORT"), first.port.to_string()));
    }
    for port in service.spec.ports.iter().filter(|port| !port.name.is_empty()) {
        variables.push((format!("{name}_SERVICE_PORT_{}", variable_name(&port.name)), port.port.to_string()));
    }
    for (index, port) in service.spec.ports.iter().enumerate() {
        let protocol = if port.protocol.is_empty() { "TCP" } else { port.protocol.as_str() };
        let lower = protocol.to_lowercase();
        let url = format!("{lower}://{bracketed}:{}", port.port);
        if index == 0 {
            variables.push((format!("{name}_PORT"), url.clone()));
        }
        let prefix = format!("{name}_PORT_{}_{protocol}", port.port);
        variables.push((prefix.clone(), url));
        variables.push((format!("{prefix}_PROTO"), lower));
        variables.push((format!("{prefix}_PORT"), port.port.to_string()));
        variables.push((format!("{prefix}_ADDR"), address.to_owned()));
    }
    variables
}

fn variable_name(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

fn add_whole_objects(inputs: &EnvInputs<'_>, made: &mut Environment) -> Result<(), EnvError> {
    for source in &inputs.container.env_from {
        if let Some(reference) = &source.config_map_ref {
            match inputs.config_maps.get(&reference.name) {
                Some(found) => {
                    for (key, value) in &found.data {
                        made.set(format!("{}{key}", source.prefix), value.clone());
                    }
                }
                None if reference.optional => {}
                None => return Err(absent("configmap", &reference.name)),
            }
        }
        if let Some(reference) = &source.secret_ref {
            match inputs.secrets.get(&reference.name) {
                Some(found) => {
                    for key in found.data.keys() {
                        let name = format!("{}{key}", source.prefix);
                        let value = secret_text(found, key, &name)?;
                        made.set(name, value);
                    }
                }
                None if reference.optional => {}
                None => return Err(absent("secret", &reference.name)),
            }
        }
    }
    Ok(())
}

fn absent(kind: &'static str, name: &str) -> EnvError {
    EnvError::ObjectAbsent { kind, name: name.to_owned() }
}

fn secret_text(secret: &Secret, key: &str, variable: &str) -> Result<String, EnvError> {
    let encoded = secret.data.get(key).map(String::as_str).unwrap_or_default();
    let bytes = BASE64.decode(encoded).ok();
    bytes.and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(|| EnvError::NotText {
        name: variable.to_owned(),
        secret: secret.metadata.name.to_string(),
        key: key.to_owned(),
    })
}

/// `None` for an optional reference to something absent: the variable is then not set at all.
fn variable_value(
    inputs: &EnvInputs<'_>,
    variable: &EnvVar,
    made: &Environment,
) -> Result<Option<String>, EnvError> {
    let Some(source) = &variable.value_from else { return Ok(Some(expand(&variable.value, &made.entries))) };
    if let Some(reference) = &source.field_ref {
        return field_value(inputs.pod, &reference.field_path, inputs.pod_ips, inputs.host_ips).map(Some);
    }
    if let Some(reference) = &source.resource_field_ref {
        return resource_value(inputs.pod, Some(inputs.container), reference, inputs.allocatable).map(Some);
    }
    if let Some(reference) = &source.config_map_key_ref {
        let Some(found) = inputs.config_maps.get(&reference.name) else {
            return if reference.optional { Ok(None) } else { Err(absent("configmap", &reference.name)) };
        };
        return match found.data.get(&reference.key) {
            Some(value) => Ok(Some(value.clone())),
            None => key_absent("ConfigMap", reference, inputs.pod),
        };
    }
    if let Some(reference) = &source.secret_key_ref {
        let Some(found) = inputs.secrets.get(&reference.name) else {
            return if reference.optional { Ok(None) } else { Err(absent("secret", &reference.name)) };
        };
        if !found.data.contains_key(&reference.key) {
            return key_absent("Secret", reference, inputs.pod);
        }
        return secret_text(found, &reference.key, &variable.name).map(Some);
    }
    Ok(Some(String::new()))
}

fn key_absent(kind: &'static str, reference: &KeyRef, pod: &Pod) -> Result<Option<String>, EnvError> {
    if reference.optional {
        return Ok(None);
    }
    Err(EnvError::KeyAbsent {
        kind,
        namespace: pod.metadata.namespace.to_string(),
        name: reference.name.clone(),
        key: reference.key.clone(),
    })
}

/// `metadata.labels['a']` in two parts.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once('[')?;
    let key = rest.strip_suffix(']')?;
    let key = key.trim_matches(|quote| quote == '\'' || quote == '"');
    Some((map, key))
}

/// Quoted as Go quotes: downward API files have this format.
fn quoted(text: &str) -> String {
    serde_json::Value::String(text.to_owned()).to_string()
}

fn expand_with(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|tail| tail.split_once(')')) {
            match lookup(name) {
                Some(value) => out.push_str(&value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = tail;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests;
