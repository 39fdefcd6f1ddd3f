//! What Kubernetes' built-in admission adds to a new pod: tolerations, priority, its service account and that one's token.
//!
//! Each is a function of its own, for the API server to run in its place in the pipeline, before validation.

use serde_json::json;

use crate::object::{Json, Map, Object, Value};

/// How long a pod stays bound to a node that is not ready or cannot be reached, unless it says otherwise.
const UNWELL_NODE_SECONDS: i64 = 300;
const UNWELL_NODE_TAINTS: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];
/// The classes that exist without being created, and their priorities.
const SYSTEM_PRIORITIES: [(&str, i64); 2] =
    [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];
/// Where every container finds its account's token.
pub const TOKEN_MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// The ConfigMap in every namespace that holds the cluster's CA.
pub const ROOT_CA_CONFIG_MAP: &str = "kube-root-ca.crt";
/// Life of a pod's token: an hour, and seven seconds by which such tokens are told from those that were asked for.
const TOKEN_SECONDS: i64 = 3607;

/// DefaultTolerationSeconds: a pod outlives short troubles of its node.
pub fn add_default_tolerations(pod: &mut Object) {
    let tolerations = pod.list_at("spec.tolerations");
    let tolerates = |taint: &str| {
        tolerations.iter().any(|toleration| {
            let (key, effect) = (toleration.text("key"), toleration.text("effect"));
            (key.is_empty() || key == taint) && matches!(effect, "" | "NoExecute")
        })
    };
    let missing: Vec<Value> = UNWELL_NODE_TAINTS
        .into_iter()
        .filter(|taint| !tolerates(taint))
        .map(|taint| {
            json!({"key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": UNWELL_NODE_SECONDS})
        })
        .collect();
    if !missing.is_empty() {
        let mut all = tolerations.to_vec();
        all.extend(missing);
        pod.set("spec.tolerations", all);
    }
}

/// Priority: the number behind the class. A class that does not exist is told by name.
pub fn resolve_priority(pod: &mut Object) -> Result<(), String> {
    let class = pod.text("spec.priorityClassName");
    let priority = match SYSTEM_PRIORITIES.iter().find(|(name, _)| *name == class) {
        Some((_, priority)) => *priority,
        None if class.is_empty() => 0,
        None => return Err(format!("no PriorityClass with name {class} was found")),
    };
    pod.set("spec.priority", priority);
    pod.set_default("spec.preemptionPolicy", || "PreemptLowerPriority");
    Ok(())
}

/// ServiceAccount, first half: a pod that names no account runs as `default`.
pub fn default_service_account(pod: &mut Object) {
    if pod.text("spec.serviceAccountName").is_empty() {
        pod.set("spec.serviceAccountName", "default");
        pod.set("spec.serviceAccount", "default");
    }
}

/// ServiceAccount, second half: mounts the account's token into every container that has nothing mounted there.
///
/// `account` is the ServiceAccount, `suffix` five random characters that make the volume's name unique.
pub fn mount_token(pod: &mut Object, account: &Object, suffix: &str) {
    let automount = pod.get("spec.automountServiceAccountToken").and_then(Value::as_bool);
    let wanted = automount.or(account.bool_at("automountServiceAccountToken")).unwrap_or(true);
    if !wanted {
        return;
    }
    let volume = existing_token_volume(pod).unwrap_or_else(|| format!("kube-api-access-{suffix}"));
    let mut used = false;
    for list in ["spec.initContainers", "spec.containers"] {
        for container in pod.list_at_mut(list) {
            used |= mount_into(container, &volume);
        }
    }
    let exists = pod.list_at("spec.volumes").iter().any(|other| other.text("name") == volume);
    if used && !exists {
        let mut volumes = pod.list_at("spec.volumes").to_vec();
        volumes.push(token_volume(&volume));
        pod.set("spec.volumes", volumes);
    }
}

fn existing_token_volume(pod: &Object) -> Option<String> {
    let mut names = pod.list_at("spec.volumes").iter().map(|volume| volume.text("name"));
    names.find(|name| name.starts_with("kube-api-access-")).map(str::to_owned)
}

fn mount_into(container: &mut Value, volume: &str) -> bool {
    let mounts = container.list_at("volumeMounts");
    if mounts.iter().any(|mount| mount.text("mountPath") == TOKEN_MOUNT_PATH) {
        return false;
    }
    let mut mounts = mounts.to_vec();
    mounts.push(json!({"name": volume, "readOnly": true, "mountPath": TOKEN_MOUNT_PATH}));
    container.set("volumeMounts", mounts);
    true
}

