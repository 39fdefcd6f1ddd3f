//! Validation of security contexts, of the pod and of its containers.

use std::collections::BTreeSet;

use crate::field::ErrorList;
use crate::kinds::checks::{self, one_of, required, within};
use crate::kinds::view::View;

const PROFILES: [&str; 3] = ["Localhost", "RuntimeDefault", "Unconfined"];

/// Validates the pod's `securityContext` and the namespaces it shares with its host.
pub(crate) fn validate_pod(errors: &mut ErrorList, spec: &View<'_, '_>) {
    let context = spec.get("securityContext");
    ids(errors, &context);
    within(errors, &context.get("fsGroup"), 0, checks::INT32_MAX);
    for group in context.get("supplementalGroups").items() {
        within(errors, &group, 0, checks::INT32_MAX);
    }
    one_of(errors, &context.get("fsGroupChangePolicy"), &["Always", "OnRootMismatch"]);
    one_of(errors, &context.get("supplementalGroupsPolicy"), &["Merge", "Strict"]);
    profiles(errors, &context);
    sysctls(errors, &context.get("sysctls"));
    let shared = spec.get("shareProcessNamespace");
    if shared.flag() && spec.get("hostPID").flag() {
        errors.invalid(shared.path(), true, "ShareProcessNamespace and HostPID cannot both be enabled");
    }
    let users = spec.get("hostUsers");
    if users.exists() && !users.flag() {
        for field in ["hostNetwork", "hostPID", "hostIPC"] {
            let field = spec.get(field);
            if field.flag() {
                errors.forbidden(field.path(), "when `hostUsers` is false");
            }
        }
    }
}

/// Validates a container's `securityContext`.
pub(crate) fn validate_container(errors: &mut ErrorList, context: &View<'_, '_>, spec: &View<'_, '_>) {
    if !context.exists() {
        return;
    }
    ids(errors, context);
    profiles(errors, context);
    let proc_mount = context.get("procMount");
    one_of(errors, &proc_mount, &["Default", "Unmasked"]);
    let host_users = spec.get("hostUsers");
    if proc_mount.is("Unmasked") && (!host_users.exists() || host_users.flag()) {
        errors.invalid(proc_mount.path(), proc_mount.text(), "`hostUsers` must be false to use `Unmasked`");
    }
    escalation(errors, context);
}

/// A container that may not gain privileges cannot be one that has them all.
fn escalation(errors: &mut ErrorList, context: &View<'_, '_>) {
    let escalation = context.get("allowPrivilegeEscalation");
    if !escalation.exists() || escalation.flag() {
        return;
    }
    if context.get("privileged").flag() {
        errors.invalid(
            context.path(),
            context.copy(),
            "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
        );
    }
    let admin = |capability: View<'_, '_>| matches!(capability.text(), "CAP_SYS_ADMIN" | "SYS_ADMIN");
    if context.get("capabilities").get("add").items().any(admin) {
        errors.invalid(
            context.path(),
            context.copy(),
            "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN",
        );
    }
}

fn ids(errors: &mut ErrorList, context: &View<'_, '_>) {
    for field in ["runAsUser", "runAsGroup"] {
        within(errors, &context.get(field), 0, checks::INT32_MAX);
    }
}

fn profiles(errors: &mut ErrorList, context: &View<'_, '_>) {
    for field in ["seccompProfile", "appArmorProfile"] {
        let profile = context.get(field);
        if !profile.exists() {
            continue;
        }
        let (kind, file) = (profile.get("type"), profile.get("localhostProfile"));
        checks::required_one_of(errors, &kind, &PROFILES);
        if kind.is("Localhost") {
            if required(errors, &file, "must be set when type is Localhost") && field == "seccompProfile" {
                checks::descending_path(errors, &file);
            }
        } else if file.exists() {
            errors.invalid(file.path(), file.text(), "can only be set when seccomp type is Localhost");
        }
    }
}

fn sysctls(errors: &mut ErrorList, sysctls: &View<'_, '_>) {
    let mut seen = BTreeSet::new();
    for sysctl in sysctls.items() {
        let name = sysctl.get("name");
        if !required(errors, &name, "") {
            continue;
        }
        let word = |part: &str| {
            part.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
                && part.ends_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
                && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b))
        };
        if !name.text().split(['.', '/']).all(word) {
            errors.invalid(
                name.path(),
                name.text(),
                "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$",
            );
        } else if !seen.insert(name.text()) {
            errors.duplicate(name.path(), name.text());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::checks::tests::expect;

    #[test]
    fn pods() {
        expect(
            &json!({"securityContext": {"runAsUser": -1, "sysctls": [{"name": "Net"}]}, "hostPID": true, "shareProcessNamespace": true}),
            validate_pod,
            &[
                "securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
                "securityContext.sysctls[0].name: Invalid value: \"Net\": must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$",
                "shareProcessNamespace: Invalid value: true: ShareProcessNamespace and HostPID cannot both be enabled",
            ],
            "ids, sysctls, process namespaces",
        );
        expect(
            &json!({"securityContext": {"seccompProfile": {"type": "Localhost"}}}),
            validate_pod,
            &[
                "securityContext.seccompProfile.localhostProfile: Required value: must be set when type is Localhost",
            ],
            "which profile",
        );
    }

    #[test]
    fn containers() {
        expect(
            &json!({"privileged": true, "allowPrivilegeEscalation": false}),
            |errors, view| validate_container(errors, view, view),
            &[
                ": Invalid value: {\"privileged\":true,\"allowPrivilegeEscalation\":false}: cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
            ],
            "privileges cannot be kept from the privileged",
        );
    }
}
