//! `bowsprit why pod/NAME`: one timeline from the create to where the pod is now, and the reason when it does not go on.
//!
//! Everything comes through the API: the uid holds the time of the create in milliseconds, the node tells its stages (and
//! reports them in the condition [`explain::TIMELINE`], for when it does not answer), conditions and container states say
//! what is missing, events say who did what, and a container that failed has the last word in its log.

mod explain;

use crate::kubeconfig::KubeconfigArguments;
use anyhow::{Context, Result, anyhow, bail};
use chrono::Utc;
use client::{Body, Client};
use explain::{Known, list, text};
use http::Request;
use http_body_util::BodyExt;
use serde_json::Value;
use std::collections::BTreeMap;

/// Lines of a failed container's log that are shown: a panic or a stack trace's top.
const LOG_LINES: usize = 5;
/// Names that are offered when there is no pod of the one that was asked for.
const OFFERED: usize = 5;

/// Which pod.
#[derive(Debug, clap::Args)]
pub(crate) struct WhyArguments {
    /// `pod/NAME` or `NAME`.
    pod: String,
    /// Its namespace.
    #[arg(long, short, default_value = "default")]
    namespace: String,
    #[command(flatten)]
    access: KubeconfigArguments,
}

/// Asks the API server and prints the answer.
pub(crate) fn run(arguments: WhyArguments) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a thread")?;
    let text = runtime.block_on(why(&arguments))?;
    print!("{text}");
    Ok(())
}

async fn why(arguments: &WhyArguments) -> Result<String> {
    let name = match arguments.pod.split_once('/') {
        None => &*arguments.pod,
        Some(("pod" | "pods" | "po", name)) => name,
        Some((kind, _)) => bail!("`{kind}` is no kind that can be explained: pod/NAME"),
    };
    let namespace = &arguments.namespace;
    let client = arguments.access.connect()?;
    let pod: Value = match client.get_path(&format!("/api/v1/namespaces/{namespace}/pods/{name}")).await {
        Ok(pod) => pod,
        Err(error) if error.is_not_found() => return Err(absent(&client, namespace, name).await?),
        Err(error) => return Err(error.into()),
    };
    let field = format!("involvedObject.uid={}", text(&pod["metadata"]["uid"]));
    let known = Known {
        events: selected(&client, &format!("/api/v1/namespaces/{namespace}/events"), &field).await?,
        timeline: timeline(&client, &pod).await,
        logs: logs(&client, &pod).await,
        now: Utc::now(),
    };
    Ok(explain::explain(&pod, &known))
}

/// The items of a list that a field selector narrows down.
async fn selected(client: &Client, path: &str, field: &str) -> Result<Vec<Value>> {
    let field = form_urlencoded::byte_serialize(field.as_bytes()).collect::<String>();
    let mut list: Value = client.get_path(&format!("{path}?fieldSelector={field}")).await?;
    Ok(list["items"].as_array_mut().map(std::mem::take).unwrap_or_default())
}

/// The stages, from the node itself; it may be away, or have forgotten the pod: then those in the pod's status count.
async fn timeline(client: &Client, pod: &Value) -> Option<Value> {
    let node = Some(text(&pod["spec"]["nodeName"])).filter(|node| !node.is_empty())?;
    let meta = &pod["metadata"];
    let (namespace, name) = (text(&meta["namespace"]), text(&meta["name"]));
    let path = format!("/apis/bowsprit.dev/v1/nodes/{node}/timeline/{namespace}/{name}");
    client.get_path(&path).await.ok()
}

/// The last lines of every container that ended badly. A log may be gone with its container; its absence is no news.
async fn logs(client: &Client, pod: &Value) -> BTreeMap<String, String> {
    let mut logs = BTreeMap::new();
    for (container, previous) in explain::failed_containers(pod) {
        let meta = &pod["metadata"];
        let path = format!(
            "/api/v1/namespaces/{}/pods/{}/log?container={container}&previous={previous}&tailLines={LOG_LINES}",
            text(&meta["namespace"]),
            text(&meta["name"])
        );
        if let Ok(Some(text)) = plain(client, &path).await {
            logs.insert(container, text);
        }
    }
    logs
}

async fn plain(client: &Client, path: &str) -> Result<Option<String>> {
    let response = client.raw(Request::get(path).body(Body::empty())?).await?;
    let found = response.status().is_success();
    let bytes = response.into_body().collect().await.map_err(|error| anyhow!(error))?.to_bytes();
    let text = String::from_utf8_lossy(&bytes).trim_end().to_owned();
    Ok((found && !text.is_empty()).then_some(text))
}

/// There is no such pod: what is known of one that was, and what may have been meant.
async fn absent(client: &Client, namespace: &str, name: &str) -> Result<anyhow::Error> {
    let field = format!("involvedObject.kind=Pod,involvedObject.name={name}");
    let events = selected(client, &format!("/api/v1/namespaces/{namespace}/events"), &field).await?;
    let pods: Value = client.get_path("/api/v1/pods").await?;
    let mut message = format!("there is no pod {namespace}/{name}");
    if !events.is_empty() {
        message.push_str("; there was one, and this is what is remembered of it:\n");
        message.push_str(explain::events(&events, Utc::now(), true).trim_end());
    }
    let named = |pod: &&Value| {
        let (own_namespace, own) = (text(&pod["metadata"]["namespace"]), text(&pod["metadata"]["name"]));
        own == name || own_namespace == namespace && (own.starts_with(name) || explain::same_set(own, name))
    };
    let offered: Vec<String> = list(&pods["items"])
        .iter()
        .filter(named)
        .take(OFFERED)
        .map(|pod| format!("{}/{}", text(&pod["metadata"]["namespace"]), text(&pod["metadata"]["name"])))
        .collect();
    match offered.join(", ") {
        none if none.is_empty() && events.is_empty() => {
            message.push_str(&format!("; `kubectl -n {namespace} get pods` lists those that are there"));
        }
        none if none.is_empty() => {}
        offered => message.push_str(&format!("\nthere is: {offered}")),
    }
    Ok(anyhow!(message))
}
