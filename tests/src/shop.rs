//! The example application, probed the way its users and its attackers would: every pod calls every pod and every
//! Service, and the NodePort is called on every node, from outside, from a pod and from a hostNetwork pod.

use crate::cluster::Cluster;
use crate::command::{output, read};
use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// A denied packet is dropped, so a denial shows as this time limit; an allowed call takes a few milliseconds.
const PROBE_MS: &str = "800";
/// Probes at once: each is a `kubectl exec`, most of them wait for their time limit.
const PROBES_AT_ONCE: usize = 8;
/// The port that the shop's pods listen on.
const POD_PORT: u16 = 8080;
/// The NodePort of `web`, as deploy/examples/shop.yaml asks for it.
pub const WEB_NODE_PORT: u16 = 30080;
/// Who may call whom inside the shop; `web` is open to everyone.
const ALLOWED: &[(&str, &str)] =
    &[("web", "api"), ("api", "db"), ("visitor", "web"), ("neighbour", "web"), ("outside", "web")];

/// One row of the table: calls of one kind, taken together.
#[derive(Debug, Clone)]
pub struct Row {
    /// Who called: a tier, a visitor, `outside`.
    pub from: String,
    /// What was called: `api (Service)`, `db (pod)`, `web (NodePort on node-2)`.
    pub to: String,
    /// Whether the policies let it through.
    pub allowed: bool,
    /// How many calls were made.
    pub calls: usize,
    /// How many of them got an answer.
    pub answered: usize,
    /// What the others got, in a word each.
    pub failures: Vec<String>,
    /// Why the others were dropped, as `bowsprit flows` tells it: the policies and the line of code.
    pub causes: Vec<String>,
    /// Calls without an answer for which no drop was told.
    pub unexplained: usize,
    pairs: Vec<Pair>,
}

/// Who called, and all addresses at which the call may have been dropped.
#[derive(Debug, Clone)]
struct Pair {
    from: String,
    /// The node whose network the caller uses: towards pods it shows another of its addresses.
    node: Option<String>,
    to: Vec<String>,
    answered: bool,
}

impl Row {
    /// Whether all calls went as the policies say.
    #[must_use]
    pub fn is_as_expected(&self) -> bool {
        self.calls > 0 && if self.allowed { self.answered == self.calls } else { self.answered == 0 }
    }

    /// Finds the drops of the calls that got no answer.
    fn explain(&mut self, drops: &[Value]) {
        for pair in self.pairs.iter().filter(|pair| !pair.answered) {
            let mut told = drops.iter().filter(|drop| pair.is_of(drop)).map(cause).peekable();
            self.unexplained += usize::from(told.peek().is_none());
            self.causes.extend(told);
        }
        self.causes.sort_unstable();
        self.causes.dedup();
    }
}

impl Pair {
    fn is_of(&self, drop: &Value) -> bool {
        let ends = [&drop["to"]["ip"], &drop["backend"]["ip"]];
        let from = &drop["from"];
        let of_node = |node: &String| from["pod"].is_null() && from["node"] == **node;
        (from["ip"] == *self.from || self.node.as_ref().is_some_and(of_node))
            && ends.iter().any(|end| self.to.iter().any(|address| **end == **address))
    }
}

/// `no ingress rule of shop/closed, shop/db (datapath/src/policy.rs:77)`.
fn cause(drop: &Value) -> String {
    let policies: Vec<&str> =
        drop["policies"].as_array().into_iter().flatten().flat_map(Value::as_str).collect();
    let what = match policies.join(", ") {
        none if none.is_empty() => text(&drop["reason"]),
        policies => format!("no {} rule of {policies}", text(&drop["direction"])),
    };
    format!("{what} ({})", text(&drop["source"]))
}

#[derive(Debug, Clone)]
struct Pod {
    namespace: String,
    name: String,
    app: String,
    address: String,
    node: String,
}

struct Probe {
    from: String,
    to: String,
    allowed: bool,
    command: Command,
    pair: Pair,
}

/// The shop and those who visit it, in the examples' directory.
const MANIFESTS: [&str; 2] = ["shop.yaml", "visitors.yaml"];

/// Whether all objects of the shop and the visitors are there, serving or not.
#[must_use]
pub fn is_applied(cluster: &Cluster, examples: &Path) -> bool {
    MANIFESTS.iter().all(|file| {
        let path = examples.join(file);
        cluster.ask(&["get", "-f", &path.to_string_lossy(), "-o", "name"]).is_ok()
    })
}

