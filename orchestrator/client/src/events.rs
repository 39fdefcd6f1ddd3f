//! Kubernetes Events: what a component tells people about an object.
//!
//! Recording never waits and never fails its caller. Equal events become one with a count; many similar ones are
//! combined; an object that causes a storm is cut off for a while. A full queue drops, and the drops are counted.
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::Instant};

use crate::{Client, Error, Meta, ObjectReference, Patch, objects::rfc3339};

use correlate::{Correlator, Occurrence};

mod correlate;

/// Events waiting to be written. A burst of a thousand unschedulable pods fits; memory stays under a megabyte.
const QUEUE_MAX: usize = 1024;
/// Bytes of a message; the API's own limit for notes.
const MESSAGE_BYTES_MAX: usize = 1024;
/// Where events about cluster-scoped objects go.
const DEFAULT_NAMESPACE: &str = "default";
/// A failed write is tried again once after this pause; events are not worth more.
const RETRY: Duration = Duration::from_millis(500);

/// Whether something needs attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Severity {
    /// Told for information.
    Normal,
    /// Something is wrong.
    Warning,
}

/// Records events. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Recorder {
    sender: mpsc::Sender<Record>,
    dropped: Arc<AtomicU64>,
}

/// One event as it was recorded.
#[derive(Clone, Debug)]
struct Record {
    object: ObjectReference,
    severity: Severity,
    reason: String,
    message: String,
    at: DateTime<Utc>,
}

/// Just enough of an Event to know that it was written.
#[derive(Clone, Debug, Default, serde::Deserialize)]
struct EventObject {
    #[serde(default)]
    metadata: Meta,
}

crate::resource!(EventObject: "" / "v1" / "events", "Event", namespaced);

impl Severity {
    fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

// === impl Recorder ===

impl Recorder {
    /// Starts a recorder for a component; `host` is the node it runs on, if that matters.
    pub fn start(client: Client, component: impl Into<String>, host: impl Into<String>) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        let writer = Writer {
            client,
            component: component.into(),
            host: host.into(),
            correlator: Correlator::default(),
        };
        tokio::spawn(writer.run(receiver));
        Self { sender, dropped: Arc::default() }
    }

    /// Records an event about an object.
    pub fn record(
        &self,
        object: ObjectReference,
        severity: Severity,
        reason: &str,
        message: impl Into<String>,
    ) {
        let mut message = message.into();
        if message.len() > MESSAGE_BYTES_MAX {
            let end = (0..=MESSAGE_BYTES_MAX - 3).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
            message.truncate(end);
            message.push_str("...");
        }
        let record = Record { object, severity, reason: reason.to_owned(), message, at: Utc::now() };
        if self.sender.try_send(record).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Records something told for information.
    pub fn normal(&self, object: ObjectReference, reason: &str, message: impl Into<String>) {
        self.record(object, Severity::Normal, reason, message);
    }

    /// Records that something is wrong.
    pub fn warning(&self, object: ObjectReference, reason: &str, message: impl Into<String>) {
        self.record(object, Severity::Warning, reason, message);
    }

    /// How many events found the queue full.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

// === writing ===

struct Writer {
    client: Client,
    component: String,
    host: String,
    correlator: Correlator,
}

impl Writer {
    async fn run(mut self, mut receiver: mpsc::Receiver<Record>) {
        while let Some(record) = receiver.recv().await {
            let Some(occurrence) = self.correlator.observe(record, Instant::now()) else { continue };
            let mut written = self.write(&occurrence).await;
            if written.as_ref().is_err_and(|error| error.code().is_none_or(|code| code >= 500)) {
                tokio::time::sleep(RETRY).await;
                written = self.write(&occurrence).await;
            }
            if let Err(error) = written {
                // The namespace is going away more often than not.
                let record = &occurrence.record;
                tracing::debug!(
                    object = record.object.name,
                    reason = record.reason,
                    error = error.chain(),
                    "event lost"
                );
                self.correlator.forget(record);
            }
        }
    }

    async fn write(&self, occurrence: &Occurrence) -> Result<(), Error> {
        let Occurrence { record, name, count, .. } = occurrence;
        let namespace = match record.object.namespace.as_str() {
            "" => DEFAULT_NAMESPACE,
            namespace => namespace,
        };
        if *count > 1 {
            let change =
                json!({ "count": count, "lastTimestamp": rfc3339(record.at), "message": record.message });
            match self.client.patch::<EventObject>(Patch::Merge, namespace, name, None, &change).await {
                // The first one has expired meanwhile.
                Err(error) if error.is_not_found() => {}
                other => return other.map(drop),
            }
        }
        let event = self.event(occurrence, namespace);
        self.client.create::<EventObject>(namespace, &event).await.map(drop)
    }

    fn event(&self, occurrence: &Occurrence, namespace: &str) -> Value {
        let Occurrence { record, name, count, first } = occurrence;
        let mut event = json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": { "name": name, "namespace": namespace },
            "involvedObject": record.object,
            "reason": record.reason,
            "message": record.message,
            "type": record.severity.as_str(),
            "count": count,
            "firstTimestamp": rfc3339(*first),
            "lastTimestamp": rfc3339(record.at),
            "eventTime": null,
            "source": { "component": self.component },
            "reportingComponent": self.component,
            "reportingInstance": self.host,
        });
        if !self.host.is_empty() {
            event["source"]["host"] = self.host.clone().into();
        }
        event
    }
}
