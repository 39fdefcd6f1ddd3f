//! Validation of a pod spec, for pods and for the templates of those who make pods.

use super::{containers, probes, scheduling, security, volumes};
use crate::field::ErrorList;
use crate::kinds::checks::{self, named, named_if_set, one_of, required_one_of, within};
use crate::kinds::service_account;
use crate::kinds::view::View;
use crate::names;
use crate::quantity::Quantity;

const RESTART_POLICIES: [&str; 3] = ["Always", "OnFailure", "Never"];
const DNS_POLICIES: [&str; 4] = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
/// Name servers a resolver asks; glibc's bound.
const NAMESERVERS_MAX: usize = 3;
/// Search domains of a pod, as upstream since 1.28.
const SEARCHES_MAX: usize = 32;
/// All search domains together, as upstream since 1.28.
const SEARCHES_CHARACTERS_MAX: usize = 2048;

/// Validates a pod spec.
pub(crate) fn validate(errors: &mut ErrorList, spec: &View<'_, '_>) {
    volumes::validate(errors, spec);
    containers::validate(errors, spec);
    required_one_of(errors, &spec.get("restartPolicy"), &RESTART_POLICIES);
    required_one_of(errors, &spec.get("dnsPolicy"), &DNS_POLICIES);
    dns(errors, spec);
    scheduling::validate(errors, spec);
    security::validate_pod(errors, spec);
    super::resources::validate_pod(errors, &spec.get("resources"));
    probes::readiness_gates(errors, spec);
    references(errors, spec);
    identity(errors, spec);
    within(errors, &spec.get("activeDeadlineSeconds"), 1, checks::INT32_MAX);
    one_of(errors, &spec.get("preemptionPolicy"), &["Never", "PreemptLowerPriority"]);
    overhead(errors, &spec.get("overhead"));
    operating_system(errors, &spec.get("os"));
}

/// Validates a pod template: its labels, annotations and spec.
pub(crate) fn validate_template(errors: &mut ErrorList, template: &View<'_, '_>) {
    let metadata = template.get("metadata");
    // Upstream leaves `metadata` out of these two paths.
    for (field, value) in metadata.get("labels").entries() {
        let path = template.path().child("labels");
        errors.invalid_each(&path, field, names::qualified_name(field));
        errors.invalid_each(&path, value.text(), names::label_value(value.text()));
    }
    for (field, _) in metadata.get("annotations").entries() {
        let path = template.path().child("annotations");
        errors.invalid_each(&path, field, names::qualified_name(&field.to_lowercase()));
    }
    let spec = template.get("spec");
    validate(errors, &spec);
    let ephemeral = spec.get("ephemeralContainers");
    if !ephemeral.is_empty() {
        errors.forbidden(ephemeral.path(), "ephemeral containers not allowed in pod template");
    }
}

fn dns(errors: &mut ErrorList, spec: &View<'_, '_>) {
    let config = spec.get("dnsConfig");
    let (servers, searches) = (config.get("nameservers"), config.get("searches"));
    if spec.get("dnsPolicy").is("None") && servers.is_empty() {
        errors.required(servers.path(), "must provide at least one DNS nameserver when `dnsPolicy` is None");
    }
    if servers.len() > NAMESERVERS_MAX {
        let detail = format!("must not have more than {NAMESERVERS_MAX} nameservers");
        errors.invalid(servers.path(), servers.copy(), detail);
    }
    for server in servers.items() {
        named(errors, &server, names::ip);
    }
    if searches.len() > SEARCHES_MAX {
        let detail = format!("must not have more than {SEARCHES_MAX} search paths");
        errors.invalid(searches.path(), searches.copy(), detail);
    }
    let characters = searches.items().map(|search| search.text().len() + 1).sum::<usize>();
    if characters > SEARCHES_CHARACTERS_MAX + 1 {
        let detail = format!(
            "must not have more than {SEARCHES_CHARACTERS_MAX} characters (including spaces) in the search list"
        );
        errors.invalid(searches.path(), searches.copy(), detail);
    }
    for search in searches.items().filter(|search| !search.is(".")) {
        let domain = search.text().strip_suffix('.').unwrap_or(search.text());
        // Underscores are allowed in searches (`_tcp.example`) though not in names.
        errors.invalid_each(
            search.path(),
            search.text(),
            names::dns1123_subdomain(&domain.replace('_', "a")),
        );
    }
    for option in config.get("options").items() {
        let name = option.get("name");
        if name.is_empty() {
            errors.required(option.path(), "must not be empty");
        }
    }
}

/// Names of other objects that the pod refers to.
fn references(errors: &mut ErrorList, spec: &View<'_, '_>) {
    service_account::name(errors, &spec.get("serviceAccountName"));
    named_if_set(errors, &spec.get("nodeName"), names::dns1123_subdomain);
    for field in ["priorityClassName", "runtimeClassName"] {
        named_if_set(errors, &spec.get(field), names::dns1123_subdomain);
    }
    named_if_set(errors, &spec.get("schedulerName"), names::dns1123_subdomain);
    for secret in spec.get("imagePullSecrets").items() {
        let name = secret.get("name");
        if name.is_empty() {
            errors.required(name.path(), "");
        }
    }
}

/// What the pod is called and which names it knows.
fn identity(errors: &mut ErrorList, spec: &View<'_, '_>) {
    for field in ["hostname", "subdomain"] {
        named_if_set(errors, &spec.get(field), names::dns1123_label);
    }
    for alias in spec.get("hostAliases").items() {
        named(errors, &alias.get("ip"), names::ip);
        for hostname in alias.get("hostnames").items() {
            named(errors, &hostname, names::dns1123_subdomain);
        }
    }
}

fn overhead(errors: &mut ErrorList, overhead: &View<'_, '_>) {
    for (_, entry) in overhead.entries() {
        match entry.raw().map(Quantity::from_json) {
            Some(Ok(quantity)) if quantity.is_negative() => {
                errors.invalid(entry.path(), quantity.to_string(), checks::NOT_NEGATIVE);
            }
            Some(Err(error)) => errors.invalid(entry.path(), entry.copy(), error.to_string()),
            _ => {}
        }
    }
}

fn operating_system(errors: &mut ErrorList, os: &View<'_, '_>) {
    if os.exists() {
        required_one_of(errors, &os.get("name"), &["linux", "windows"]);
    }
}
