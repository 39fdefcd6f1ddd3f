//! gzip for large answers to clients on other machines. Watches and streams are never compressed: their bytes must not
//! wait in an encoder.

use std::io::Write;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, VARY};
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode};
use http_body::{Body as HttpBody, Frame};

use crate::body::{Body, BoxError};
use crate::serve::connection::PeerAddr;

/// Smaller answers are sent faster than they are compressed; Kubernetes' own limit.
const BYTES_MIN: u64 = 128 * 1024;

/// Marks an answer that may be compressed although its length is not known.
#[derive(Debug, Clone, Copy)]
pub struct Large;

/// Compresses an answer if that serves the client.
pub fn compress(request: &Parts, response: Response<Body>) -> Response<Body> {
    let large = response.extensions().get::<Large>().is_some()
        || response.body().size_hint().exact().is_some_and(|bytes| bytes >= BYTES_MIN);
    if response.status() != StatusCode::OK || !large || !takes_gzip(request) || is_local(request) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    parts.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    parts.headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
    parts.headers.remove(CONTENT_LENGTH);
    // The fastest level: a JSON list shrinks to a tenth with it, and the best level to a twelfth.
    let encoder = Some(GzEncoder::new(Vec::new(), Compression::fast()));
    Response::from_parts(parts, Body::stream(Gzip { body, encoder }))
}

fn takes_gzip(request: &Parts) -> bool {
    let values = request.headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let mut encodings = values.flat_map(|value| value.split(','));
    encodings.any(|encoding| {
        let mut parts = encoding.split(';').map(str::trim);
        parts.next() == Some("gzip") && parts.all(|part| part.replace(' ', "") != "q=0")
    })
}

/// Loopback carries bytes faster than any encoder makes fewer of them.
fn is_local(request: &Parts) -> bool {
    request.extensions.get::<PeerAddr>().is_none_or(|peer| peer.0.ip().is_loopback())
}

struct Gzip {
    body: Body,
    encoder: Option<GzEncoder<Vec<u8>>>,
}

impl HttpBody for Gzip {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        loop {
            let Some(encoder) = &mut this.encoder else { return Poll::Ready(None) };
            match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else { continue };
                    encoder.write_all(&data)?;
                    let done = std::mem::take(encoder.get_mut());
                    if !done.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::data(done.into()))));
                    }
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => {
                    let last = this.encoder.take().map(GzEncoder::finish).transpose()?.unwrap_or_default();
                    return Poll::Ready(Some(Ok(Frame::data(last.into()))));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use http::Request;

    use super::*;

    fn request(accept: &str, peer: &str) -> Parts {
        let request =
            Request::builder().header(ACCEPT_ENCODING, accept).extension(PeerAddr(peer.parse().unwrap()));
        request.body(()).unwrap().into_parts().0
    }

    #[tokio::test]
    async fn large_answers_shrink_and_come_back() {
        let text = "all the same ".repeat(20_000);
        let response = || crate::response::json(StatusCode::OK, text.clone());
        let packed = compress(&request("deflate, gzip;q=0.5", "10.0.0.9:1"), response());
        assert_eq!(packed.headers()[CONTENT_ENCODING], "gzip");
        let bytes = packed.into_body().gather().await.unwrap();
        assert!(bytes.len() < text.len() / 50);
        let mut unpacked = String::new();
        flate2::read::GzDecoder::new(&bytes[..]).read_to_string(&mut unpacked).unwrap();
        assert_eq!(unpacked, text);
        for (accept, peer) in [("gzip", "127.0.0.1:1"), ("gzip;q=0", "10.0.0.9:1"), ("br", "10.0.0.9:1")] {
            assert!(
                !compress(&request(accept, peer), response()).headers().contains_key(CONTENT_ENCODING),
                "{accept}"
            );
        }
        let small = crate::response::json(StatusCode::OK, "x");
        assert!(!compress(&request("gzip", "10.0.0.9:1"), small).headers().contains_key(CONTENT_ENCODING));
    }
}
