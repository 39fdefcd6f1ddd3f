//! Computes the files of a volume from its sources. No file system.

use std::collections::BTreeMap;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chrono::{DateTime, Utc};

use super::tokens::Tokens;
use super::{NodeFacts, VolumeError, stays_inside};
use crate::cluster::Lookup;
use crate::env;
use crate::objects::{
    ConfigMap, DownwardVolume, KeyToPath, Pod, ProjectedSource, Secret, TokenSource, Volume,
};

/// Mode of files when the volume says nothing.
const MODE_DEFAULT: u32 = 0o644;
/// Life of a token when the volume says nothing.
const TOKEN_SECONDS_DEFAULT: i64 = 3600;
/// One file of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct File {
    pub(super) content: Vec<u8>,
    pub(super) mode: u32,
    /// Owner, where it is not root.
    pub(super) owner: Option<u32>,
}

/// Relative path to file.
pub(super) type Files = BTreeMap<String, File>;

/// The content of a volume.
#[derive(Debug, Default)]
pub(super) struct Payload {
    pub(super) files: Files,
    /// Kept in memory only.
    pub(super) sensitive: bool,
    /// When the content has to be made anew.
    pub(super) refresh_at: Option<DateTime<Utc>>,
}

/// Objects that a volume reads, being followed.
#[derive(Default)]
pub(super) struct Sources {
    pub(super) config_maps: BTreeMap<String, Lookup<ConfigMap>>,
    pub(super) secrets: BTreeMap<String, Lookup<Secret>>,
}

/// Names of the ConfigMaps and Secrets that a volume reads.
pub(super) fn referenced(volume: &Volume) -> (Vec<String>, Vec<String>) {
    let mut config_maps: Vec<String> = volume.config_map.iter().map(|source| source.name.clone()).collect();
    let mut secrets: Vec<String> = volume.secret.iter().map(|source| source.secret_name.clone()).collect();
    for source in volume.projected.iter().flat_map(|projected| &projected.sources) {
        config_maps.extend(source.config_map.iter().map(|object| object.name.clone()));
        secrets.extend(source.secret.iter().map(|object| object.name.clone()));
    }
    (config_maps, secrets)
}

/// The files of a volume. Waits for objects whose state is not known yet.
pub(super) async fn collect(
    tokens: &Tokens,
    facts: &NodeFacts,
    pod: &Pod,
    volume: &Volume,
    ips: &[IpAddr],
    sources: &Sources,
) -> Result<Payload, VolumeError> {
    let mut collector = Collector { tokens, facts, pod, volume, ips, sources, payload: Payload::default() };
    if let Some(source) = &volume.config_map {
        let mode = source.default_mode.unwrap_or(MODE_DEFAULT);
        collector.config_map(&source.name, &source.items, mode, source.optional).await?;
    }
    if let Some(source) = &volume.secret {
        let mode = source.default_mode.unwrap_or(MODE_DEFAULT);
        collector.secret(&source.secret_name, &source.items, mode, source.optional).await?;
    }
    if let Some(source) = &volume.downward_api {
        collector.downward(source, source.default_mode.unwrap_or(MODE_DEFAULT))?;
    }
    if let Some(projected) = &volume.projected {
        let mode = projected.default_mode.unwrap_or(MODE_DEFAULT);
        for source in &projected.sources {
            collector.projected(source, mode).await?;
        }
    }
    Ok(collector.payload)
}

struct Collector<'a> {
    tokens: &'a Tokens,
    facts: &'a NodeFacts,
    pod: &'a Pod,
    volume: &'a Volume,
    ips: &'a [IpAddr],
    sources: &'a Sources,
    payload: Payload,
}

// === impl Collector ===

