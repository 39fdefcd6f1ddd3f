//! Content negotiation: which encoding and which shape a client takes, from its `Accept` header.

use api::ApiError;
use http::{HeaderMap, header};

/// What responses can be encoded as; named when nothing fits.
pub const SUPPORTED: &[&str] = &["application/json", "application/yaml"];

/// How a response is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Encoding {
    /// JSON.
    #[default]
    Json,
    /// YAML.
    Yaml,
}

/// What is made of the objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Shape {
    /// The objects themselves.
    #[default]
    Object,
    /// `meta.k8s.io` Table.
    Table,
    /// `meta.k8s.io` PartialObjectMetadata or its list.
    Partial,
}

/// What to answer with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Accepted {
    /// The encoding.
    pub encoding: Encoding,
    /// The shape.
    pub shape: Shape,
}

// === impl Encoding ===

impl Encoding {
    /// The `Content-Type` of a response.
    pub fn content_type(self) -> &'static str {
        match self {
            Encoding::Json => "application/json",
            Encoding::Yaml => "application/yaml",
        }
    }
}

// === impl Accepted ===

impl Accepted {
    /// Whether stored bytes can be sent as they are.
    pub fn is_plain(self) -> bool {
        self == Self::default()
    }

    /// Reads `Accept`: the first clause of the highest weight that we can do.
    pub fn from_headers(headers: &HeaderMap) -> Result<Self, ApiError> {
        let mut best: Option<(u16, Self)> = None;
        let mut asked = false;
        for value in headers.get_all(header::ACCEPT) {
            for clause in value.to_str().unwrap_or_default().split(',') {
                asked = true;
                let Some((weight, accepted)) = clause_of(clause) else { continue };
                if weight > 0 && best.is_none_or(|(heaviest, _)| weight > heaviest) {
                    best = Some((weight, accepted));
                }
            }
        }
        match best {
            Some((_, accepted)) => Ok(accepted),
            None if asked => Err(ApiError::not_acceptable(SUPPORTED)),
            None => Ok(Self::default()),
        }
    }
}

/// One clause's weight in thousandths, and what it asks for.
fn clause_of(clause: &str) -> Option<(u16, Accepted)> {
    let mut parts = clause.split(';').map(str::trim);
    let encoding = match parts.next()? {
        "application/json" | "*/*" | "application/*" => Encoding::Json,
        "application/yaml" | "application/x-yaml" | "text/yaml" => Encoding::Yaml,
        _ => return None,
    };
    let (mut weight, mut shape, mut meta, mut version) = (1000, Shape::Object, true, true);
    for part in parts {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        match key {
            "q" => weight = (value.parse::<f32>().ok()? * 1000.0) as u16,
            "as" => {
                shape = match value {
                    "Table" => Shape::Table,
                    "PartialObjectMetadata" | "PartialObjectMetadataList" => Shape::Partial,
                    _ => return None,
                }
            }
            "g" => meta = value == "meta.k8s.io",
            "v" => version = value == "v1",
            _ => {}
        }
    }
    // Only v1 of tables and partial objects is served; clients name v1beta1 as a second choice.
    (shape == Shape::Object || (meta && version)).then_some((weight, Accepted { encoding, shape }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(accept: &str, expect: Option<(Encoding, Shape)>) {
        let mut headers = HeaderMap::new();
        if !accept.is_empty() {
            headers.insert(header::ACCEPT, accept.parse().unwrap());
        }
        let got = Accepted::from_headers(&headers).ok().map(|a| (a.encoding, a.shape));
        assert_eq!(got, expect, "{accept}");
    }

    #[test]
    fn takes_the_first_of_the_heaviest_that_it_can_do() {
        check("", Some((Encoding::Json, Shape::Object)));
        check("*/*", Some((Encoding::Json, Shape::Object)));
        check("application/vnd.kubernetes.protobuf,application/json", Some((Encoding::Json, Shape::Object)));
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        check(kubectl, Some((Encoding::Json, Shape::Table)));
        check(
            "application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
            Some((Encoding::Json, Shape::Object)),
        );
        let partial = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
        check(partial, Some((Encoding::Json, Shape::Partial)));
        check("application/json;q=0.5,application/yaml", Some((Encoding::Yaml, Shape::Object)));
        check("application/vnd.kubernetes.protobuf", None);
        check("text/html", None);
    }
}
