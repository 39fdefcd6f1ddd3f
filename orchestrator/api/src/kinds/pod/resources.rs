//! Validation of resource requests and limits, and of references to them.

use crate::field::ErrorList;
use crate::kinds::checks::{self, required};
use crate::kinds::view::View;
use crate::names;
use crate::quantity::Quantity;

const HUGE_PAGES_PREFIX: &str = "hugepages-";
const NATIVE_DOMAIN: &str = "kubernetes.io/";
const FIELD_REF_RESOURCES: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// Validates a container's `resources`.
pub(crate) fn validate_container(errors: &mut ErrorList, resources: &View<'_, '_>) {
    validate(errors, resources, true);
}

/// Validates the pod's own `resources`, which know CPU, memory and huge pages alone.
pub(crate) fn validate_pod(errors: &mut ErrorList, resources: &View<'_, '_>) {
    for list in ["limits", "requests"] {
        for (name, entry) in resources.get(list).entries() {
            if !matches!(name, "cpu" | "memory") && !name.starts_with(HUGE_PAGES_PREFIX) {
                errors.not_supported(entry.path(), name, &["cpu", "hugepages-", "memory"]);
            }
        }
    }
    validate(errors, resources, false);
}

fn validate(errors: &mut ErrorList, resources: &View<'_, '_>, container: bool) {
    let (limits, requests) = (resources.get("limits"), resources.get("requests"));
    for list in [&limits, &requests] {
        for (name, entry) in list.entries() {
            if container {
                resource_name(errors, name, &entry);
            }
            quantity(errors, name, &entry);
        }
    }
    for (name, entry) in requests.entries() {
        let Some(Ok(request)) = entry.raw().map(Quantity::from_json) else { continue };
        match limits.get(name).raw().map(Quantity::from_json) {
            None if !overcommits(name) => {
                errors.required(limits.path(), "Limit must be set for non overcommitable resources");
            }
            Some(Ok(limit)) if !overcommits(name) && request != limit => {
                let detail = format!("must be equal to {name} limit of {limit}");
                errors.invalid(requests.path(), request.to_string(), detail);
            }
            Some(Ok(limit)) if request > limit => {
                let detail = format!("must be less than or equal to {name} limit of {limit}");
                errors.invalid(requests.path(), request.to_string(), detail);
            }
            _ => {}
        }
    }
    for claim in resources.get("claims").items() {
        checks::required_name(errors, &claim.get("name"), names::dns1123_label);
    }
}

fn is_standard(name: &str) -> bool {
    matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with(HUGE_PAGES_PREFIX)
}

fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains(NATIVE_DOMAIN)
}

/// Only what is the node's own and can be shared in time may be asked for below its limit.
fn overcommits(name: &str) -> bool {
    is_native(name) && !name.starts_with(HUGE_PAGES_PREFIX)
}

fn is_extended(name: &str) -> bool {
    !is_native(name)
        && !name.starts_with("requests.")
        && names::qualified_name(&format!("requests.{name}")).is_empty()
}

fn resource_name(errors: &mut ErrorList, name: &str, entry: &View<'_, '_>) {
    let problems = names::qualified_name(name);
    if !problems.is_empty() {
        errors.invalid_each(entry.path(), name, problems);
        return;
    }
    if name.contains('/') {
        if !is_native(name) && !is_extended(name) {
            errors.invalid(entry.path(), name, "doesn't follow extended resource name standard");
        }
        return;
    }
    if !is_standard(name) {
        errors.invalid(entry.path(), name, "must be a standard resource type or fully qualified");
        errors.invalid(entry.path(), name, "must be a standard resource for containers");
    }
}

fn quantity(errors: &mut ErrorList, name: &str, entry: &View<'_, '_>) {
    match entry.raw().map(Quantity::from_json) {
        Some(Err(error)) => errors.invalid(entry.path(), entry.copy(), error.to_string()),
        Some(Ok(quantity)) if quantity.is_negative() => {
            errors.invalid(entry.path(), quantity.to_string(), checks::NOT_NEGATIVE);
        }
        Some(Ok(quantity)) if is_extended(name) && !quantity.is_whole() => {
            errors.invalid(entry.path(), quantity.to_string(), "must be an integer");
        }
        _ => {}
    }
}