/// Applies the shop and the visitors and waits until all of it serves.
///
/// # Errors
/// What did not become ready, with what `kubectl` says of it.
pub fn deploy(cluster: &Cluster, examples: &Path) -> Result<()> {
    for file in MANIFESTS {
        let path = examples.join(file);
        cluster.ask(&["apply", "-f", &path.to_string_lossy()])?;
    }
    for tier in ["web", "api", "db"] {
        let waited =
            cluster.ask(&["-n", "shop", "rollout", "status", &format!("deployment/{tier}"), "--timeout=90s"]);
        waited.with_context(|| explain(cluster, "shop"))?;
    }
    let ready =
        cluster.ask(&["-n", "street", "wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s"]);
    ready.map(drop).with_context(|| explain(cluster, "street"))
}

/// What a person would look at next when pods of a namespace do not come up.
fn explain(cluster: &Cluster, namespace: &str) -> String {
    let show = |words: &[&str]| cluster.ask(words).unwrap_or_else(|error| format!("{error:#}"));
    let pods = show(&["-n", namespace, "get", "pods", "-o", "wide"]);
    let events = show(&["-n", namespace, "get", "events", "--sort-by=.lastTimestamp"]);
    format!(
        "not everything in namespace {namespace} becomes ready\n{pods}\n{}",
        crate::cluster::last_lines(&events, 15)
    )
}

/// Probes every pair and returns the table, with the cause of every denial.
///
/// # Errors
/// When the pods cannot be listed, a probe cannot be started, or the flows of a node cannot be read; a probe that gets no
/// answer is a row, not an error.
pub fn probe(cluster: &Cluster) -> Result<Vec<Row>> {
    let began = Instant::now();
    let mut rows = run(probes(cluster)?)?;
    let drops = flows(cluster, &["--drops", "--since", &format!("{}s", began.elapsed().as_secs() + 1)])?;
    rows.iter_mut().for_each(|row| row.explain(&drops));
    Ok(rows)
}

/// What `bowsprit flows` prints with these flags: a JSON object a flow.
///
/// # Errors
/// When a node's flows cannot be read.
pub fn flows(cluster: &Cluster, flags: &[&str]) -> Result<Vec<Value>> {
    let mut command = cluster.bowsprit(&["flows", "--follow=false", "--output=json"]);
    let lines = read(command.args(flags))?;
    lines.lines().map(|line| serde_json::from_str(line).context("a line of JSON")).collect()
}

fn probes(cluster: &Cluster) -> Result<Vec<Probe>> {
    let mut pods = list_pods(cluster, "shop")?;
    pods.extend(list_pods(cluster, "street")?);
    let services = services(cluster)?;
    let mut probes = Vec::new();
    for from in &pods {
        for to in pods.iter().filter(|to| to.namespace == "shop" && to.name != from.name) {
            // A node may always talk to the pods that run on it: how else would it probe them?
            let own_node = from.app == "neighbour" && from.node == to.node && to.app != "web";
            let kind = if own_node { "pod on its node" } else { "pod" };
            let url = format!("http://{}:{POD_PORT}/", to.address);
            let mut probe = probe_from(cluster, from, &to.app, kind, &url, vec![to.address.clone()]);
            probe.allowed |= own_node;
            probes.push(probe);
        }
        for (name, address) in services.iter().filter(|(name, _)| is_decided(from, name)) {
            // The socket has chosen one of them before the first packet.
            let mut ends: Vec<String> =
                pods.iter().filter(|pod| &pod.app == name).map(|pod| pod.address.clone()).collect();
            ends.push(address.clone());
            probes.push(probe_from(cluster, from, name, "Service", &format!("http://{address}/"), ends));
        }
    }
    for node in cluster.nodes() {
        let kind = format!("NodePort on {}", node.name);
        let url = format!("http://{}:{WEB_NODE_PORT}/", node.address);
        let call = ["call", &url, "--timeout-ms", PROBE_MS];
        let workload = cluster.spec.binaries.join("workload");
        probes.push(Probe {
            from: "outside".to_owned(),
            to: format!("web ({kind})"),
            allowed: true,
            command: cluster.outside(&workload.to_string_lossy(), &call),
            pair: Pair {
                from: crate::layout::GATEWAY.to_owned(),
                node: None,
                to: vec![node.address.clone()],
                answered: false,
            },
        });
        for from in pods.iter().filter(|pod| pod.namespace == "street") {
            probes.push(probe_from(cluster, from, "web", &kind, &url, vec![node.address.clone()]));
        }
    }
    Ok(probes)
}

