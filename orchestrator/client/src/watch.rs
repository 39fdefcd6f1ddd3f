//! Decoding of watches: one JSON object a line, split as the bytes arrive.
use std::{
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use futures::Stream;
use http_body::Body as _;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{Error, HasMeta, ResponseBody, Revision, Status, client::decode_item, objects::PartialObject};

/// An object has at most 3 MiB as it is written; managed fields and encoding leave it well below this.
const EVENT_BYTES_MAX: usize = 16 << 20;

/// What happened to an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<T> {
    /// It was created or changed, or has begun to match the selectors.
    Upsert(T),
    /// It is gone, or has ceased to match; its last state.
    Delete(T),
    /// Everything up to this revision has been sent.
    Bookmark(Revision),
}

/// A stream of events. Ends when the server ends the watch; [`Error::is_expired`] means that events were missed.
#[derive(Debug)]
pub struct Watch<T> {
    path: String,
    lines: Lines,
    /// After an error nothing more is to be had.
    failed: bool,
    object: PhantomData<fn() -> T>,
}

#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

// === impl Watch ===

impl<T: HasMeta> Watch<T> {
    pub(crate) fn new(path: String, body: ResponseBody) -> Self {
        Self { path, lines: Lines::new(body), failed: false, object: PhantomData }
    }

    /// `None` for what is not an event for us: an object that cannot be read.
    fn decode(&self, line: &[u8]) -> Result<Option<Event<T>>, Error> {
        let json = |source| Error::Json { subject: format!("an event of {}", self.path), source };
        let frame: Frame<'_> = serde_json::from_slice(line).map_err(json)?;
        match frame.kind {
            "ADDED" | "MODIFIED" => Ok(decode_item(&self.path, frame.object).map(Event::Upsert)),
            "DELETED" => Ok(decode_item(&self.path, frame.object).map(Event::Delete)),
            "BOOKMARK" => {
                let object: PartialObject = serde_json::from_str(frame.object.get()).map_err(json)?;
                Ok(Some(Event::Bookmark(object.metadata.resource_version)))
            }
            "ERROR" => {
                let status: Status = serde_json::from_str(frame.object.get()).map_err(json)?;
                Err(Error::Api(status))
            }
            other => {
                tracing::warn!(path = self.path, kind = other, "a watch event of an unknown type is skipped");
                Ok(None)
            }
        }
    }

    fn broken(&self, error: LineError) -> Error {
        match error {
            LineError::TooLong => {
                Error::EventTooLarge { subject: self.path.clone(), bytes_max: EVENT_BYTES_MAX }
            }
            LineError::Body(source) => Error::Transport {
                server: self.path.clone(),
                reason: "the watch broke off".into(),
                source: Some(source),
            },
        }
    }
}

impl<T: HasMeta> Stream for Watch<T> {
    type Item = Result<Event<T>, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        while !this.failed {
            let item = match ready!(this.lines.poll_line(cx)) {
                None => return Poll::Ready(None),
                Some(Err(error)) => Some(Err(this.broken(error))),
                Some(Ok(line)) if line.iter().all(u8::is_ascii_whitespace) => None,
                Some(Ok(line)) => this.decode(&line).transpose(),
            };
            this.failed = matches!(item, Some(Err(_)));
            if item.is_some() {
                return Poll::Ready(item);
            }
        }
        Poll::Ready(None)
    }
}

// === lines ===

/// Splits a body into lines. A frame that holds whole lines is sliced, not copied.
#[derive(Debug)]
struct Lines {
    body: ResponseBody,
    /// The unfinished line of earlier frames; has no newline.
    partial: BytesMut,
    /// What is left of the newest frame.
    frame: Bytes,
}

enum LineError {
    TooLong,
    Body(crate::BoxError),
}

impl Lines {
    fn new(body: ResponseBody) -> Self {
        Self { body, partial: BytesMut::new(), frame: Bytes::new() }
    }

    fn poll_line(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, LineError>>> {
        loop {
            if let Some(line) = self.take_line() {
                return Poll::Ready(Some(Ok(line)));
            }
            if self.partial.len() > EVENT_BYTES_MAX {
                return Poll::Ready(Some(Err(LineError::TooLong)));
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                // A line that the end of the stream cuts off is no event.
                None => return Poll::Ready(None),
                Some(Err(error)) => return Poll::Ready(Some(Err(LineError::Body(error)))),
                Some(Ok(frame)) => self.frame = frame.into_data().unwrap_or_default(),
            }
        }
    }

    fn take_line(&mut self) -> Option<Bytes> {
        let Some(end) = self.frame.iter().position(|byte| *byte == b'\n') else {
            self.partial.extend_from_slice(&self.frame);
            self.frame.clear();
            return None;
        };
        let head = self.frame.split_to(end);
        self.frame.advance(1);
        if self.partial.is_empty() {
            return Some(head);
        }
        self.partial.extend_from_slice(&head);
        Some(self.partial.split().freeze())
    }
}

#[cfg(test)]
mod tests {
    use futures::{StreamExt, stream};
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    fn watch(pieces: Vec<&'static [u8]>) -> Watch<PartialObject> {
        let frames = pieces.into_iter().map(|piece| Ok(http_body::Frame::data(Bytes::from_static(piece))));
        Watch::new("/x".into(), StreamBody::new(stream::iter(frames)).boxed_unsync())
    }

    fn names(items: Vec<Result<Event<PartialObject>, Error>>) -> String {
        let name = |item: Result<Event<PartialObject>, Error>| match item {
            Ok(Event::Upsert(object)) => format!("+{}", object.metadata.name),
            Ok(Event::Delete(object)) => format!("-{}", object.metadata.name),
            Ok(Event::Bookmark(revision)) => format!("@{revision}"),
            Err(Error::Api(status)) => format!("!{}", status.code),
            Err(error) => format!("!{error}"),
        };
        items.into_iter().map(name).collect::<Vec<_>>().join(" ")
    }

    const STREAM: &[u8] = b"{\"type\":\"ADDED\",\"object\":{\"metadata\":{\"name\":\"a\"}}}\n\n\
        {\"type\":\"MODIFIED\",\"object\":{\"metadata\":{\"name\":\"b\",\"labels\":{\"x\":\"y\\n\"}}}}\n\
        {\"type\":\"MODIFIED\",\"object\":{\"metadata\":{\"name\":7}}}\n\
        {\"type\":\"DELETED\",\"object\":{\"metadata\":{\"name\":\"a\"}}}\n\
        {\"type\":\"BOOKMARK\",\"object\":{\"metadata\":{\"resourceVersion\":\"9\"}}}\n\
        {\"type\":\"ERROR\",\"object\":{\"code\":410,\"reason\":\"Expired\"}}\n{\"type\":\"ADD";

    #[tokio::test]
    async fn events_are_the_same_however_the_bytes_are_cut() {
        for size in [1, 2, 3, 7, 50, 1000] {
            let items = watch(STREAM.chunks(size).collect()).collect::<Vec<_>>().await;
            assert_eq!(names(items), "+a +b -a @9 !410", "pieces of {size}");
        }
    }

    #[tokio::test]
    async fn an_endless_line_is_an_error() {
        let items = watch(vec![&[b'x'; 1 << 20]; 20]).collect::<Vec<_>>().await;
        assert!(matches!(items[0], Err(Error::EventTooLarge { .. })));
    }
}
