//! CertificateSigningRequests: what may be asked, of whom, and who may say yes.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::checks::{self, required};
use super::view::View;
use crate::field::ErrorList;
use crate::identity::UserInfo;
use crate::kind::{Kind, SelectableField};
use crate::names::{self, Problems};
use crate::object::{Json, Object, Value};
use crate::printing::cluster;
use crate::strategy::{Cell, Strategy};
use crate::time::Time;

/// Shortest life of a certificate that may be asked for, as upstream.
const SECONDS_MIN: i64 = 600;
/// A signer's name: a domain, a slash, and a path that may itself be a namespaced name.
const SIGNER_NAME_MAX: usize = 571;
const DECISIONS: [&str; 2] = ["Approved", "Denied"];
const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

struct SigningRequests;

/// `certificates.k8s.io/v1 CertificateSigningRequest`.
pub(crate) fn kind() -> Kind {
    Kind::new("certificates.k8s.io", "v1", "CertificateSigningRequest", "certificatesigningrequests")
        .cluster_scoped()
        .short_names(&["csr"])
        .part("approval")
        .status()
        .columns(cluster::signing_request_columns())
        .selectable([SelectableField::new("spec.signerName")])
        .strategy(SigningRequests)
}

/// Before a create: who asks is who is logged in, whatever the request says.
pub fn set_requestor(request: &mut Object, user: &UserInfo) {
    for field in ["username", "uid", "groups", "extra"] {
        drop(request.remove(&format!("spec.{field}")));
    }
    request.set("spec.username", user.name.clone());
    if !user.uid.is_empty() {
        request.set("spec.uid", user.uid.clone());
    }
    if !user.groups.is_empty() {
        request.set("spec.groups", user.groups.clone());
    }
    if !user.extra.is_empty() {
        let extra = user.extra.iter().map(|(key, values)| (key.clone(), Value::from(values.clone())));
        request.set("spec.extra", extra.collect::<crate::object::Map>());
    }
}

impl Strategy for SigningRequests {
    /// A request is asked once: what it asks for does not change.
    fn prepare_update(&self, new: &mut Object, old: &Object) {
        if let Some(spec) = old.get("spec") {
            let spec = spec.clone();
            new.set("spec", spec);
        }
    }

    fn validate_name(&self, name: &str) -> Problems {
        names::path_segment(name)
    }

    fn validate(&self, object: &Object) -> ErrorList {
        let mut errors = ErrorList::new();
        let root = View::root(object.value());
        let spec = root.get("spec");
        request(&mut errors, &spec.get("request"));
        usages(&mut errors, &spec.get("usages"));
        signer_name(&mut errors, &spec.get("signerName"));
        let seconds = spec.get("expirationSeconds");
        if let Some(value) = seconds.int().filter(|value| *value < SECONDS_MIN) {
            let detail = "may not specify a duration less than 600 seconds (10 minutes)";
            errors.invalid(seconds.path(), value, detail);
        }
        errors
    }

    fn validate_update(&self, _new: &Object, _old: &Object) -> ErrorList {
        ErrorList::new()
    }

    fn validate_status_update(&self, new: &Object, old: &Object) -> ErrorList {
        let mut errors = ErrorList::new();
        let (after, before) = (View::root(new.value()), View::root(old.value()));
        conditions(&mut errors, &after, &before, &["Failed"]);
        let (status, old_status) = (after.get("status"), before.get("status"));
        let (certificate, issued) = (status.get("certificate"), old_status.get("certificate"));
        if !issued.is_empty() && certificate.raw() != issued.raw() {
            errors.forbidden(certificate.path(), "updates may not modify existing certificate content");
        }
        if !certificate.is_empty() && !is_pem(certificate.text(), "CERTIFICATE") {
            errors.invalid(
                certificate.path(),
                "<certificate data>",
                "must contain at least one CERTIFICATE PEM block",
            );
        }
        errors
    }

