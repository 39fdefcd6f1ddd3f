//! Which resources a server has.
use serde::Deserialize;

use crate::{ApiResource, Client, Error};

/// A resource and what can be done with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discovered {
    /// Its names.
    pub resource: ApiResource,
    /// Verbs, such as `list`.
    pub verbs: Vec<String>,
}

#[derive(Deserialize)]
struct GroupList {
    #[serde(default)]
    groups: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Group {
    preferred_version: GroupVersion,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct GroupVersion {
    group_version: String,
}

#[derive(Deserialize)]
struct ResourceList {
    #[serde(default)]
    resources: Vec<Listed>,
}

#[derive(Deserialize)]
struct Listed {
    name: String,
    kind: String,
    namespaced: bool,
    #[serde(default)]
    verbs: Vec<String>,
}

impl Discovered {
    /// Whether the resource has a verb.
    pub fn has(&self, verb: &str) -> bool {
        self.verbs.iter().any(|own| own == verb)
    }
}

/// All resources, subresources left out, each group in its preferred version.
pub async fn discover(client: &Client) -> Result<Vec<Discovered>, Error> {
    let groups: GroupList = client.get_path("/apis").await?;
    let mut versions = vec![String::from("v1")];
    versions.extend(groups.groups.into_iter().map(|group| group.preferred_version.group_version));
    let mut found = Vec::new();
    for group_version in versions {
        let (prefix, (group, version)) = match group_version.split_once('/') {
            Some(parts) => ("/apis", parts),
            None => ("/api", ("", group_version.as_str())),
        };
        let list: ResourceList = client.get_path(&format!("{prefix}/{group_version}")).await?;
        found.extend(list.resources.into_iter().filter(|listed| !listed.name.contains('/')).map(|listed| {
            let resource = ApiResource {
                group: group.into(),
                version: version.into(),
                plural: listed.name,
                kind: listed.kind,
                namespaced: listed.namespaced,
            };
            Discovered { resource, verbs: listed.verbs }
        }));
    }
    Ok(found)
}