/// Validates a `resourceFieldRef`; a volume must name the container.
pub(crate) fn validate_field_ref(errors: &mut ErrorList, reference: &View<'_, '_>, volume: bool) {
    if !reference.exists() {
        return;
    }
    let (container, resource) = (reference.get("containerName"), reference.get("resource"));
    if volume && !required(errors, &container, "") {
        return;
    }
    if !required(errors, &resource, "") {
        return;
    }
    let name = resource.text();
    let huge_pages = ["limits.", "requests."]
        .iter()
        .any(|list| name.strip_prefix(list).is_some_and(|name| name.starts_with(HUGE_PAGES_PREFIX)));
    if !huge_pages && !FIELD_REF_RESOURCES.contains(&name) {
        errors.not_supported(resource.path(), name, &FIELD_REF_RESOURCES);
        return;
    }
    divisor(errors, name, &reference.get("divisor"));
}

fn divisor(errors: &mut ErrorList, resource: &str, divisor: &View<'_, '_>) {
    const CPU: [&str; 2] = ["1", "1m"];
    const MEMORY: [&str; 13] =
        ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
    let Some(Ok(quantity)) = divisor.raw().map(Quantity::from_json) else { return };
    let written = quantity.to_string();
    let cpu = resource.ends_with(".cpu");
    let allowed = if cpu { CPU.contains(&written.as_str()) } else { MEMORY.contains(&written.as_str()) };
    if allowed || quantity.is_zero() {
        return;
    }
    let detail = if cpu {
        "only divisor's values 1m and 1 are supported with the cpu resource".to_owned()
    } else {
        format!(
            "only divisor's values {} are supported with the {} resource",
            MEMORY.join(", "),
            resource.rsplit('.').next().unwrap_or(resource)
        )
    };
    errors.invalid(divisor.path(), resource, detail);
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::kinds::checks::tests::expect;

    fn check(resources: Value, expected: &[&str], why: &str) {
        expect(
            &json!({"resources": resources}),
            |e, v| validate_container(e, &v.get("resources")),
            expected,
            why,
        );
    }

    #[test]
    fn requests_and_limits() {
        check(
            json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}),
            &[],
            "the usual",
        );
        check(
            json!({"limits": {"cpu": "1"}, "requests": {"cpu": "1500m"}}),
            &["resources.requests: Invalid value: \"1500m\": must be less than or equal to cpu limit of 1"],
            "more asked for than allowed",
        );
        check(
            json!({"limits": {"example.com/gpu": "2"}, "requests": {"example.com/gpu": "1"}}),
            &["resources.requests: Invalid value: \"1\": must be equal to example.com/gpu limit of 2"],
            "devices are not shared",
        );
        check(
            json!({"requests": {"example.com/gpu": "1"}}),
            &["resources.limits: Required value: Limit must be set for non overcommitable resources"],
            "devices need a limit",
        );
        check(
            json!({"limits": {"example.com/gpu": "500m"}}),
            &["resources.limits[example.com/gpu]: Invalid value: \"500m\": must be an integer"],
            "no half devices",
        );
        check(
            json!({"limits": {"memory": "-1"}}),
            &["resources.limits[memory]: Invalid value: \"-1\": must be greater than or equal to 0"],
            "nothing negative",
        );
        check(
            json!({"limits": {"speed": "1"}}),
            &[
                "resources.limits[speed]: Invalid value: \"speed\": must be a standard resource type or fully qualified",
                "resources.limits[speed]: Invalid value: \"speed\": must be a standard resource for containers",
            ],
            "an unknown resource",
        );
    }

    #[test]
    fn references() {
        let check = |reference: Value, volume, expected: &[&str], why: &str| {
            expect(
                &json!({"r": reference}),
                |e, v| validate_field_ref(e, &v.get("r"), volume),
                expected,
                why,
            );
        };
        check(json!({"resource": "limits.cpu", "divisor": "1m"}), false, &[], "millicores");
        check(json!({"resource": "limits.cpu", "divisor": "0"}), false, &[], "no divisor");
        check(
            json!({"resource": "limits.memory"}),
            true,
            &["r.containerName: Required value"],
            "of which container",
        );
        check(
            json!({"resource": "limits.cpu", "divisor": "2"}),
            false,
            &[
                "r.divisor: Invalid value: \"limits.cpu\": only divisor's values 1m and 1 are supported with the cpu resource",
            ],
            "a strange unit",
        );
    }
}