    /// `approval` decides, and decides alone.
    fn validate_part_update(&self, _part: &str, new: &Object, old: &Object) -> ErrorList {
        let mut errors = ErrorList::new();
        conditions(&mut errors, &View::root(new.value()), &View::root(old.value()), &DECISIONS);
        errors
    }

    fn table_row(&self, object: &Object, now: Time) -> Vec<Cell> {
        cluster::signing_request_row(&View::root(object.value()), now)
    }
}

/// Whether base64 holds PEM of this type. What is inside is the signer's to judge.
fn is_pem(base64: &str, kind: &str) -> bool {
    let Ok(bytes) = BASE64.decode(base64) else { return false };
    let text = String::from_utf8_lossy(&bytes);
    let (begin, end) = (format!("-----BEGIN {kind}-----"), format!("-----END {kind}-----"));
    let body = text.split_once(&begin).and_then(|(_, rest)| rest.split_once(&end)).map(|(body, _)| body);
    let body: Option<String> = body.map(|body| body.split_whitespace().collect());
    body.is_some_and(|body| !body.is_empty() && BASE64.decode(body).is_ok())
}

fn request(errors: &mut ErrorList, request: &View<'_, '_>) {
    if !is_pem(request.text(), "CERTIFICATE REQUEST") {
        errors.invalid(
            request.path(),
            request.text(),
            "unable to parse csr: PEM block type must be CERTIFICATE REQUEST",
        );
    }
}

fn usages(errors: &mut ErrorList, usages: &View<'_, '_>) {
    required(errors, usages, "usages required for the CSR");
    let mut seen = BTreeSet::new();
    for usage in usages.items() {
        checks::one_of(errors, &usage, &USAGES);
        if !seen.insert(usage.text()) {
            errors.duplicate(usage.path(), usage.text());
        }
    }
}

fn signer_name(errors: &mut ErrorList, signer: &View<'_, '_>) {
    let name = signer.text();
    if !required(errors, signer, "") {
        return;
    }
    if name == "kubernetes.io/legacy-unknown" {
        errors.invalid(signer.path(), name, "the legacy signerName is not allowed via this API version");
        return;
    }
    let Some((domain, path)) = name.split_once('/').filter(|(_, path)| !path.contains('/')) else {
        errors.invalid(
            signer.path(),
            name,
            "must be a fully qualified domain and path of the form 'example.com/signer-name'",
        );
        return;
    };
    errors.invalid_each(signer.path(), domain, names::dns1123_subdomain(domain));
    if !domain.contains('.') {
        errors.invalid(
            signer.path(),
            domain,
            "should be a domain with at least two segments separated by dots",
        );
    }
    errors.invalid_each(signer.path(), path, names::dns1123_subdomain(path));
    if name.len() > SIGNER_NAME_MAX {
        errors.too_long(signer.path(), SIGNER_NAME_MAX);
    }
}

