//! containerd's event stream, turned into ours. The stream is reopened for ever; every opening is a `Connected`, upon
//! which the reader lists, so that nothing is lost between two streams.

use std::time::Duration;

use chrono::{DateTime, Utc};
use cri::events::events_client::EventsClient;
use cri::events::{Envelope, PublishRequest, SubscribeRequest, task};
use cri::prost::Message;
use cri::tonic::metadata::MetadataValue;
use cri::tonic::transport::Channel;
use cri::tonic::{Request, Status, Streaming};
use tokio::sync::mpsc;

use crate::runtime::RuntimeEvent;

/// The namespace in which containerd's CRI plugin keeps its containers.
const NAMESPACE: &str = "k8s.io";

/// Room for the events of a node's worth of containers ending at once (250 pods, two events each, twice).
const EVENTS_PENDING_MAX: usize = 1024;

/// Pause before the stream is opened again. A restarted containerd takes about 400 ms; sooner retries cost nothing.
const RECONNECT_DELAY: Duration = Duration::from_millis(100);

/// Only these concern us; every further topic would cost a wake-up per pod start.
const FILTERS: &[&str] =
    &["topic==\"/tasks/exit\"", "topic==\"/tasks/oom\"", "topic==\"/bowsprit/subscribed\""];

/// containerd answers a subscription with its first event only. So that an idle one answers at all, and to know from
/// which moment on nothing is missed, we publish one of our own until it is heard.
const OWN_TOPIC: &str = "/bowsprit/subscribed";
const OWN_PAUSE: Duration = Duration::from_millis(20);

/// Opens the stream and keeps it open until the receiver is dropped.
pub(super) fn subscribe(channel: Channel) -> mpsc::Receiver<RuntimeEvent> {
    let (sender, receiver) = mpsc::channel(EVENTS_PENDING_MAX);
    tokio::spawn(async move {
        while !sender.is_closed() {
            if let Err(status) = forward(&channel, &sender).await {
                tracing::debug!(reason = status.message(), "containerd's event stream ended");
            }
            tokio::select! {
                () = tokio::time::sleep(RECONNECT_DELAY) => {}
                () = sender.closed() => return,
            }
        }
    });
    receiver
}

async fn forward(channel: &Channel, sender: &mpsc::Sender<RuntimeEvent>) -> Result<(), Status> {
    let mut stream = open(channel).await?;
    if sender.send(RuntimeEvent::Connected).await.is_err() {
        return Ok(());
    }
    loop {
        let envelope = tokio::select! {
            envelope = stream.message() => envelope?,
            () = sender.closed() => return Ok(()),
        };
        let Some(envelope) = envelope else { return Ok(()) };
        let Some(event) = translate(&envelope) else { continue };
        if sender.send(event).await.is_err() {
            return Ok(());
        }
    }
}

/// Subscribes; returns once containerd certainly delivers.
async fn open(channel: &Channel) -> Result<Streaming<Envelope>, Status> {
    let mut client = EventsClient::new(channel.clone());
    let filters = FILTERS.iter().map(|filter| (*filter).to_owned()).collect();
    let request = in_namespace(SubscribeRequest { filters });
    let publish = async {
        let mut client = EventsClient::new(channel.clone());
        loop {
            let event = Some(cri::Any { type_url: "bowsprit.dev/Subscribed".to_owned(), value: Vec::new() });
            let request = PublishRequest { topic: OWN_TOPIC.to_owned(), event };
            if let Err(status) = client.publish(in_namespace(request)).await {
                return status;
            }
            tokio::time::sleep(OWN_PAUSE).await;
        }
    };
    tokio::select! {
        stream = client.subscribe(request) => Ok(stream?.into_inner()),
        status = publish => Err(status),
    }
}

fn in_namespace<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("containerd-namespace", MetadataValue::from_static(NAMESPACE));
    request
}

/// `None` for what the agent does not act on: other namespaces, and the end of a process that exec started.
fn translate(envelope: &Envelope) -> Option<RuntimeEvent> {
    if envelope.namespace != NAMESPACE {
        return None;
    }
    let payload = envelope.event.as_ref()?;
    if payload.type_url.ends_with("containerd.events.TaskExit") {
        let exit = task::TaskExit::decode(payload.value.as_slice()).ok()?;
        if exit.id != exit.container_id {
            return None;
        }
        let at = exit.exited_at.and_then(to_time).unwrap_or_else(Utc::now);
        let code = i32::try_from(exit.exit_status).unwrap_or(i32::MAX);
        return Some(RuntimeEvent::Exited { id: exit.container_id, code, at });
    }
    if payload.type_url.ends_with("containerd.events.TaskOOM") {
        let oom = task::TaskOom::decode(payload.value.as_slice()).ok()?;
        return Some(RuntimeEvent::OutOfMemory { id: oom.container_id });
    }
    None
}

fn to_time(timestamp: cri::Timestamp) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(timestamp.seconds, u32::try_from(timestamp.nanos).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(type_url: &str, value: Vec<u8>, namespace: &str) -> Envelope {
        Envelope {
            namespace: namespace.to_owned(),
            topic: "/tasks/exit".to_owned(),
            event: Some(cri::Any { type_url: type_url.to_owned(), value }),
            ..Envelope::default()
        }
    }

    #[test]
    fn only_the_containers_own_end_in_our_namespace_counts() {
        let exit = |id: &str| {
            task::TaskExit {
                container_id: "c1".into(),
                id: id.into(),
                exit_status: 137,
                ..task::TaskExit::default()
            }
            .encode_to_vec()
        };
        let url = "containerd.events.TaskExit";
        let event = translate(&envelope(url, exit("c1"), "k8s.io"));
        assert!(
            matches!(event, Some(RuntimeEvent::Exited { code: 137, ref id, .. }) if id == "c1"),
            "{event:?}"
        );
        assert_eq!(translate(&envelope(url, exit("an-exec"), "k8s.io")), None);
        assert_eq!(translate(&envelope(url, exit("c1"), "moby")), None);
    }

    #[test]
    fn out_of_memory_names_the_container() {
        let value = task::TaskOom { container_id: "c2".into() }.encode_to_vec();
        let event = translate(&envelope("type.googleapis.com/containerd.events.TaskOOM", value, "k8s.io"));
        assert_eq!(event, Some(RuntimeEvent::OutOfMemory { id: "c2".into() }));
    }
}
