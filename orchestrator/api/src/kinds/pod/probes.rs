//! Validation of probes and lifecycle hooks.

use crate::field::ErrorList;
use crate::kinds::checks::{self, named, not_negative, required, required_one_of};
use crate::kinds::view::View;
use crate::names;

/// Validates the probes and hooks of one container; `grace` is the pod's termination grace period.
pub(crate) fn validate(errors: &mut ErrorList, container: &View<'_, '_>, grace: Option<i64>) {
    let lifecycle = container.get("lifecycle");
    for hook in ["postStart", "preStop"] {
        let hook = lifecycle.get(hook);
        if hook.exists() {
            handler(errors, &hook, &["exec", "httpGet", "tcpSocket", "sleep"], grace);
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let probe = container.get(name);
        if probe.exists() {
            validate_probe(errors, &probe, name == "readinessProbe", grace);
        }
    }
}

fn validate_probe(errors: &mut ErrorList, probe: &View<'_, '_>, readiness: bool, grace: Option<i64>) {
    handler(errors, probe, &["exec", "httpGet", "tcpSocket", "grpc"], grace);
    for field in
        ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
    {
        not_negative(errors, &probe.get(field));
    }
    let grace = probe.get("terminationGracePeriodSeconds");
    match grace.int() {
        Some(seconds) if readiness => {
            errors.invalid(grace.path(), seconds, "must not be set for readinessProbes");
        }
        Some(seconds) if seconds <= 0 => errors.invalid(grace.path(), seconds, "must be greater than 0"),
        _ => {}
    }
    let successes = probe.get("successThreshold");
    if let Some(count) = successes.int().filter(|count| !readiness && *count != 1) {
        errors.invalid(successes.path(), count, "must be 1");
    }
}

fn handler(errors: &mut ErrorList, handler: &View<'_, '_>, kinds: &[&str], grace: Option<i64>) {
    let mut written = 0;
    for kind in kinds {
        let action = handler.get(kind);
        if !action.exists() {
            continue;
        }
        written += 1;
        if written > 1 {
            errors.forbidden(action.path(), "may not specify more than 1 handler type");
            continue;
        }
        match *kind {
            "exec" => {
                required(errors, &action.get("command"), "");
            }
            "httpGet" => http_get(errors, &action),
            "sleep" => sleep(errors, &action, grace),
            _ => checks::port_or_name(errors, &action.get("port")),
        }
    }
    if written == 0 {
        errors.required(handler.path(), "must specify a handler type");
    }
}

fn http_get(errors: &mut ErrorList, action: &View<'_, '_>) {
    required(errors, &action.get("path"), "");
    checks::port_or_name(errors, &action.get("port"));
    required_one_of(errors, &action.get("scheme"), &["HTTP", "HTTPS"]);
    let headers = action.get("httpHeaders");
    for header in headers.items() {
        let name = header.get("name").text();
        errors.invalid_each(headers.path(), name, names::http_header_name(name));
    }
}

fn sleep(errors: &mut ErrorList, action: &View<'_, '_>, grace: Option<i64>) {
    let seconds = action.get("seconds").int().unwrap_or(0);
    let Some(grace) = grace else { return };
    if seconds < 0 || seconds > grace {
        let detail = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        errors.invalid(action.path(), seconds, detail);
    }
}

/// Readiness gates name conditions the way labels are named.
pub(crate) fn readiness_gates(errors: &mut ErrorList, spec: &View<'_, '_>) {
    for gate in spec.get("readinessGates").items() {
        named(errors, &gate.get("conditionType"), names::qualified_name);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::kinds::checks::tests::expect;

    fn check(container: Value, expected: &[&str], why: &str) {
        expect(&container, |errors, view| validate(errors, view, Some(30)), expected, why);
    }

    #[test]
    fn probes() {
        check(
            json!({"livenessProbe": {"httpGet": {"path": "/", "port": "http", "scheme": "HTTP"}, "successThreshold": 1}}),
            &[],
            "a plain one",
        );
        check(
            json!({"livenessProbe": {"httpGet": {"path": "/", "port": 0, "scheme": "FTP"}}}),
            &[
                "livenessProbe.httpGet.port: Invalid value: 0: must be between 1 and 65535, inclusive",
                "livenessProbe.httpGet.scheme: Unsupported value: \"FTP\": supported values: \"HTTP\", \"HTTPS\"",
            ],
            "port and scheme",
        );
        check(
            json!({"readinessProbe": {"periodSeconds": -1}}),
            &[
                "readinessProbe: Required value: must specify a handler type",
                "readinessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0",
            ],
            "no handler",
        );
        check(
            json!({"startupProbe": {"exec": {"command": ["true"]}, "tcpSocket": {"port": 1}, "successThreshold": 2}}),
            &[
                "startupProbe.tcpSocket: Forbidden: may not specify more than 1 handler type",
                "startupProbe.successThreshold: Invalid value: 2: must be 1",
            ],
            "one handler, one success",
        );
        check(
            json!({"readinessProbe": {"exec": {"command": ["true"]}, "terminationGracePeriodSeconds": 5}}),
            &[
                "readinessProbe.terminationGracePeriodSeconds: Invalid value: 5: must not be set for readinessProbes",
            ],
            "a failed readiness probe kills nobody",
        );
    }

    #[test]
    fn hooks() {
        check(json!({"lifecycle": {"preStop": {"sleep": {"seconds": 5}}}}), &[], "within the grace period");
        check(
            json!({"lifecycle": {"preStop": {"exec": {}}}}),
            &["lifecycle.preStop.exec.command: Required value"],
            "exec needs a command",
        );
    }
}