/// Conditions are well formed, said once, and only those of `writable` types come and go.
fn conditions(errors: &mut ErrorList, new: &View<'_, '_>, old: &View<'_, '_>, writable: &[&str]) {
    let (status, old_status) = (new.get("status"), old.get("status"));
    let (conditions, old_conditions) = (status.get("conditions"), old_status.get("conditions"));
    let mut seen = BTreeSet::new();
    for condition in conditions.items() {
        let (kind, state) = (condition.get("type"), condition.get("status"));
        required(errors, &kind, "");
        if required(errors, &state, "") {
            let decision = matches!(kind.text(), "Approved" | "Denied" | "Failed");
            let supported: &[&str] = if decision { &["True"] } else { &["False", "True", "Unknown"] };
            checks::one_of(errors, &state, supported);
        }
        if !seen.insert(kind.text()) {
            errors.duplicate(condition.path(), kind.text());
        }
    }
    if DECISIONS.iter().all(|decision| seen.contains(decision)) {
        errors.invalid(conditions.path(), "Denied", "Approved and Denied conditions are mutually exclusive");
    }
    for kind in ["Approved", "Denied", "Failed"] {
        let had = old_conditions.items().any(|condition| condition.get("type").is(kind));
        let has = seen.contains(kind);
        if had && !has {
            errors.forbidden(
                conditions.path(),
                format!("updates may not remove a condition of type \"{kind}\""),
            );
        } else if has && !had && !writable.contains(&kind) {
            errors
                .forbidden(conditions.path(), format!("updates may not add a condition of type \"{kind}\""));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Object {
        Object::from_value(value).unwrap()
    }

    fn pem(kind: &str) -> String {
        BASE64.encode(format!("-----BEGIN {kind}-----\nAAAA\n-----END {kind}-----\n"))
    }

    fn check(spec: Value, expected: &[&str], why: &str) {
        let mut request = object(json!({ "spec": spec }));
        request.set_default("spec.request", || pem("CERTIFICATE REQUEST"));
        request.set_default("spec.usages", || vec!["client auth"]);
        request.set_default("spec.signerName", || "kubernetes.io/kube-apiserver-client-kubelet");
        let printed: Vec<String> =
            SigningRequests.validate(&request).iter().map(ToString::to_string).collect();
        assert_eq!(printed, expected, "{why}");
    }

    #[test]
    fn requests() {
        check(json!({}), &[], "a node asks for its certificate");
        check(
            json!({"request": "AAAA", "usages": [], "signerName": "me", "expirationSeconds": 60}),
            &[
                "spec.request: Invalid value: \"AAAA\": unable to parse csr: PEM block type must be CERTIFICATE REQUEST",
                "spec.usages: Required value: usages required for the CSR",
                "spec.signerName: Invalid value: \"me\": must be a fully qualified domain and path of the form 'example.com/signer-name'",
                "spec.expirationSeconds: Invalid value: 60: may not specify a duration less than 600 seconds (10 minutes)",
            ],
            "all wrong",
        );
        check(
            json!({"signerName": "local/signer"}),
            &[
                "spec.signerName: Invalid value: \"local\": should be a domain with at least two segments separated by dots",
            ],
            "a domain of its own",
        );
        check(
            json!({"usages": ["client auth", "client auth"]}),
            &["spec.usages[1]: Duplicate value: \"client auth\""],
            "once is enough",
        );
    }

    #[test]
    fn the_requestor_is_who_is_logged_in() {
        let mut request =
            object(json!({"spec": {"username": "admin", "groups": ["system:masters"], "request": "x"}}));
        let user = UserInfo {
            name: "system:node:a".into(),
            groups: vec!["system:nodes".into()],
            ..UserInfo::default()
        };
        set_requestor(&mut request, &user);
        assert_eq!(request.text("spec.username"), "system:node:a");
        assert_eq!(request.list_at("spec.groups"), ["system:nodes"]);
        assert_eq!(request.text("spec.request"), "x");
    }

    #[test]
    fn a_decision_is_not_taken_back() {
        let old = object(json!({"status": {}}));
        let new = object(json!({"status": {"conditions": [{"type": "Approved", "status": "True"}]}}));
        assert!(SigningRequests.validate_part_update("approval", &new, &old).is_empty());
        assert_eq!(
            SigningRequests.validate_part_update("approval", &old, &new).to_string(),
            "status.conditions: Forbidden: updates may not remove a condition of type \"Approved\""
        );
    }

    #[test]
    fn status_issues_but_does_not_approve() {
        let old = object(json!({"status": {}}));
        let approved = object(json!({"status": {"conditions": [{"type": "Approved", "status": "True"}]}}));
        assert_eq!(
            SigningRequests.validate_status_update(&approved, &old).to_string(),
            "status.conditions: Forbidden: updates may not add a condition of type \"Approved\""
        );
        let issued = object(json!({"status": {"certificate": pem("CERTIFICATE")}}));
        assert!(SigningRequests.validate_status_update(&issued, &old).is_empty());
        assert_eq!(
            SigningRequests.validate_status_update(&old, &issued).to_string(),
            "status.certificate: Forbidden: updates may not modify existing certificate content"
        );
    }
}
