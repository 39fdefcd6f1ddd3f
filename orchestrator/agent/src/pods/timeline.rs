//! How a pod came to run: every stage with its milliseconds, kept in memory for `bowsprit why`, counted in the metrics,
//! and reported in the pod's own status as a condition so that any API reader sees it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use client::ObjectKey;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::time::Instant;

use crate::metrics::Metrics;

/// Condition whose message holds the timeline as JSON.
pub const CONDITION: &str = "bowsprit.dev/Timeline";

/// Stages kept per pod. A start has about ten; a pod that crash-loops keeps its newest.
const STAGES_MAX: usize = 64;

/// One stage of a pod's life on this node.
#[derive(Clone, Debug, Serialize, PartialEq)]
pub struct Stage {
    /// `volumes`, `sandbox`, `address`, `image`, `started`, `probe`...
    pub stage: String,
    /// Container, where one is concerned.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub container: String,
    /// Milliseconds from the pod's arrival at the node to the end of the stage.
    pub at_ms: u64,
    /// Milliseconds that it took.
    pub took_ms: u64,
    /// What to know about it, such as an error.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// The stages of one pod.
#[derive(Clone)]
pub struct Timeline {
    inner: Arc<Mutex<Inner>>,
    metrics: Metrics,
}

struct Inner {
    arrived: Instant,
    arrived_at: DateTime<Utc>,
    stages: Vec<Stage>,
}

/// A timeline as it is read.
#[derive(Clone, Debug, Serialize)]
pub struct TimelineView {
    /// When the node saw the pod first, with milliseconds.
    pub arrived: String,
    /// The stages in the order of their ends.
    pub stages: Vec<Stage>,
}

// === impl Timeline ===

impl Timeline {
    /// Begins at the pod's arrival: now.
    pub fn begin(metrics: Metrics) -> Self {
        let inner = Inner { arrived: Instant::now(), arrived_at: Utc::now(), stages: Vec::new() };
        Timeline { inner: Arc::new(Mutex::new(inner)), metrics }
    }

    /// A stage that began at `began` and ends now.
    pub fn record(&self, stage: &str, container: &str, began: Instant, note: impl Into<String>) {
        self.record_took(stage, container, began.elapsed(), note);
    }

    /// A stage that took `took` and ends now.
    pub fn record_took(&self, stage: &str, container: &str, took: Duration, note: impl Into<String>) {
        self.metrics.stage_seconds.with_label_values(&[stage]).observe(took.as_secs_f64());
        let mut inner = self.inner.lock();
        if inner.stages.len() == STAGES_MAX {
            inner.stages.remove(0);
        }
        let at_ms = milliseconds(inner.arrived.elapsed());
        inner.stages.push(Stage {
            stage: stage.to_owned(),
            container: container.to_owned(),
            at_ms,
            took_ms: milliseconds(took),
            note: note.into(),
        });
    }

    /// The pod runs: counts the whole start.
    pub fn running(&self) {
        let elapsed = self.inner.lock().arrived.elapsed();
        self.metrics.start_seconds.observe(elapsed.as_secs_f64());
        self.record_took("running", "", elapsed, "");
    }

    /// As it stands.
    pub fn view(&self) -> TimelineView {
        let inner = self.inner.lock();
        TimelineView {
            arrived: inner.arrived_at.to_rfc3339_opts(SecondsFormat::Millis, true),
            stages: inner.stages.clone(),
        }
    }

    /// As one line of JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(&self.view()).unwrap_or_default()
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The timelines of the pods on this node, by namespace and name.
#[derive(Clone, Default)]
pub struct Timelines {
    pods: Arc<Mutex<HashMap<ObjectKey, Timeline>>>,
}

// === impl Timelines ===

impl Timelines {
    /// Files a pod's timeline; it replaces that of an earlier pod of the same name.
    pub fn insert(&self, namespace: &str, name: &str, timeline: Timeline) {
        self.pods.lock().insert(ObjectKey::new(namespace, name), timeline);
    }

    /// A pod's timeline. The network part records its stage (`address`) through this.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Timeline> {
        self.pods.lock().get(&ObjectKey::new(namespace, name)).cloned()
    }

    /// Forgets a pod's timeline, unless a newer pod of the same name has filed its own.
    pub fn remove(&self, namespace: &str, name: &str, timeline: &Timeline) {
        let mut pods = self.pods.lock();
        let key = ObjectKey::new(namespace, name);
        if pods.get(&key).is_some_and(|held| Arc::ptr_eq(&held.inner, &timeline.inner)) {
            pods.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn stages_carry_their_milliseconds() {
        let timeline = Timeline::begin(Metrics::unregistered().expect("metrics"));
        let began = Instant::now();
        tokio::time::advance(Duration::from_millis(70)).await;
        timeline.record("sandbox", "", began, "");
        timeline.record_took("image", "app", Duration::from_millis(3), "already present");
        let json = timeline.to_json();
        assert!(json.contains(r#"{"stage":"sandbox","at_ms":70,"took_ms":70}"#), "{json}");
        assert!(json.contains(r#""container":"app""#) && json.contains("already present"), "{json}");
    }
}
