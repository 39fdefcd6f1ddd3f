//! Which resource a Rust type is a projection of.
use serde::de::DeserializeOwned;

use crate::{Meta, informer::IndexFn};

/// Names of a resource in the API.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ApiResource {
    /// API group; empty for the core group.
    pub group: String,
    /// API version of the group.
    pub version: String,
    /// Plural, as in paths.
    pub plural: String,
    /// Kind, as in objects.
    pub kind: String,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
}

/// Anything read from the API.
pub trait HasMeta: DeserializeOwned + Send + Sync + 'static {
    /// The object's metadata.
    fn meta(&self) -> &Meta;
}

/// A projection of one kind: a struct with the fields that its reader uses. Implement it with [`crate::resource!`].
pub trait Resource: HasMeta {
    /// API group; empty for the core group.
    const GROUP: &'static str;
    /// API version of the group.
    const VERSION: &'static str;
    /// Plural, as in paths.
    const PLURAL: &'static str;
    /// Kind, as in objects.
    const KIND: &'static str;
    /// Whether objects live in namespaces.
    const NAMESPACED: bool;

    /// Indexes that informers of this projection keep, by name.
    fn indexes() -> Vec<(&'static str, IndexFn<Self>)> {
        Vec::new()
    }

    /// The names as a value.
    fn api_resource() -> ApiResource {
        ApiResource {
            group: Self::GROUP.into(),
            version: Self::VERSION.into(),
            plural: Self::PLURAL.into(),
            kind: Self::KIND.into(),
            namespaced: Self::NAMESPACED,
        }
    }
}

impl ApiResource {
    /// `apiVersion` of its objects.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// Path of the collection; with an empty namespace, over all namespaces.
    pub(crate) fn collection_path(&self, namespace: &str) -> String {
        let mut path = match self.group.as_str() {
            "" => format!("/api/{}", self.version),
            group => format!("/apis/{group}/{}", self.version),
        };
        if self.namespaced && !namespace.is_empty() {
            path.push_str("/namespaces/");
            crate::query::push_segment(&mut path, namespace);
        }
        path.push('/');
        path.push_str(&self.plural);
        path
    }

    /// Path of an object or of one of its subresources.
    pub(crate) fn object_path(&self, namespace: &str, name: &str, subresource: Option<&str>) -> String {
        let mut path = self.collection_path(namespace);
        path.push('/');
        crate::query::push_segment(&mut path, name);
        if let Some(subresource) = subresource {
            path.push('/');
            path.push_str(subresource);
        }
        path
    }
}

/// Makes a struct with a field `metadata: Meta` the projection of a kind:
/// `resource!(Pod: "" / "v1" / "pods", "Pod", namespaced)`, optionally followed by indexes:
/// `, index { "node" => |pod, add| add(&pod.spec.node_name) }`.
#[macro_export]
macro_rules! resource {
    ($type:ty : $group:literal / $version:literal / $plural:literal, $kind:literal, $scope:ident
        $(, index { $($index:literal => $function:expr),+ $(,)? })? $(,)?) => {
        impl $crate::HasMeta for $type {
            fn meta(&self) -> &$crate::Meta {
                &self.metadata
            }
        }
        impl $crate::Resource for $type {
            const GROUP: &'static str = $group;
            const VERSION: &'static str = $version;
            const PLURAL: &'static str = $plural;
            const KIND: &'static str = $kind;
            const NAMESPACED: bool = $crate::resource!(@scope $scope);
            $(fn indexes() -> Vec<(&'static str, $crate::informer::IndexFn<Self>)> {
                vec![$(($index, $function as $crate::informer::IndexFn<Self>)),+]
            })?
        }
    };
    (@scope namespaced) => { true };
    (@scope cluster) => { false };
}
