//! The one body type of requests and responses, over a socket and in process alike.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;

/// What a body's producer may fail with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Largest request body: Kubernetes' own limit, twice etcd's largest value.
pub const REQUEST_BYTES_MAX: usize = 3 * 1024 * 1024;

/// Of a body that is too large this much is read and thrown away before the connection is cut.
const DISCARD_BYTES_MAX: usize = 32 * 1024 * 1024;

/// A body that brings nothing for this long is given up: a phone network's worst pause, far under a proxy's patience.
const BODY_IDLE_MAX: Duration = Duration::from_secs(30);

/// A request's or a response's body.
pub enum Body {
    /// No bytes.
    Empty,
    /// All bytes at once.
    Full(Bytes),
    /// Bytes in pieces, all known.
    Chunks(VecDeque<Bytes>),
    /// What a connection receives.
    Incoming(Received),
    /// Bytes that come over time: watches, logs, and the bodies of in-process clients.
    Stream(Pin<Box<dyn HttpBody<Data = Bytes, Error = BoxError> + Send>>),
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Body::Empty => "Body::Empty",
            Body::Full(_) => "Body::Full",
            Body::Chunks(_) => "Body::Chunks",
            Body::Incoming(_) => "Body::Incoming",
            Body::Stream(_) => "Body::Stream",
        })
    }
}

/// A body from the network. One that nobody began to read, because its request was refused, is read to its end in the
/// background: otherwise HTTP/2 resets the stream, and some clients see the reset instead of the answer.
pub struct Received {
    incoming: Option<Incoming>,
    begun: bool,
}

/// Why a request's body could not be had.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// It is longer than [`REQUEST_BYTES_MAX`].
    #[error("limit is {REQUEST_BYTES_MAX}")]
    TooLarge,
    /// Nothing came for [`BODY_IDLE_MAX`].
    #[error("the request body stopped arriving: nothing for {} s", BODY_IDLE_MAX.as_secs())]
    Idle,
    /// The connection broke, or the encoding of the body is wrong.
    #[error("unable to read the request body: {0}")]
    Broken(BoxError),
}

// === impl Body ===

impl Body {
    /// Wraps any other body.
    pub fn stream<B>(body: B) -> Self
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Body::Stream(Box::pin(body.map_err(Into::into)))
    }

    /// Gathers a request's body, at most [`REQUEST_BYTES_MAX`] bytes of it.
    pub async fn gather(mut self) -> Result<Bytes, BodyError> {
        let gathered = self.gather_frames().await;
        if matches!(gathered, Err(BodyError::TooLarge)) {
            self.discard().await;
        }
        gathered
    }

    /// Reads on without keeping anything: a client that is still writing would not see the answer.
    async fn discard(&mut self) {
        let mut bytes = 0;
        while bytes < DISCARD_BYTES_MAX {
            match tokio::time::timeout(BODY_IDLE_MAX, self.frame()).await {
                Ok(Some(Ok(frame))) => bytes += frame.data_ref().map_or(0, Bytes::len),
                _ => return,
            }
        }
    }

    async fn gather_frames(&mut self) -> Result<Bytes, BodyError> {
        if let Body::Full(bytes) = self {
            return if bytes.len() > REQUEST_BYTES_MAX {
                Err(BodyError::TooLarge)
            } else {
                Ok(std::mem::take(bytes))
            };
        }
        if self.size_hint().lower() > REQUEST_BYTES_MAX as u64 {
            return Err(BodyError::TooLarge);
        }
        let mut first: Option<Bytes> = None;
        let mut rest = BytesMut::new();
        loop {
            let frame =
                tokio::time::timeout(BODY_IDLE_MAX, self.frame()).await.map_err(|_| BodyError::Idle)?;
            let Some(frame) = frame else { break };
            let Ok(data) = frame.map_err(BodyError::Broken)?.into_data() else { continue };
            if first.as_ref().map_or(0, Bytes::len) + rest.len() + data.len() > REQUEST_BYTES_MAX {
                return Err(BodyError::TooLarge);
            }
            match &first {
                None => first = Some(data),
                Some(head) => {
                    // Most bodies come in one frame; only a second one costs a copy.
                    if rest.is_empty() {
                        rest.extend_from_slice(head);
                        first = Some(Bytes::new());
                    }
                    rest.extend_from_slice(&data);
                }
            }
        }
        Ok(if rest.is_empty() { first.unwrap_or_default() } else { rest.freeze() })
    }
}

// === impl Received ===

impl Received {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.begun = true;
        match &mut self.incoming {
            Some(incoming) => Pin::new(incoming).poll_frame(cx).map_err(Into::into),
            None => Poll::Ready(None),
        }
    }
}

impl From<Incoming> for Body {
    fn from(incoming: Incoming) -> Self {
        Body::Incoming(Received { incoming: Some(incoming), begun: false })
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        let unread = self.incoming.take().filter(|incoming| !self.begun && !incoming.is_end_stream());
        // Without a runtime the connection is gone too.
        if let (Some(incoming), Ok(runtime)) = (unread, tokio::runtime::Handle::try_current()) {
            runtime.spawn(async move {
                let mut rest = Body::Incoming(Received { incoming: Some(incoming), begun: true });
                rest.discard().await;
            });
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Body::Full(bytes)
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Body::Full(text.into())
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Body::Full(Bytes::from_static(text.as_bytes()))
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        match this {
            Body::Empty => Poll::Ready(None),
            Body::Full(_) => {
                let Body::Full(bytes) = std::mem::replace(this, Body::Empty) else {
                    return Poll::Ready(None);
                };
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Body::Chunks(chunks) => Poll::Ready(chunks.pop_front().map(|bytes| Ok(Frame::data(bytes)))),
            Body::Incoming(received) => received.poll_frame(cx),
            Body::Stream(stream) => stream.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Empty => true,
            Body::Full(bytes) => bytes.is_empty(),
            Body::Chunks(chunks) => chunks.is_empty(),
            Body::Incoming(received) => received.incoming.as_ref().is_none_or(HttpBody::is_end_stream),
            Body::Stream(stream) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Empty => SizeHint::with_exact(0),
            Body::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Body::Chunks(chunks) => SizeHint::with_exact(chunks.iter().map(|c| c.len() as u64).sum()),
            Body::Incoming(received) => {
                received.incoming.as_ref().map_or_else(SizeHint::default, HttpBody::size_hint)
            }
            Body::Stream(stream) => stream.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn gathers_pieces_in_order() {
        let body =
            Body::Chunks(["a", "bc", "", "d"].into_iter().map(|s: &str| Bytes::from(s.to_owned())).collect());
        assert_eq!(body.gather().await.unwrap(), "abcd");
    }

    #[tokio::test]
    async fn refuses_what_is_too_long() {
        let half = Bytes::from(vec![0; REQUEST_BYTES_MAX / 2 + 1]);
        let body = Body::Chunks([half.clone(), half].into());
        assert!(matches!(body.gather().await, Err(BodyError::TooLarge)));
    }
}
