//! Certificates for nodes: requests that a node may make are approved and signed, everything else is left to people.
//!
//! The authority itself is behind [`Authority`]: this crate knows when to sign, not how. A node that joins asks with a
//! bootstrap token for a client certificate in its own name; a node that has one renews it and asks for a serving one.
use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::Utc;
use client::{
    Error, Meta, Patch,
    objects::{nullable, rfc3339},
};
use serde::Deserialize;
use serde_json::json;

use crate::{
    Context,
    objects::{Condition, condition},
    work::{Next, WorkQueue, follow, sides},
};

/// Signs client certificates of nodes.
pub const NODE_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Signs serving certificates of nodes.
pub const NODE_SERVING: &str = "kubernetes.io/kubelet-serving";
/// Requests worked on at a time: signing is a millisecond of CPU.
const WORKERS: usize = 2;

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// To authenticate as the node.
    NodeClient,
    /// To serve as the node.
    NodeServing,
}

/// The cluster's authority.
pub trait Authority: Send + Sync {
    /// Checks a request (PEM) against the rules for nodes; returns the node's name, or why it is refused.
    fn node_name(&self, request: &str, usage: Usage) -> Result<String, String>;
    /// Signs a request that was checked; returns the certificate as PEM, or why it cannot.
    fn sign(&self, request: &str, usage: Usage) -> Result<String, String>;
}

/// A request.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Request {
    metadata: Meta,
    spec: Spec,
    status: Status,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    /// PEM in base64.
    request: Box<str>,
    signer_name: Box<str>,
    /// Who asks, as the API server noted it.
    username: Box<str>,
    #[serde(deserialize_with = "nullable")]
    groups: Vec<Box<str>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Status {
    #[serde(deserialize_with = "nullable")]
    conditions: Vec<Condition>,
    /// PEM in base64; set once it is signed.
    #[serde(deserialize_with = "nullable")]
    certificate: Box<str>,
}

client::resource!(Request: "certificates.k8s.io" / "v1" / "certificatesigningrequests", "CertificateSigningRequest", cluster);

/// What to do with a request.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Nothing,
    Approve { message: String },
    Sign(Usage),
    Fail { message: String },
}

/// Runs the controller.
pub async fn run(ctx: Context, authority: Arc<dyn Authority>) {
    let requests = ctx.informers.get::<Request>();
    let queue = WorkQueue::default();
    requests.synced().await;
    let reconcile = |name: Box<str>| {
        let (ctx, authority, store) = (&ctx, &authority, requests.store());
        async move {
            let Some(request) = store.get(&client::ObjectKey::new("", &name)) else { return Ok(Next::Done) };
            act(ctx, &**authority, &request).await
        }
    };
    tokio::join!(
        follow(requests.subscribe(), |delta| sides(&delta)
            .for_each(|request| queue.add(request.metadata.name.clone()))),
        queue.work("certificates", &ctx.metrics, WORKERS, reconcile),
    );
}

async fn act(ctx: &Context, authority: &dyn Authority, request: &Request) -> Result<Next, Error> {
    let name = &request.metadata.name;
    let (subresource, status) = match decide(authority, request) {
        Step::Nothing => return Ok(Next::Done),
        Step::Approve { message } => {
            tracing::info!(request = &**name, why = message, "approving a certificate");
            ("approval", with_condition(request, "Approved", "AutoApproved", &message))
        }
        Step::Sign(usage) => match authority.sign(&pem(request), usage) {
            Ok(certificate) => ("status", json!({ "certificate": STANDARD.encode(certificate) })),
            Err(message) => {
                ("status", with_condition(request, "Failed", "SignerValidationFailure", &message))
            }
        },
        Step::Fail { message } => {
            ("status", with_condition(request, "Failed", "SignerValidationFailure", &message))
        }
    };
    let body = json!({ "metadata": { "uid": request.metadata.uid }, "status": status });
    match ctx.client.patch::<Request>(Patch::Merge, "", name, Some(subresource), &body).await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(Next::Done),
    }
}

/// Conditions are written whole: the list has one writer a type, and a merge patch replaces lists.
fn with_condition(request: &Request, r#type: &str, reason: &str, message: &str) -> serde_json::Value {
    let mut conditions: Vec<_> =
        request.status.conditions.iter().map(crate::replicaset::condition_json).collect();
    let now = rfc3339(Utc::now());
    conditions.push(json!({
        "type": r#type, "status": "True", "reason": reason, "message": message,
        "lastUpdateTime": now, "lastTransitionTime": now,
    }));
    json!({ "conditions": conditions })
}

