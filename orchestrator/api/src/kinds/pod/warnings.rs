//! What a pod spec says that is accepted and yet hardly meant: told in `Warning` headers, which kubectl prints.

use std::collections::BTreeMap;

use crate::kinds::view::View;

/// Node labels that went out of use, and what to write instead.
const OLD_NODE_LABELS: [(&str, &str); 6] = [
    ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
    ("beta.kubernetes.io/os", "kubernetes.io/os"),
    ("beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("node-role.kubernetes.io/master", "node-role.kubernetes.io/control-plane"),
];

/// The warnings of a pod spec, of a pod or in a template.
pub(crate) fn of_spec(spec: &View<'_, '_>) -> Vec<String> {
    let mut warnings = Vec::new();
    for (key, entry) in spec.get("nodeSelector").entries() {
        if let Some((_, instead)) = OLD_NODE_LABELS.iter().find(|(old, _)| *old == key) {
            warnings.push(format!("{}: deprecated; use \"{instead}\" instead", entry.path()));
        }
    }
    let grace = spec.get("terminationGracePeriodSeconds");
    if grace.int().is_some_and(|seconds| seconds < 0) {
        warnings.push(format!(
            "{}: must be >= 0; negative values are invalid and will be treated as 1",
            grace.path()
        ));
    }
    for list in ["initContainers", "containers"] {
        for container in spec.get(list).items() {
            environment(&mut warnings, &container);
            ports(&mut warnings, &container);
        }
    }
    warnings
}

fn environment(warnings: &mut Vec<String>, container: &View<'_, '_>) {
    let mut values = BTreeMap::new();
    for variable in container.get("env").items() {
        let name = variable.get("name").text();
        let Some(before) = values.insert(name, variable.get("value").text()) else { continue };
        // A value that builds upon the one before is meant that way.
        let builds_on = variable.get("value").text().contains(&format!("$({name})"));
        if !builds_on && !before.contains(&format!("$({name})")) {
            warnings.push(format!(
                "{}: hides previous definition of \"{name}\", which may be dropped when using apply",
                variable.path()
            ));
        }
    }
}

fn ports(warnings: &mut Vec<String>, container: &View<'_, '_>) {
    let mut seen: BTreeMap<_, String> = BTreeMap::new();
    for port in container.get("ports").items() {
        let key = ["protocol", "hostIP"].map(|field| port.get(field).text().to_owned());
        let numbers = ["containerPort", "hostPort"].map(|field| port.get(field).int().unwrap_or(0));
        match seen.get(&(key.clone(), numbers)) {
            Some(first) => warnings.push(format!("{}: duplicate port definition with {first}", port.path())),
            None => _ = seen.insert((key, numbers), port.path().to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_hardly_meant() {
        let pod = json!({"spec": {
            "nodeSelector": {"beta.kubernetes.io/os": "linux"},
            "terminationGracePeriodSeconds": -1,
            "containers": [{
                "env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}, {"name": "P", "value": "/bin"}, {"name": "P", "value": "$(P):/sbin"}],
                "ports": [{"containerPort": 80, "protocol": "TCP"}, {"containerPort": 80, "protocol": "UDP"}, {"name": "x", "containerPort": 80, "protocol": "TCP"}]
            }]
        }});
        assert_eq!(
            of_spec(&View::root(&pod).get("spec")),
            [
                "spec.nodeSelector[beta.kubernetes.io/os]: deprecated; use \"kubernetes.io/os\" instead",
                "spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1",
                "spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
                "spec.containers[0].ports[2]: duplicate port definition with spec.containers[0].ports[0]",
            ]
        );
    }
}
