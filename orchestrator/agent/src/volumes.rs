//! A pod's volumes: directories made from ConfigMaps, Secrets, tokens and fields of the pod, scratch space, and paths of
//! the node. `prepare` makes them, `Keeper` keeps them current, `teardown` unmounts and removes them. Content is computed
//! in `payload`, written in `atomic`, mounted in `mounts`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use parking_lot::Mutex;

use crate::cluster::{Cluster, ClusterError, Lookup};
use crate::env::NodeAllocatable;
use crate::objects::{ConfigMap, Pod, Secret, Volume};
use crate::resources;

mod atomic;
mod host_path;
mod mounts;
mod payload;
mod tokens;

pub use mounts::{SubPaths, unmount_below};
use payload::Sources;
use tokens::Tokens;

/// Pause before a failed refresh of a volume is tried again; its pod runs on with the old content.
const REFRESH_RETRY: Duration = Duration::from_secs(10);

/// A volume that cannot be made: shown as `FailedMount` until it can.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// A ConfigMap or Secret is not there.
    #[error("volume \"{volume}\": {kind} \"{name}\" not found")]
    ObjectAbsent {
        /// Volume name.
        volume: String,
        /// `configmap` or `secret`.
        kind: &'static str,
        /// Object name.
        name: String,
    },
    /// An entry is not there.
    #[error("volume \"{volume}\": {object} references non-existent key: {key}")]
    KeyAbsent {
        /// Volume name.
        volume: String,
        /// Kind and name of the object.
        object: String,
        /// Entry.
        key: String,
    },
    /// A path that would leave the volume.
    #[error("volume \"{volume}\": path {path:?} must be relative and must not contain '..'")]
    BadPath {
        /// Volume name.
        volume: String,
        /// As written.
        path: String,
    },
    /// The source is not one that this node can make.
    #[error(
        "volume \"{volume}\": source {source_kind} is not supported (supported: configMap, secret, projected, downwardAPI, emptyDir, hostPath)"
    )]
    Unsupported {
        /// Volume name.
        volume: String,
        /// As written.
        source_kind: String,
    },
    /// A hostPath of another type.
    #[error("volume \"{volume}\": hostPath type check failed: {path} is not a {expected}")]
    HostPathType {
        /// Volume name.
        volume: String,
        /// Path on the node.
        path: String,
        /// What should be there.
        expected: &'static str,
    },
    /// A field or resource that does not exist.
    #[error("volume \"{volume}\": {reason}")]
    Field {
        /// Volume name.
        volume: String,
        /// What is wrong.
        reason: String,
    },
    /// The API server gave no token.
    #[error("volume \"{volume}\": failed to fetch token: {source}")]
    Token {
        /// Volume name.
        volume: String,
        /// Why.
        #[source]
        source: ClusterError,
    },
    /// The node's file system refused.
    #[error("volume \"{volume}\": {action} {path:?}: {source}")]
    Io {
        /// Volume name.
        volume: String,
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

/// A node's facts that volumes show.
#[derive(Clone, Debug, Default)]
pub struct NodeFacts {
    /// The node's addresses, first one first.
    pub host_ips: Vec<IpAddr>,
    /// What the node can give to pods.
    pub allocatable: NodeAllocatable,
}

/// Makes the volumes of this node's pods.
#[derive(Clone)]
pub struct Volumes {
    cluster: Arc<dyn Cluster>,
    facts: Arc<NodeFacts>,
    pods: PathBuf,
    tokens: Tokens,
}

/// The volumes of one pod, in place.
#[derive(Clone, Debug, Default)]
pub struct Prepared {
    /// Host path by volume name.
    pub paths: BTreeMap<String, PathBuf>,
    /// When the first token has to be replaced.
    refresh_at: Option<DateTime<Utc>>,
}

/// Keeps a pod's volumes current until dropped.
pub struct Keeper {
    pod: Arc<Mutex<(Arc<Pod>, Vec<IpAddr>)>>,
    changed: Arc<tokio::sync::Notify>,
    /// Some volume shows fields of the pod.
    shows_fields: bool,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Keeper {
    /// Tells of a new version of the pod, whose labels and annotations its volumes may show.
    pub fn update(&self, pod: &Arc<Pod>, ips: &[IpAddr]) {
        let mut held = self.pod.lock();
        let same = held.0.metadata.labels == pod.metadata.labels
            && held.0.metadata.annotations == pod.metadata.annotations
            && held.1 == ips;
        *held = (pod.clone(), ips.to_vec());
        if !same && self.shows_fields {
            self.changed.notify_one();
        }
    }
}

// === impl Volumes ===

impl Volumes {
    /// Volumes live below `pods`, one directory a pod.
    pub fn new(cluster: Arc<dyn Cluster>, facts: Arc<NodeFacts>, pods: PathBuf) -> Self {
        Volumes { tokens: Tokens::new(cluster.clone()), cluster, facts, pods }
    }

    /// The directory of everything that the node keeps for a pod.
    pub fn pod_directory(&self, uid: &str) -> PathBuf {
        self.pods.join(uid)
    }

    /// Uids that have a directory: pods of an earlier life of this agent among them.
    pub fn known_uids(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(&self.pods) else { return Vec::new() };
        entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// Makes all volumes of a pod, in parallel. Idempotent: an existing scratch directory keeps its content.
    pub async fn prepare(&self, pod: &Arc<Pod>, ips: &[IpAddr]) -> Result<Prepared, VolumeError> {
        let made = pod.spec.volumes.iter().map(|volume| self.prepare_one(pod, volume, ips));
        let mut prepared = Prepared::default();
        for (volume, result) in pod.spec.volumes.iter().zip(futures::future::join_all(made).await) {
            let (path, refresh_at) = result?;
            prepared.paths.insert(volume.name.clone(), path);
            prepared.refresh_at = earlier(prepared.refresh_at, refresh_at);
        }
        Ok(prepared)
    }

    /// Keeps the pod's volumes current from now on; `None` when nothing in them can change.
    pub fn keep(&self, pod: &Arc<Pod>, ips: &[IpAddr], prepared: &Prepared) -> Option<Keeper> {
        if !pod.spec.volumes.iter().any(can_change) {
            return None;
        }
        let held = Arc::new(Mutex::new((pod.clone(), ips.to_vec())));
        let changed = Arc::new(tokio::sync::Notify::new());
        let task =
            tokio::spawn(self.clone().refresh_forever(held.clone(), changed.clone(), prepared.refresh_at));
        let shows_fields = pod.spec.volumes.iter().any(shows_fields);
        Some(Keeper { pod: held, changed, shows_fields, task })
    }

    /// Unmounts and removes everything that was made for a pod.
    pub fn teardown(&self, uid: &str) -> std::io::Result<()> {
        self.tokens.forget(uid);
        let directory = self.pod_directory(uid);
        unmount_below(&directory)?;
        match std::fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    async fn prepare_one(
        &self,
        pod: &Arc<Pod>,
        volume: &Volume,
        ips: &[IpAddr],
    ) -> Result<(PathBuf, Option<DateTime<Utc>>), VolumeError> {
        if let Some(source) = &volume.host_path {
            host_path::check(&volume.name, source)?;
            return Ok((PathBuf::from(&source.path), None));
        }
        let group = pod.spec.security_context.fs_group;
        if let Some(source) = &volume.empty_dir {
            let directory = self.directory(pod, "empty-dir", volume);
            let in_memory = source.medium == "Memory";
            let limit = source.size_limit.as_ref().and_then(resources::units);
            mounts::scratch(&volume.name, &directory, in_memory, limit, group)?;
            return Ok((directory, None));
        }
        let Some(kind) = content_kind(volume) else {
            let source_kind = volume.other.keys().next().cloned().unwrap_or_else(|| "(none)".to_owned());
            return Err(VolumeError::Unsupported { volume: volume.name.clone(), source_kind });
        };
        let sources = self.sources(pod, volume);
        let payload = payload::collect(&self.tokens, &self.facts, pod, volume, ips, &sources).await?;
        let directory = self.directory(pod, kind, volume);
        if payload.sensitive {
            mounts::memory_backed(&volume.name, &directory)?;
        }
        atomic::write(&volume.name, &directory, &payload.files, group)?;
        Ok((directory, payload.refresh_at))
    }

    fn directory(&self, pod: &Pod, kind: &str, volume: &Volume) -> PathBuf {
        let directory = self.pod_directory(&pod.metadata.uid);
        directory.join("volumes").join(format!("kubernetes.io~{kind}")).join(&volume.name)
    }

    fn sources(&self, pod: &Pod, volume: &Volume) -> Sources {
        let (config_maps, secrets) = payload::referenced(volume);
        let namespace = &pod.metadata.namespace;
        let follow_map = |name: String| (name.clone(), self.cluster.config_map(namespace, &name));
        let follow_secret = |name: String| (name.clone(), self.cluster.secret(namespace, &name));
        Sources {
            config_maps: config_maps.into_iter().map(follow_map).collect(),
            secrets: secrets.into_iter().map(follow_secret).collect(),
        }
    }

    async fn refresh_forever(
        self,
        held: Arc<Mutex<(Arc<Pod>, Vec<IpAddr>)>>,
        changed: Arc<tokio::sync::Notify>,
        mut refresh_at: Option<DateTime<Utc>>,
    ) {
        let pod = held.lock().0.clone();
        let mut lookups: Vec<AnyLookup> = Vec::new();
        for volume in &pod.spec.volumes {
            let sources = self.sources(&pod, volume);
            lookups.extend(sources.config_maps.into_values().map(AnyLookup::ConfigMap));
            lookups.extend(sources.secrets.into_values().map(AnyLookup::Secret));
        }
        for lookup in &mut lookups {
            lookup.settle().await;
        }
        loop {
            tokio::select! {
                () = any_changed(&mut lookups) => {}
                () = changed.notified() => {}
                () = until(refresh_at) => {}
            }
            let (pod, ips) = held.lock().clone();
            refresh_at = match self.prepare(&pod, &ips).await {
                Ok(prepared) => prepared.refresh_at,
                // With its namespace go the objects of a pod that ends: it needs no news any more.
                Err(_) if pod.metadata.deletion_timestamp.is_some() => None,
                Err(error) => {
                    tracing::warn!(pod = %pod.reference(), %error, "volumes keep their old content");
                    Some(Utc::now() + REFRESH_RETRY)
                }
            };
        }
    }
}

enum AnyLookup {
    ConfigMap(Lookup<ConfigMap>),
    Secret(Lookup<Secret>),
}

impl AnyLookup {
    /// Waits for the first answer and takes it as seen: `prepare` has used it already.
    async fn settle(&mut self) {
        match self {
            AnyLookup::ConfigMap(lookup) => drop(lookup.seen().await),
            AnyLookup::Secret(lookup) => drop(lookup.seen().await),
        }
    }

    async fn changed(&mut self) {
        match self {
            AnyLookup::ConfigMap(lookup) => lookup.changed().await,
            AnyLookup::Secret(lookup) => lookup.changed().await,
        }
    }
}

async fn any_changed(lookups: &mut [AnyLookup]) {
    if lookups.is_empty() {
        return std::future::pending().await;
    }
    let waiting = lookups.iter_mut().map(|lookup| Box::pin(lookup.changed()));
    futures::future::select_all(waiting).await;
}

async fn until(at: Option<DateTime<Utc>>) {
    match at {
        Some(at) => tokio::time::sleep((at - Utc::now()).to_std().unwrap_or_default()).await,
        None => std::future::pending().await,
    }
}

fn earlier(a: Option<DateTime<Utc>>, b: Option<DateTime<Utc>>) -> Option<DateTime<Utc>> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

fn content_kind(volume: &Volume) -> Option<&'static str> {
    [
        (volume.config_map.is_some(), "configmap"),
        (volume.secret.is_some(), "secret"),
        (volume.downward_api.is_some(), "downward-api"),
        (volume.projected.is_some(), "projected"),
    ]
    .into_iter()
    .find_map(|(set, kind)| set.then_some(kind))
}

fn can_change(volume: &Volume) -> bool {
    content_kind(volume).is_some()
}

fn shows_fields(volume: &Volume) -> bool {
    let mut sources = volume.projected.iter().flat_map(|projected| &projected.sources);
    volume.downward_api.is_some() || sources.any(|source| source.downward_api.is_some())
}

/// True where `path` names something below a volume and nothing else.
fn stays_inside(path: &str) -> bool {
    let path = Path::new(path);
    path.components().next().is_some()
        && path.components().all(|part| matches!(part, std::path::Component::Normal(_)))
}

#[cfg(test)]
mod tests;
