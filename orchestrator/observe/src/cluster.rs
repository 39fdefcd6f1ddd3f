//! The flows of all nodes, through the API server.
//!
//! The server passes `/apis/bowsprit.dev/v1/nodes/NODE/flows` on to that node's agent. A stream that breaks is taken up again after
//! the last line that came, so nothing that the agent still remembers is lost or told twice.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, Utc};
use client::{Body, Client, Delta, Informer, ListOptions, Meta, Status, backoff::Backoff};
use futures::{StreamExt, stream};
use http::Request;
use http_body_util::BodyExt;
use serde::Deserialize;
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
};

use crate::{flow::Line, query::Query};

/// A line is some hundred bytes; more than this is not one of ours.
const LINE_BYTES_MAX: usize = 64 << 10;
/// Nodes that are asked for their past at a time: each answer may be some megabytes.
const NODES_AT_ONCE: usize = 8;
/// Lines that the printer may be behind; beyond, the streams wait, and their agents tell what was lost.
const QUEUE: usize = 1024;
/// An agent that restarts is back within a second.
const RETRY_FIRST: Duration = Duration::from_millis(200);
/// One that stays away is tried this often.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// A node, of which only the name is of interest.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Node {
    metadata: Meta,
}

client::resource!(Node: "" / "v1" / "nodes", "Node", cluster);

/// Why a node's flows are not read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request did not succeed.
    #[error(transparent)]
    Client(#[from] client::Error),
    /// The stream broke off.
    #[error("the stream broke off")]
    Broken(#[source] client::BoxError),
    /// The one node that was asked for is not there.
    #[error("there is no node `{wanted}`; there is {}", if known.is_empty() { "none at all" } else { known })]
    NoNode {
        /// Its name.
        wanted: String,
        /// Those that are there.
        known: String,
    },
    /// What came is no flow.
    #[error("the answer is no stream of flows; are agent and command of one version?")]
    NoFlow,
}

/// What a follower hears.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all that is told are lines")]
pub enum Told {
    /// A line of a node.
    Line(Line),
    /// A node's stream does not work; it is tried again. Said once until it works.
    Trouble {
        /// Which node.
        node: Arc<str>,
        /// Why.
        error: Error,
    },
}

/// The past of all nodes.
#[derive(Debug, Default)]
pub struct Past {
    /// All lines in the order of their times.
    pub lines: Vec<Line>,
    /// Nodes that did not answer.
    pub failures: Vec<(String, Error)>,
}

/// Reads what all nodes, or only `node`, remember; of `last`, the newest of all nodes together.
pub async fn past(client: &Client, query: &Query, node: Option<&str>) -> Result<Past, Error> {
    let mut nodes = client.list::<Node>("", &ListOptions::default()).await?;
    if let Some(wanted) = node {
        let mut known: Vec<&str> = nodes.items.iter().map(|node| &*node.metadata.name).collect();
        if !known.contains(&wanted) {
            known.sort_unstable();
            return Err(Error::NoNode { wanted: wanted.to_owned(), known: known.join(", ") });
        }
        nodes.items.retain(|node| &*node.metadata.name == wanted);
    }
    let query = Query { follow: false, ..query.clone() };
    let ask = |node: Node| {
        let query = &query;
        async move {
            let name = node.metadata.name;
            let lines = past_of(client, &name, query).await;
            (name.into_string(), lines)
        }
    };
    let answers: Vec<_> =
        stream::iter(nodes.items.into_iter().map(ask)).buffer_unordered(NODES_AT_ONCE).collect().await;
    let mut past = Past::default();
    for (node, answer) in answers {
        match answer {
            Ok(lines) => past.lines.extend(lines),
            Err(error) => past.failures.push((node, error)),
        }
    }
    past.lines.sort_by_key(Line::time);
    if let Some(last) = query.last {
        past.lines.drain(..past.lines.len().saturating_sub(last));
    }
    past.failures.sort_by(|one, two| one.0.cmp(&two.0));
    Ok(past)
}

async fn past_of(client: &Client, node: &str, query: &Query) -> Result<Vec<Line>, Error> {
    let mut lines = Lines::open(client, node, query).await?;
    let mut all = Vec::new();
    while let Some(line) = lines.next().await? {
        all.push(line);
    }
    Ok(all)
}

/// Follows all nodes, also those that join later, or only `node`, for as long as the receiver lives. `after` says where to
/// go on on nodes that are known already; of others, only what is to come.
pub fn follow(
    client: Client,
    query: &Query,
    node: Option<&str>,
    after: HashMap<Arc<str>, DateTime<Utc>>,
) -> mpsc::Receiver<Told> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let query = Query { follow: true, since: None, last: None, ..query.clone() };
    tokio::spawn(follow_nodes(client, query, node.map(str::to_owned), after, sender));
    receiver
}

