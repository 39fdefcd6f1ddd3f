//! Validation of containers: init, app and ephemeral ones, which share nearly everything.

use std::collections::BTreeSet;

use super::{env, probes, resources, security};
use crate::field::ErrorList;
use crate::kinds::checks::{self, required, required_name, required_one_of};
use crate::kinds::view::View;
use crate::names;

const PULL_POLICIES: [&str; 3] = ["Always", "IfNotPresent", "Never"];
const TERMINATION_MESSAGE_POLICIES: [&str; 2] = ["FallbackToLogsOnError", "File"];
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const PROPAGATIONS: [&str; 3] = ["Bidirectional", "HostToContainer", "None"];
const RECURSIVE_READ_ONLY: [&str; 3] = ["Disabled", "Enabled", "IfPossible"];

/// Which list of the pod a container stands in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    App,
    Init,
    Ephemeral,
}

/// What containers are checked against and what accumulates over all of them.
struct Pod<'v, 'a, 'p> {
    spec: &'v View<'a, 'p>,
    names: BTreeSet<&'a str>,
    host_ports: BTreeSet<String>,
}

/// Validates all containers of a pod spec.
pub(crate) fn validate(errors: &mut ErrorList, spec: &View<'_, '_>) {
    let mut pod = Pod { spec, names: BTreeSet::new(), host_ports: BTreeSet::new() };
    let app = spec.get("containers");
    if app.is_empty() {
        errors.required(app.path(), "");
    }
    for container in app.items() {
        validate_one(errors, &container, Role::App, &mut pod);
    }
    pod.host_ports.clear();
    for container in spec.get("initContainers").items() {
        validate_one(errors, &container, Role::Init, &mut pod);
        // Ordinary init containers run one after the other, so that they may share a port.
        pod.host_ports.clear();
    }
    for container in spec.get("ephemeralContainers").items() {
        validate_one(errors, &container, Role::Ephemeral, &mut pod);
    }
}

fn validate_one<'a>(errors: &mut ErrorList, container: &View<'a, '_>, role: Role, pod: &mut Pod<'_, 'a, '_>) {
    name(errors, container, pod);
    image(errors, container);
    probes_and_hooks(errors, container, role, pod.spec);
    required_one_of(errors, &container.get("terminationMessagePolicy"), &TERMINATION_MESSAGE_POLICIES);
    required_one_of(errors, &container.get("imagePullPolicy"), &PULL_POLICIES);
    ports(errors, container, role, pod);
    env::validate(errors, container);
    mounts(errors, container, pod.spec);
    devices(errors, container, pod.spec);
    resources::validate_container(errors, &container.get("resources"));
    security::validate_container(errors, &container.get("securityContext"), pod.spec);
    restart_policy(errors, container, role);
    if role == Role::Ephemeral {
        ephemeral(errors, container, pod.spec);
    }
}

fn name<'a>(errors: &mut ErrorList, container: &View<'a, '_>, pod: &mut Pod<'_, 'a, '_>) {
    let name = container.get("name");
    required_name(errors, &name, names::dns1123_label);
    if !name.is_empty() && !pod.names.insert(name.text()) {
        errors.duplicate(name.path(), name.text());
    }
}

fn image(errors: &mut ErrorList, container: &View<'_, '_>) {
    let image = container.get("image");
    if required(errors, &image, "") && image.text().trim() != image.text() {
        errors.invalid(image.path(), image.text(), "must not have leading or trailing whitespace");
    }
}

fn probes_and_hooks(errors: &mut ErrorList, container: &View<'_, '_>, role: Role, spec: &View<'_, '_>) {
    let sidecar = container.get("restartPolicy").is("Always");
    if role == Role::App || (role == Role::Init && sidecar) {
        probes::validate(errors, container, spec.get("terminationGracePeriodSeconds").int());
        return;
    }
    let detail = match role {
        Role::Ephemeral => "cannot be set for an Ephemeral Container",
        _ => "may not be set for init containers without restartPolicy=Always",
    };
    for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
        let field = container.get(field);
        if field.exists() {
            errors.forbidden(field.path(), detail);
        }
    }
}

fn ports(errors: &mut ErrorList, container: &View<'_, '_>, role: Role, pod: &mut Pod<'_, '_, '_>) {
    let ports = container.get("ports");
    if role == Role::Ephemeral && ports.exists() {
        errors.forbidden(ports.path(), "cannot be set for an Ephemeral Container");
        return;
    }
    let host_network = pod.spec.get("hostNetwork").flag();
    let mut seen = BTreeSet::new();
    for port in ports.items() {
        port_name(errors, &port.get("name"), &mut seen);
        let (number, host_port) = (port.get("containerPort"), port.get("hostPort"));
        checks::required_port(errors, &number);
        let on_host = host_port.int().filter(|port| *port != 0);
        if let Some(on_host) = on_host {
            checks::port(errors, &host_port);
            if host_network && number.int() != Some(on_host) {
                errors.invalid(
                    host_port.path(),
                    on_host,
                    "must match `containerPort` when `hostNetwork` is true",
                );
            }
            let (protocol, address) = (port.get("protocol"), port.get("hostIP"));
            let claim = format!("{}/{}/{on_host}", protocol.text(), address.text());
            if pod.host_ports.contains(&claim) {
                errors.duplicate(host_port.path(), claim);
            } else {
                pod.host_ports.insert(claim);
            }
        }
        checks::named_if_set(errors, &port.get("hostIP"), names::ip);
        required_one_of(errors, &port.get("protocol"), &PROTOCOLS);
    }
}