fn pem(request: &Request) -> String {
    let bytes = STANDARD.decode(request.spec.request.as_bytes()).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn decide(authority: &dyn Authority, request: &Request) -> Step {
    let usage = match &*request.spec.signer_name {
        NODE_CLIENT => Usage::NodeClient,
        NODE_SERVING => Usage::NodeServing,
        _ => return Step::Nothing,
    };
    let has = |r#type| condition(&request.status.conditions, r#type).is_some();
    if !request.status.certificate.is_empty() || has("Denied") || has("Failed") {
        return Step::Nothing;
    }
    let node = match authority.node_name(&pem(request), usage) {
        Ok(node) => node,
        // Only a request that somebody approved in spite of it has to be told.
        Err(message) if has("Approved") => return Step::Fail { message },
        Err(_) => return Step::Nothing,
    };
    if has("Approved") {
        return Step::Sign(usage);
    }
    if may_ask(&request.spec, &node, usage) {
        return Step::Approve {
            message: format!("{} asks for the certificate of node {node}", request.spec.username),
        };
    }
    Step::Nothing
}

/// A node asks in its own name; a bootstrap token may ask for a first client certificate.
fn may_ask(spec: &Spec, node: &str, usage: Usage) -> bool {
    let in_group = |group: &str| spec.groups.iter().any(|own| &**own == group);
    let is_node = spec.username.strip_prefix("system:node:") == Some(node) && in_group("system:nodes");
    let bootstraps = spec.username.starts_with("system:bootstrap:") && in_group("system:bootstrappers");
    is_node || (bootstraps && usage == Usage::NodeClient)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fake;

    impl Authority for Fake {
        fn node_name(&self, request: &str, _: Usage) -> Result<String, String> {
            request.strip_prefix("node ").map(str::to_owned).ok_or_else(|| "no node".into())
        }

        fn sign(&self, request: &str, _: Usage) -> Result<String, String> {
            Ok(format!("signed {request}"))
        }
    }

    fn request(asks: &str, groups: &[&str], signer: &str, subject: &str, conditions: &[&str]) -> Request {
        let condition = |r#type: &&str| Condition { r#type: (*r#type).into(), ..Condition::default() };
        Request {
            spec: Spec {
                request: STANDARD.encode(subject).into(),
                signer_name: signer.into(),
                username: asks.into(),
                groups: groups.iter().map(|group| (*group).into()).collect(),
            },
            status: Status { conditions: conditions.iter().map(condition).collect(), ..Status::default() },
            ..Request::default()
        }
    }

    fn check(asks: &str, groups: &[&str], signer: &str, subject: &str, conditions: &[&str]) -> &'static str {
        match decide(&Fake, &request(asks, groups, signer, subject, conditions)) {
            Step::Nothing => "nothing",
            Step::Approve { .. } => "approve",
            Step::Sign(_) => "sign",
            Step::Fail { .. } => "fail",
        }
    }

    #[test]
    fn who_gets_what() {
        let boot = ("system:bootstrap:abc", &["system:bootstrappers"][..]);
        let node = ("system:node:a", &["system:nodes"][..]);
        assert_eq!(check(boot.0, boot.1, NODE_CLIENT, "node a", &[]), "approve", "a node that joins");
        assert_eq!(
            check(boot.0, boot.1, NODE_SERVING, "node a", &[]),
            "nothing",
            "serving needs the node's own identity"
        );
        assert_eq!(check(node.0, node.1, NODE_CLIENT, "node a", &[]), "approve", "a renewal");
        assert_eq!(check(node.0, node.1, NODE_SERVING, "node b", &[]), "nothing", "in another node's name");
        assert_eq!(
            check("system:node:a", &[], NODE_CLIENT, "node a", &[]),
            "nothing",
            "a name without its group"
        );
        assert_eq!(check(node.0, node.1, NODE_CLIENT, "node a", &["Approved"]), "sign", "approved");
        assert_eq!(
            check(node.0, node.1, NODE_CLIENT, "node a", &["Approved", "Denied"]),
            "nothing",
            "denied"
        );
        assert_eq!(check("admin", &[], NODE_CLIENT, "garbage", &["Approved"]), "fail", "approved by mistake");
        assert_eq!(
            check(boot.0, boot.1, "example.com/other", "node a", &["Approved"]),
            "nothing",
            "another signer"
        );
    }
}