impl Collector<'_> {
    async fn projected(&mut self, source: &ProjectedSource, mode: u32) -> Result<(), VolumeError> {
        if let Some(object) = &source.config_map {
            self.config_map(&object.name, &object.items, mode, object.optional).await?;
        }
        if let Some(object) = &source.secret {
            self.secret(&object.name, &object.items, mode, object.optional).await?;
        }
        if let Some(downward) = &source.downward_api {
            self.downward(downward, mode)?;
        }
        if let Some(token) = &source.service_account_token {
            self.token(token, mode).await?;
        }
        Ok(())
    }

    async fn config_map(
        &mut self,
        name: &str,
        items: &[KeyToPath],
        mode: u32,
        optional: bool,
    ) -> Result<(), VolumeError> {
        let found = match self.sources.config_maps.get(name) {
            Some(lookup) => lookup.get().await,
            None => None,
        };
        let Some(found) = found else { return self.absent("configmap", name, optional) };
        let text = found.data.iter().map(|(key, value)| (key.clone(), value.clone().into_bytes()));
        let binary = found.binary_data.iter().map(|(key, value)| (key.clone(), decode(value)));
        let entries = text.chain(binary).collect();
        self.entries(&format!("configmap {name}"), &entries, items, mode, optional)
    }

    async fn secret(
        &mut self,
        name: &str,
        items: &[KeyToPath],
        mode: u32,
        optional: bool,
    ) -> Result<(), VolumeError> {
        self.payload.sensitive = true;
        let found = match self.sources.secrets.get(name) {
            Some(lookup) => lookup.get().await,
            None => None,
        };
        let Some(found) = found else { return self.absent("secret", name, optional) };
        let entries = found.data.iter().map(|(key, value)| (key.clone(), decode(value))).collect();
        self.entries(&format!("secret {name}"), &entries, items, mode, optional)
    }

    fn absent(&self, kind: &'static str, name: &str, optional: bool) -> Result<(), VolumeError> {
        if optional {
            return Ok(());
        }
        Err(VolumeError::ObjectAbsent { volume: self.volume.name.clone(), kind, name: name.to_owned() })
    }

    /// All entries under their own names, or the selected ones under theirs.
    fn entries(
        &mut self,
        object: &str,
        entries: &BTreeMap<String, Vec<u8>>,
        items: &[KeyToPath],
        mode: u32,
        optional: bool,
    ) -> Result<(), VolumeError> {
        if items.is_empty() {
            for (key, content) in entries {
                self.add(key, content.clone(), mode, None)?;
            }
            return Ok(());
        }
        for item in items {
            match entries.get(&item.key) {
                Some(content) => self.add(&item.path, content.clone(), item.mode.unwrap_or(mode), None)?,
                None if optional => {}
                None => {
                    return Err(VolumeError::KeyAbsent {
                        volume: self.volume.name.clone(),
                        object: object.to_owned(),
                        key: item.key.clone(),
                    });
                }
            }
        }
        Ok(())
    }

    fn downward(&mut self, source: &DownwardVolume, mode: u32) -> Result<(), VolumeError> {
        for item in &source.items {
            let value = if let Some(field) = &item.field_ref {
                env::field_value(self.pod, &field.field_path, self.ips, &self.facts.host_ips)
            } else if let Some(resource) = &item.resource_field_ref {
                env::resource_value(self.pod, None, resource, &self.facts.allocatable)
            } else {
                continue;
            };
            let value = value.map_err(|error| VolumeError::Field {
                volume: self.volume.name.clone(),
                reason: error.to_string(),
            })?;
            self.add(&item.path, value.into_bytes(), item.mode.unwrap_or(mode), None)?;
        }
        Ok(())
    }

    async fn token(&mut self, source: &TokenSource, mode: u32) -> Result<(), VolumeError> {
        self.payload.sensitive = true;
        let account = match self.pod.spec.service_account_name.as_str() {
            "" => "default",
            name => name,
        };
        let seconds = source.expiration_seconds.unwrap_or(TOKEN_SECONDS_DEFAULT);
        let token = self
            .tokens
            .get(&self.pod.reference(), account, &source.audience, seconds)
            .await
            .map_err(|source| VolumeError::Token { volume: self.volume.name.clone(), source })?;
        self.payload.refresh_at = super::earlier(self.payload.refresh_at, Some(token.refresh_at));
        let (mode, owner) = self.token_owner(mode);
        self.add(&source.path, token.text.into_bytes(), mode, owner)
    }

    /// A token is readable by those who run in the pod and, where that can be told, by nobody else.
    fn token_owner(&self, mode: u32) -> (u32, Option<u32>) {
        if self.pod.spec.security_context.fs_group.is_some() {
            return (0o600, None);
        }
        let pod_user = self.pod.spec.security_context.run_as_user;
        let mut users =
            self.pod.all_containers().map(|container| container.security_context.run_as_user.or(pod_user));
        let first = users.next().flatten().and_then(|user| u32::try_from(user).ok());
        match first {
            Some(user) if users.all(|other| other == Some(i64::from(user))) => (0o600, Some(user)),
            _ => (mode, None),
        }
    }

    fn add(
        &mut self,
        path: &str,
        content: Vec<u8>,
        mode: u32,
        owner: Option<u32>,
    ) -> Result<(), VolumeError> {
        if !stays_inside(path) {
            return Err(VolumeError::BadPath { volume: self.volume.name.clone(), path: path.to_owned() });
        }
        self.payload.files.insert(path.to_owned(), File { content, mode, owner });
        Ok(())
    }
}

/// The API server validates base64 on write; what does not decode was never accepted.
fn decode(text: &str) -> Vec<u8> {
    BASE64.decode(text).unwrap_or_default()
}
