//! What is wrong is refused, in words that name the subject, whether kubectl or the server notices it.

use crate::fixture;
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rig::cluster::{Cluster, oldest_kubectl_binary};
use std::io::Write;
use std::process::{Command, Stdio};

/// Where bodies are sent as they are, without kubectl's own checks.
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("refusals::a_body_that_cannot_be_read", || Ok(unreadable()?)),
        Trial::test("refusals::a_manifest_that_is_wrong", || Ok(wrong_manifests()?)),
        Trial::test("refusals::a_name_in_use_and_a_version_that_is_old", || Ok(conflicts()?)),
    ]
}

/// What kubectl says when it is given this on its standard input, and fails.
fn complaint(mut kubectl: Command, input: &str) -> Result<String> {
    let mut child = kubectl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    child.stdin.take().context("stdin is piped")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(!output.status.success(), "it is taken: {input}");
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

fn says(complaint: &str, words: &[&str]) -> Result<()> {
    for word in words {
        ensure!(complaint.contains(word), "{word:?} is not in the complaint: {complaint}");
    }
    Ok(())
}

fn unreadable() -> Result<()> {
    let cluster = fixture::shop()?;
    let cases: &[(&str, &str, &[&str])] = &[
        (CONFIG_MAPS, r#"{"apiVersion":"v1","kind":"#, &["BadRequest", "EOF"]),
        (CONFIG_MAPS, r#"["not an object"]"#, &["BadRequest"]),
        (CONFIG_MAPS, "", &["BadRequest"]),
        (
            CONFIG_MAPS,
            r#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"a"}}"#,
            &["BadRequest", "Secret", "ConfigMap"],
        ),
        (
            CONFIG_MAPS,
            r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"k":7}}"#,
            &["BadRequest", "data"],
        ),
        (
            DEPLOYMENTS,
            r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"a"},"spec":{"replicas":"three"}}"#,
            &["BadRequest", "replicas"],
        ),
        (
            "/api/v1/namespaces/nowhere/configmaps",
            r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}}"#,
            &["NotFound", r#"namespaces "nowhere" not found"#],
        ),
    ];
    for (path, body, words) in cases {
        says(&complaint(cluster.kubectl(&["create", "--raw", path, "-f", "-"]), body)?, words)?;
    }
    Ok(())
}

/// A Deployment whose container list stands at `CONTAINERS` and whose replicas at `REPLICAS`.
const DEPLOYMENT: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: { name: wrong, namespace: default }
spec:
  replicas: REPLICAS
  selector: { matchLabels: { app: wrong } }
  template:
    metadata: { labels: { app: LABEL } }
    spec: { CONTAINERS }
";

fn wrong_manifests() -> Result<()> {
    let cluster = fixture::shop()?;
    let manifest = |replicas: &str, label: &str, containers: &str| {
        DEPLOYMENT.replace("REPLICAS", replicas).replace("LABEL", label).replace("CONTAINERS", containers)
    };
    let fine = "containers: [{ name: c, image: i }]";
    let cases: &[(String, &[&str])] = &[
        ("kind: [".to_owned(), &["YAML"]),
        (manifest("1", "wrong", "contaners: [{ name: c, image: i }]"), &["unknown field", "contaners"]),
        (manifest("three", "wrong", fine), &["replicas"]),
        (manifest("-1", "wrong", fine), &["spec.replicas: Invalid value: -1", "greater than or equal to 0"]),
        (
            manifest("1", "other", fine),
            &["spec.template.metadata.labels", "`selector` does not match template `labels`"],
        ),
        (manifest("1", "wrong", "containers: []"), &["spec.template.spec.containers: Required value"]),
        (
            // Everything that is wrong, at once.
            manifest(
                "1",
                "wrong",
                "restartPolicy: Never, containers: [{ name: C_, image: i, ports: [{ containerPort: 70000 }] }]",
            ),
            &[
                "containers[0].name: Invalid value",
                "containerPort: Invalid value: 70000",
                "restartPolicy: Unsupported value",
            ],
        ),
        (DEPLOYMENT.replace("Deployment", "Deploymant"), &[r#"no matches for kind "Deploymant""#]),
    ];
    for (manifest, words) in cases {
        for binary in binaries(cluster) {
            says(&complaint(kubectl(cluster, &binary, &["apply", "-f", "-"]), manifest)?, words)
                .with_context(|| binary.display().to_string())?;
        }
    }
    Ok(())
}

/// The newest and the oldest kubectl of this machine: one checks in the server, the other by itself.
fn binaries(cluster: &Cluster) -> [std::path::PathBuf; 2] {
    [cluster.kubectl(&[]).get_program().into(), oldest_kubectl_binary()]
}

fn kubectl(cluster: &Cluster, binary: &std::path::Path, arguments: &[&str]) -> Command {
    let usual = cluster.kubectl(arguments);
    let mut command = Command::new(binary);
    command.args(usual.get_args());
    command
}

fn conflicts() -> Result<()> {
    let cluster = fixture::shop()?;
    cluster.ask(&["create", "configmap", "taken", "--from-literal=k=1"])?;
    let result = (|| {
        let again = complaint(cluster.kubectl(&["create", "configmap", "taken"]), "")?;
        says(&again, &[r#"configmaps "taken" already exists"#])?;
        let old = cluster.ask(&["get", "configmap", "taken", "-o", "yaml"])?;
        cluster.ask(&["patch", "configmap", "taken", "-p", r#"{"data":{"k":"2"}}"#])?;
        let stale = complaint(cluster.kubectl(&["replace", "-f", "-"]), &old)?;
        says(
            &stale,
            &["Conflict", "the object has been modified; please apply your changes to the latest version"],
        )?;
        let kept = cluster.ask(&["get", "configmap", "taken", "-o", "jsonpath={.data.k}"])?;
        ensure!(kept == "2", "a stale replace was refused and yet done: {kept}");
        let of_another = old.lines().map(|line| match line.trim_start().starts_with("uid:") {
            true => "  uid: 11111111-1111-1111-1111-111111111111\n".to_owned(),
            false if line.trim_start().starts_with("resourceVersion:") => String::new(),
            false => format!("{line}\n"),
        });
        let of_another =
            complaint(cluster.kubectl(&["replace", "-f", "-"]), &of_another.collect::<String>())?;
        says(&of_another, &["Conflict", "UID in precondition: 11111111"])
    })();
    cluster.ask(&["delete", "configmap", "taken"])?;
    result
}
