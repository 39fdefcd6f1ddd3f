//! What the runtime asks: the plugin's environment and standard input, as they cross the socket.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{
    VERSIONS,
    answer::{CniError, code},
};

/// One call of the plugin.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Request {
    /// CNI_COMMAND.
    pub command: String,
    /// CNI_CONTAINERID.
    pub container: String,
    /// CNI_NETNS.
    pub netns: String,
    /// CNI_IFNAME.
    pub ifname: String,
    /// CNI_ARGS.
    pub args: String,
    /// Standard input: the network configuration.
    pub config: serde_json::Value,
}

/// CNI_COMMAND.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Make the device.
    Add,
    /// Remove it.
    Del,
    /// Look whether it is as it was made.
    Check,
    /// Say which versions are spoken.
    Version,
}

/// What identifies a pod in CNI_ARGS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PodArgs {
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// Runtimes before containerd 1.6 do not say it.
    pub(crate) uid: Option<String>,
}

/// CNI ids may be as long as a file name; longer ones are somebody's mistake.
const ID_BYTES_MAX: usize = 255;

/// Names of network devices have 15 bytes in the kernel.
const IFNAME_BYTES_MAX: usize = 15;

// === impl Request ===

impl Request {
    /// What is asked for.
    pub fn command(&self) -> Result<Command, CniError> {
        match &*self.command {
            "ADD" => Ok(Command::Add),
            "DEL" => Ok(Command::Del),
            "CHECK" => Ok(Command::Check),
            "VERSION" => Ok(Command::Version),
            other => Err(CniError::new(
                code::ENVIRONMENT,
                format!("CNI_COMMAND is `{other}`: it must be ADD, DEL, CHECK or VERSION"),
            )),
        }
    }

    /// The version that the answer must have.
    pub fn version(&self) -> &str {
        // 0.1.0 is what a configuration without a version means.
        self.config.get("cniVersion").and_then(serde_json::Value::as_str).unwrap_or("0.1.0")
    }

    /// Refuses versions whose answers we cannot write.
    pub(crate) fn check_version(&self) -> Result<(), CniError> {
        if VERSIONS.contains(&self.version()) {
            return Ok(());
        }
        let message = format!("CNI version {} is not supported", self.version());
        Err(CniError::new(code::VERSION, message).details(format!("supported: {}", VERSIONS.join(", "))))
    }

    /// Refuses ids and names that cannot be right.
    pub(crate) fn check_names(&self) -> Result<(), CniError> {
        let bad = |what: &str, value: &str| {
            Err(CniError::new(code::ENVIRONMENT, format!("{what} is `{value}`, which is not a valid name")))
        };
        let id = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if self.container.is_empty() || self.container.len() > ID_BYTES_MAX || !self.container.chars().all(id)
        {
            return bad("CNI_CONTAINERID", &self.container);
        }
        let device = |c: char| !c.is_whitespace() && c != '/' && c != ':';
        if self.ifname.is_empty() || self.ifname.len() > IFNAME_BYTES_MAX || !self.ifname.chars().all(device)
        {
            return bad("CNI_IFNAME", &self.ifname);
        }
        Ok(())
    }

    /// The namespace's path, which ADD and CHECK need.
    pub(crate) fn netns(&self) -> Result<PathBuf, CniError> {
        if self.netns.is_empty() {
            return Err(CniError::new(code::ENVIRONMENT, "CNI_NETNS is empty"));
        }
        Ok(self.netns.clone().into())
    }

    /// The pod that CNI_ARGS names.
    pub(crate) fn pod(&self) -> Result<PodArgs, CniError> {
        let value = |key: &str| {
            let found = self.args.split(';').filter_map(|pair| pair.split_once('=')).find(|(k, _)| *k == key);
            found.map(|(_, value)| value.to_owned()).filter(|value| !value.is_empty())
        };
        match (value("K8S_POD_NAMESPACE"), value("K8S_POD_NAME")) {
            (Some(namespace), Some(name)) => Ok(PodArgs { namespace, name, uid: value("K8S_POD_UID") }),
            _ => Err(CniError::new(
                code::ENVIRONMENT,
                "CNI_ARGS names no pod: K8S_POD_NAMESPACE and K8S_POD_NAME are needed",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pod_comes_from_the_arguments() {
        let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-1;K8S_POD_INFRA_CONTAINER_ID=abc";
        let request = Request { args: args.into(), ..Request::default() };
        let pod = request.pod().unwrap();
        assert_eq!((&*pod.namespace, &*pod.name, pod.uid), ("shop", "web-1", None));
        let error = Request::default().pod().unwrap_err();
        assert_eq!(error.code, code::ENVIRONMENT);
    }

    #[test]
    fn names_that_would_leave_a_directory_are_refused() {
        let request = |container: &str, ifname: &str| Request {
            container: container.into(),
            ifname: ifname.into(),
            ..Request::default()
        };
        assert!(request("0a1b-2", "eth0").check_names().is_ok());
        assert!(request("../etc", "eth0").check_names().is_err());
        assert!(request("0a", "a/b").check_names().is_err());
        assert!(request("0a", "sixteen-bytes-xx").check_names().is_err());
        assert!(request("", "eth0").check_names().is_err());
    }
}