async fn follow_nodes(
    client: Client,
    query: Query,
    only: Option<String>,
    mut after: HashMap<Arc<str>, DateTime<Utc>>,
    told: mpsc::Sender<Told>,
) {
    let mut nodes = Informer::<Node>::start(client.clone()).subscribe();
    // Dropping the set with this future ends all streams.
    let mut streams = JoinSet::new();
    let mut running: HashMap<Arc<str>, AbortHandle> = HashMap::new();
    loop {
        let delta = tokio::select! {
            delta = nodes.recv() => delta,
            () = told.closed() => return,
        };
        match delta {
            Delta::Synced => {}
            Delta::Upsert { new, .. } if only.as_deref().is_some_and(|only| *only != *new.metadata.name) => {}
            Delta::Upsert { new, .. } => {
                let name: Arc<str> = (&*new.metadata.name).into();
                if let Entry::Vacant(place) = running.entry(Arc::clone(&name)) {
                    let query = Query { since: after.remove(&name), ..query.clone() };
                    let work = follow_node(client.clone(), name, query, told.clone());
                    place.insert(streams.spawn(work));
                }
            }
            Delta::Delete(old) => {
                if let Some(stream) = running.remove(&*old.metadata.name) {
                    stream.abort();
                }
            }
        }
        while streams.try_join_next().is_some() {}
    }
}

async fn follow_node(client: Client, node: Arc<str>, mut query: Query, told: mpsc::Sender<Told>) {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
    loop {
        let error = follow_once(&client, &node, &mut query, &told, &mut backoff).await.err();
        if told.is_closed() {
            return;
        }
        let first = backoff.failures() == 0;
        let wait = backoff.next_wait();
        // An agent that restarts ends its streams in good order: only when it does not come back is it worth a word.
        if let (Some(error), true) = (error, first)
            && told.send(Told::Trouble { node: Arc::clone(&node), error }).await.is_err()
        {
            return;
        }
        tokio::time::sleep(wait).await;
    }
}

async fn follow_once(
    client: &Client,
    node: &str,
    query: &mut Query,
    told: &mpsc::Sender<Told>,
    backoff: &mut Backoff,
) -> Result<(), Error> {
    let mut lines = Lines::open(client, node, query).await?;
    while let Some(line) = lines.next().await? {
        backoff.reset();
        query.since = Some(line.time());
        if told.send(Told::Line(line)).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// The lines of one answer.
struct Lines {
    body: client::ResponseBody,
    rest: Vec<u8>,
    /// Up to here `rest` holds no end of a line.
    searched: usize,
}

impl Lines {
    async fn open(client: &Client, node: &str, query: &Query) -> Result<Self, Error> {
        let path = format!("/apis/bowsprit.dev/v1/nodes/{node}/flows?{}", query.to_text());
        let request = Request::get(&path)
            .body(Body::empty())
            .map_err(|error| client::Error::Request { subject: path.clone(), reason: error.to_string() })?;
        let response = client.raw(request).await?;
        let code = response.status();
        let body = response.into_body();
        if code.is_success() {
            return Ok(Lines { body, rest: Vec::new(), searched: 0 });
        }
        let text = body.collect().await.map_err(Error::Broken)?.to_bytes();
        let mut status: Status = serde_json::from_slice(&text).unwrap_or_default();
        status.code = code.as_u16();
        if status.message.is_empty() {
            status.message = format!("{code}: {}", String::from_utf8_lossy(&text).trim_end());
        }
        Err(client::Error::Api(status).into())
    }

    /// The next line; `None` at the end.
    async fn next(&mut self) -> Result<Option<Line>, Error> {
        loop {
            if let Some(at) = self.rest[self.searched..].iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=self.searched + at).collect();
                self.searched = 0;
                return serde_json::from_slice(&line).map(Some).map_err(|_| Error::NoFlow);
            }
            self.searched = self.rest.len();
            if self.searched > LINE_BYTES_MAX {
                return Err(Error::NoFlow);
            }
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            if let Ok(data) = frame.map_err(Error::Broken)?.into_data() {
                self.rest.extend_from_slice(&data);
            }
        }
    }
}

#[cfg(test)]
mod tests;