fn token_volume(name: &str) -> Value {
    json!({
        "name": name,
        "projected": {
            "sources": [
                {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
                {"configMap": {"name": ROOT_CA_CONFIG_MAP, "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [
                    {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}}
            ],
            "defaultMode": 0o644
        }
    })
}

/// ServiceAccount: image pull secrets of the account, for a pod that has none.
pub fn add_pull_secrets(pod: &mut Object, account: &Object) {
    let secrets = account.list_at("imagePullSecrets");
    if pod.list_at("spec.imagePullSecrets").is_empty() && !secrets.is_empty() {
        let named = |secret: &Value| {
            let mut reference = Map::new();
            reference.insert("name".to_owned(), secret.text("name").into());
            Value::Object(reference)
        };
        pod.set("spec.imagePullSecrets", secrets.iter().map(named).collect::<Vec<_>>());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: Value) -> Object {
        Object::from_value(json!({ "spec": spec })).unwrap()
    }

    #[test]
    fn default_tolerations_are_added_where_none_applies() {
        let mut plain = pod(json!({}));
        add_default_tolerations(&mut plain);
        assert_eq!(
            plain.get("spec.tolerations"),
            Some(&json!([
                {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
                {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
            ]))
        );
        let mut again = plain.clone();
        add_default_tolerations(&mut again);
        assert_eq!(again, plain, "once is enough");
        let mut all = pod(json!({"tolerations": [{"operator": "Exists"}]}));
        add_default_tolerations(&mut all);
        assert_eq!(all.list_at("spec.tolerations").len(), 1, "a pod that tolerates all");
        let mut one = pod(
            json!({"tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}]}),
        );
        add_default_tolerations(&mut one);
        assert_eq!(one.list_at("spec.tolerations").len(), 2, "its own patience stays");
    }

    #[test]
    fn priorities() {
        let mut plain = pod(json!({}));
        resolve_priority(&mut plain).unwrap();
        assert_eq!(
            plain.get("spec"),
            Some(&json!({"priority": 0, "preemptionPolicy": "PreemptLowerPriority"}))
        );
        let mut system = pod(json!({"priorityClassName": "system-node-critical"}));
        resolve_priority(&mut system).unwrap();
        assert_eq!(system.i64_at("spec.priority"), Some(2_000_001_000));
        let unknown = resolve_priority(&mut pod(json!({"priorityClassName": "vip"})));
        assert_eq!(unknown.unwrap_err(), "no PriorityClass with name vip was found");
    }

    #[test]
    fn tokens_are_mounted_once() {
        let account = Object::from_value(json!({"metadata": {"name": "default"}})).unwrap();
        let mut pod = pod(
            json!({"containers": [{"name": "a"}, {"name": "b", "volumeMounts": [{"name": "own", "mountPath": TOKEN_MOUNT_PATH}]}]}),
        );
        default_service_account(&mut pod);
        mount_token(&mut pod, &account, "abcde");
        assert_eq!(pod.text("spec.serviceAccountName"), "default");
        assert_eq!(pod.list_at("spec.volumes")[0]["name"], "kube-api-access-abcde");
        let containers = pod.list_at("spec.containers");
        assert_eq!(
            containers[0]["volumeMounts"],
            json!([{"name": "kube-api-access-abcde", "readOnly": true, "mountPath": TOKEN_MOUNT_PATH}])
        );
        assert_eq!(containers[1].list_at("volumeMounts").len(), 1, "its own stays");
        let before = pod.clone();
        mount_token(&mut pod, &account, "fghij");
        assert_eq!(pod, before);
    }

    #[test]
    fn tokens_may_be_refused() {
        let account = Object::from_value(json!({"automountServiceAccountToken": false})).unwrap();
        let mut unasked = pod(json!({"containers": [{"name": "a"}]}));
        let before = unasked.clone();
        mount_token(&mut unasked, &account, "abcde");
        assert_eq!(unasked, before, "the account says no");
        let mut asked = pod(json!({"automountServiceAccountToken": true, "containers": [{"name": "a"}]}));
        mount_token(&mut asked, &account, "abcde");
        assert_eq!(asked.list_at("spec.volumes").len(), 1, "the pod overrules it");
    }
}