/// Whether a Service has one answer for this caller. A pod may always reach itself, and a node the pods that run on it: a
/// Service may lead there or elsewhere, as it happens.
fn is_decided(from: &Pod, service: &str) -> bool {
    from.app != service && (from.app != "neighbour" || service == "web")
}

fn probe_from(cluster: &Cluster, from: &Pod, to: &str, kind: &str, url: &str, ends: Vec<String>) -> Probe {
    let mut command = cluster.kubectl(&["-n", &from.namespace, "exec", &from.name, "--"]);
    command.args(["/bin/workload", "call", url, "--timeout-ms", PROBE_MS]);
    Probe {
        from: from.app.clone(),
        to: format!("{to} ({kind})"),
        allowed: ALLOWED.contains(&(from.app.as_str(), to)),
        command,
        pair: Pair {
            from: from.address.clone(),
            node: (from.app == "neighbour").then(|| from.node.clone()),
            to: ends,
            answered: false,
        },
    }
}

fn run(probes: Vec<Probe>) -> Result<Vec<Row>> {
    let probes: Vec<Mutex<Probe>> = probes.into_iter().map(Mutex::new).collect();
    let next = AtomicUsize::new(0);
    let rows: Mutex<BTreeMap<(String, String), Row>> = Mutex::default();
    std::thread::scope(|scope| {
        let work = || -> Result<()> {
            while let Some(probe) = probes.get(next.fetch_add(1, Ordering::Relaxed)) {
                let mut probe = probe.lock().map_err(|_| anyhow::anyhow!("a probe panicked"))?;
                let result = output(&mut probe.command)?;
                let complaint = String::from_utf8_lossy(&result.stderr);
                let word = complaint.lines().next().unwrap_or("no answer").to_owned();
                let mut rows = rows.lock().map_err(|_| anyhow::anyhow!("a probe panicked"))?;
                let row = rows.entry((probe.from.clone(), probe.to.clone())).or_insert_with(|| Row {
                    from: probe.from.clone(),
                    to: probe.to.clone(),
                    allowed: probe.allowed,
                    calls: 0,
                    answered: 0,
                    failures: Vec::new(),
                    causes: Vec::new(),
                    unexplained: 0,
                    pairs: Vec::new(),
                });
                row.calls += 1;
                row.pairs.push(Pair { answered: result.status.success(), ..probe.pair.clone() });
                if result.status.success() {
                    row.answered += 1;
                } else if !row.failures.contains(&word) {
                    row.failures.push(word);
                }
            }
            Ok(())
        };
        let workers: Vec<_> = (0..PROBES_AT_ONCE).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().unwrap_or_else(|_| anyhow::bail!("a probe panicked")))
    })?;
    let rows = rows.into_inner().map_err(|_| anyhow::anyhow!("a probe panicked"))?;
    Ok(rows.into_values().collect())
}

fn items(cluster: &Cluster, words: &[&str]) -> Result<Vec<Value>> {
    let list: Value = serde_json::from_str(&cluster.ask(words)?).context("kubectl prints JSON")?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn list_pods(cluster: &Cluster, namespace: &str) -> Result<Vec<Pod>> {
    let listed = items(cluster, &["-n", namespace, "get", "pods", "-o", "json"])?;
    let running = listed.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    Ok(running
        .map(|pod| Pod {
            namespace: namespace.to_owned(),
            name: text(&pod["metadata"]["name"]),
            app: text(&pod["metadata"]["labels"]["app"]),
            address: text(&pod["status"]["podIP"]),
            node: text(&pod["spec"]["nodeName"]),
        })
        .collect())
}

fn services(cluster: &Cluster) -> Result<Vec<(String, String)>> {
    let listed = items(cluster, &["-n", "shop", "get", "services", "-o", "json"])?;
    Ok(listed
        .iter()
        .map(|service| (text(&service["metadata"]["name"]), text(&service["spec"]["clusterIP"])))
        .collect())
}