fn port_name<'a>(errors: &mut ErrorList, name: &View<'a, '_>, seen: &mut BTreeSet<&'a str>) {
    if name.is_empty() {
        return;
    }
    let problems = names::port_name(name.text());
    if problems.is_empty() && !seen.insert(name.text()) {
        errors.duplicate(name.path(), name.text());
    }
    errors.invalid_each(name.path(), name.text(), problems);
}

fn mounts(errors: &mut ErrorList, container: &View<'_, '_>, spec: &View<'_, '_>) {
    let volumes = spec.get("volumes");
    let devices = container.get("volumeDevices");
    let mut mounted = BTreeSet::new();
    for mount in container.get("volumeMounts").items() {
        let (name, path) = (mount.get("name"), mount.get("mountPath"));
        required(errors, &name, "");
        if !volumes.items().any(|volume| volume.get("name").is(name.text())) {
            errors.not_found(name.path(), name.text());
        }
        required(errors, &path, "");
        if !mounted.insert(path.text()) {
            errors.invalid(path.path(), path.text(), "must be unique");
        }
        if devices.items().any(|device| device.get("devicePath").is(path.text())) {
            errors.invalid(path.path(), path.text(), "must not already exist as a path in volumeDevices");
        }
        sub_paths(errors, &mount);
        propagation(errors, &mount, container);
    }
}

fn sub_paths(errors: &mut ErrorList, mount: &View<'_, '_>) {
    let (plain, expanded) = (mount.get("subPath"), mount.get("subPathExpr"));
    checks::descending_path(errors, &plain);
    if !plain.is_empty() && !expanded.is_empty() {
        errors.invalid(expanded.path(), expanded.text(), "subPathExpr and subPath are mutually exclusive");
    }
    checks::descending_path(errors, &expanded);
}

fn propagation(errors: &mut ErrorList, mount: &View<'_, '_>, container: &View<'_, '_>) {
    let propagation = mount.get("mountPropagation");
    checks::one_of(errors, &propagation, &PROPAGATIONS);
    if propagation.is("Bidirectional") && !container.get("securityContext").get("privileged").flag() {
        errors.forbidden(
            propagation.path(),
            "Bidirectional mount propagation is available only to privileged containers",
        );
    }
    let recursive = mount.get("recursiveReadOnly");
    checks::one_of(errors, &recursive, &RECURSIVE_READ_ONLY);
    if matches!(recursive.text(), "Enabled" | "IfPossible") {
        if !mount.get("readOnly").flag() {
            errors.forbidden(recursive.path(), "may only be specified when readOnly is true");
        }
        if propagation.exists() && !propagation.is("None") {
            errors.forbidden(
                recursive.path(),
                "may only be specified when mountPropagation is None or not specified",
            );
        }
    }
}

fn devices(errors: &mut ErrorList, container: &View<'_, '_>, spec: &View<'_, '_>) {
    let volumes = spec.get("volumes");
    let mut seen = BTreeSet::new();
    for device in container.get("volumeDevices").items() {
        let (name, path) = (device.get("name"), device.get("devicePath"));
        required(errors, &name, "");
        match volumes.items().find(|volume| volume.get("name").is(name.text())) {
            None => errors.not_found(name.path(), name.text()),
            Some(volume) if !is_claim(&volume) => errors.invalid(
                name.path(),
                name.text(),
                "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
            ),
            Some(_) => {}
        }
        required(errors, &path, "");
        if path.text().split('/').any(|step| step == "..") {
            errors.invalid(path.path(), path.text(), "can not contain backsteps ('..')");
        }
        if !seen.insert(path.text()) {
            errors.invalid(path.path(), path.text(), "must be unique");
        }
    }
}

/// Whether a volume comes from a claim: its own or one that lives with the pod.
fn is_claim(volume: &View<'_, '_>) -> bool {
    ["persistentVolumeClaim", "ephemeral"].iter().any(|source| volume.get(source).exists())
}

fn restart_policy(errors: &mut ErrorList, container: &View<'_, '_>, role: Role) {
    let policy = container.get("restartPolicy");
    match role {
        Role::Ephemeral if policy.exists() => {
            errors.forbidden(policy.path(), "cannot be set for an Ephemeral Container");
        }
        _ => checks::one_of(errors, &policy, &["Always", "Never", "OnFailure"]),
    }
}

fn ephemeral(errors: &mut ErrorList, container: &View<'_, '_>, spec: &View<'_, '_>) {
    let target = container.get("targetContainerName");
    let exists = |list: &str| spec.get(list).items().any(|other| other.get("name").is(target.text()));
    if !target.is_empty() && !exists("containers") && !exists("initContainers") {
        errors.not_found(target.path(), target.text());
    }
    if container.get("resources").exists() && !container.get("resources").is_empty() {
        errors.forbidden(container.get("resources").path(), "cannot be set for an Ephemeral Container");
    }
    for mount in container.get("volumeMounts").items() {
        for field in ["subPath", "subPathExpr"] {
            let field = mount.get(field);
            if !field.is_empty() {
                errors.forbidden(field.path(), "cannot be set for an Ephemeral Container");
            }
        }
    }
}
