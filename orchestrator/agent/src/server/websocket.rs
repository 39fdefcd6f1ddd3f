//! WebSocket clients, which the runtime's streaming server refuses. exec and attach in the protocols v5 and v4
//! (`channel.k8s.io`) are translated to SPDY streams; a port-forward that tunnels SPDY is unwrapped; one that numbers
//! channels by port is translated.

use std::collections::HashMap;
use std::io;

use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, header};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, WriteHalf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::failure::Failure;
use super::spdy::{self, Encoder, Frame, Reader};
use super::streams::{connect, switching};
use crate::runtime::{PodRuntime, StreamRequest, Streams};

/// Protocols for exec and attach, the most wanted first. The third has no status of the command; its text form is base64.
const EXEC_PROTOCOLS: &[&str] = &["v5.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io"];
/// Protocols for port-forward: SPDY within, or channels numbered by port.
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
const PORT_PROTOCOLS: &[&str] = &[TUNNEL, "v4.channel.k8s.io", "v4.base64.channel.k8s.io"];

/// What the streams mean towards the runtime.
const EXEC_STREAM_PROTOCOL: HeaderValue = HeaderValue::from_static("v4.channel.k8s.io");
const PORT_STREAM_PROTOCOL: HeaderValue = HeaderValue::from_static("portforward.k8s.io");

/// Channels of exec and attach.
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// Of v5: the next byte names the channel that the client has closed.
const CLOSE: u8 = 255;

/// Largest message accepted: clients send 32 KiB.
const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// Bytes read from the runtime at once in a tunnel.
const COPY_BYTES: usize = 32 << 10;

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Answers a request for a session over WebSocket.
pub async fn open(
    runtime: &dyn PodRuntime,
    session: &StreamRequest,
    headers: &HeaderMap,
    client: OnUpgrade,
) -> Result<Response, Failure> {
    let key = headers
        .get(header::SEC_WEBSOCKET_KEY)
        .ok_or_else(|| Failure::bad_request("Sec-WebSocket-Key is missing"))?;
    let accepted = derive_accept_key(key.as_bytes());
    let known = match session {
        StreamRequest::PortForward { .. } => PORT_PROTOCOLS,
        _ => EXEC_PROTOCOLS,
    };
    let protocol = choose(headers, known)
        .ok_or_else(|| Failure::bad_request(format!("Sec-WebSocket-Protocol must offer one of {known:?}")))?;
    let stream_protocol = match session {
        StreamRequest::PortForward { .. } => PORT_STREAM_PROTOCOL,
        _ => EXEC_STREAM_PROTOCOL,
    };
    let url = runtime.stream_url(session).await?;
    let (_, upstream) = connect(&url, &[stream_protocol]).await?;
    let session = session.clone();
    tokio::spawn(async move {
        let Ok(client) = client.await else { return };
        let config = WebSocketConfig::default().max_message_size(Some(MESSAGE_BYTES_MAX));
        let socket = WebSocketStream::from_raw_socket(TokioIo::new(client), Role::Server, Some(config)).await;
        let result = if protocol == TUNNEL {
            tunnel(socket, TokioIo::new(upstream)).await
        } else {
            let text = protocol.contains("base64");
            Translation::begin(&session, text, socket, TokioIo::new(upstream)).run().await
        };
        if let Err(error) = result {
            tracing::debug!(%error, "a WebSocket session ended");
        }
    });
    let mut answer = HeaderMap::new();
    answer.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    answer.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    let accepted = HeaderValue::from_str(&accepted).map_err(|error| Failure::internal(error.to_string()))?;
    answer.insert(header::SEC_WEBSOCKET_ACCEPT, accepted);
    Ok(switching(answer))
}

/// The first of our protocols that the client offers.
fn choose(headers: &HeaderMap, known: &[&'static str]) -> Option<&'static str> {
    let offered: Vec<&str> = headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect();
    known.iter().copied().find(|name| offered.contains(name))
}

/// Without a code clients take the end of a session for a failure.
fn farewell() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() }))
}

/// SPDY bytes inside binary messages, in both directions.
async fn tunnel(socket: Socket, upstream: TokioIo<Upgraded>) -> io::Result<()> {
    let (mut to_client, mut from_client) = socket.split();
    let (mut from_runtime, mut to_runtime) = tokio::io::split(upstream);
    let up = async {
        while let Some(message) = from_client.next().await {
            match message.map_err(io::Error::other)? {
                Message::Binary(bytes) => to_runtime.write_all(&bytes).await?,
                Message::Close(_) => break,
                _ => {}
            }
        }
        to_runtime.shutdown().await
    };
    let down = async {
        loop {
            let mut buffer = BytesMut::with_capacity(COPY_BYTES);
            if from_runtime.read_buf(&mut buffer).await? == 0 {
                return to_client.send(farewell()).await.map_err(io::Error::other);
            }
            to_client.send(Message::Binary(buffer.freeze())).await.map_err(io::Error::other)?;
        }
    };
    // Whoever ends first ends the session.
    tokio::select! {
        result = up => result,
        result = down => result,
    }
}

/// Channels of a WebSocket translated to streams of a SPDY connection.
struct Translation {
    to_client: SplitSink<Socket, Message>,
    from_client: SplitStream<Socket>,
    to_runtime: WriteHalf<TokioIo<Upgraded>>,
    from_runtime: Reader<tokio::io::ReadHalf<TokioIo<Upgraded>>>,
    /// Messages are base64 text, with the channel as a digit.
    text: bool,
    /// Stream by channel, for what the client sends.
    streams: HashMap<u8, u32>,
    /// Channel by stream, for what the runtime sends; taken out when it has ended.
    channels: HashMap<u32, u8>,
    /// First message on each channel.
    greetings: Vec<(u8, Vec<u8>)>,
    opening: BytesMut,
}

// === impl Translation ===

impl Translation {
    fn begin(session: &StreamRequest, text: bool, socket: Socket, upstream: TokioIo<Upgraded>) -> Self {
        let (to_client, from_client) = socket.split();
        let (from_runtime, to_runtime) = tokio::io::split(upstream);
        let mut translation = Translation {
            to_client,
            from_client,
            to_runtime,
            from_runtime: Reader::new(from_runtime),
            text,
            streams: HashMap::new(),
            channels: HashMap::new(),
            greetings: Vec::new(),
            opening: BytesMut::new(),
        };
        match session {
            StreamRequest::Exec { streams, .. } | StreamRequest::Attach { streams, .. } => {
                translation.open_session(*streams);
            }
            StreamRequest::PortForward { ports, .. } => translation.open_ports(ports),
        }
        translation
    }

    fn open_session(&mut self, streams: Streams) {
        let wanted = [
            (true, ERROR, "error"),
            (streams.stdin, STDIN, "stdin"),
            (streams.stdout, STDOUT, "stdout"),
            (streams.stderr, STDERR, "stderr"),
            (streams.tty, RESIZE, "resize"),
        ];
        let mut encoder = Encoder::default();
        for (_, channel, name) in wanted.into_iter().filter(|(wanted, ..)| *wanted) {
            let stream = encoder.open(&[("streamtype", name)], &mut self.opening);
            self.streams.insert(channel, stream);
            if !matches!(channel, STDIN | RESIZE) {
                self.channels.insert(stream, channel);
            }
        }
        // Tells the client that the session stands.
        let first = if streams.stdout {
            STDOUT
        } else if streams.stderr {
            STDERR
        } else {
            ERROR
        };
        self.greetings.push((first, Vec::new()));
    }

    /// Two channels a port: data and errors. Both begin with the port's number.
    fn open_ports(&mut self, ports: &[u16]) {
        let mut encoder = Encoder::default();
        for (index, port) in ports.iter().enumerate() {
            let Ok(data_channel) = u8::try_from(index * 2) else { return };
            let (request, port_text) = (index.to_string(), port.to_string());
            for (channel, kind) in [(data_channel + 1, "error"), (data_channel, "data")] {
                let headers =
                    [("streamtype", kind), ("port", port_text.as_str()), ("requestid", request.as_str())];
                let stream = encoder.open(&headers, &mut self.opening);
                self.streams.insert(channel, stream);
                self.channels.insert(stream, channel);
                self.greetings.push((channel, port.to_le_bytes().to_vec()));
            }
        }
    }

    async fn run(mut self) -> io::Result<()> {
        self.to_runtime.write_all(&self.opening).await?;
        for (channel, bytes) in std::mem::take(&mut self.greetings) {
            self.tell_client(channel, &bytes).await?;
        }
        loop {
            tokio::select! {
                frame = self.from_runtime.next() => {
                    let Some(frame) = frame? else { break };
                    self.take_frame(frame).await?;
                    if self.channels.is_empty() {
                        break;
                    }
                }
                message = self.from_client.next() => match message {
                    Some(Ok(Message::Binary(bytes))) => self.take_message(&bytes).await?,
                    Some(Ok(Message::Text(text))) => self.take_text(text.as_str()).await?,
                    Some(Ok(Message::Close(_))) | None => return self.to_runtime.shutdown().await,
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(io::Error::other(error)),
                }
            }
        }
        self.to_client.send(farewell()).await.map_err(io::Error::other)?;
        // The client's own close, so that the last bytes are not lost in a reset.
        while let Some(Ok(message)) = self.from_client.next().await {
            if message.is_close() {
                break;
            }
        }
        Ok(())
    }

    async fn take_frame(&mut self, frame: Frame) -> io::Result<()> {
        match frame {
            Frame::Data { stream, bytes, fin } => {
                let channel = self.channels.get(&stream).copied();
                if let Some(channel) = channel.filter(|_| !bytes.is_empty()) {
                    self.tell_client(channel, &bytes).await?;
                }
                if fin {
                    self.channels.remove(&stream);
                }
                Ok(())
            }
            Frame::Reset { stream } => {
                self.channels.remove(&stream);
                Ok(())
            }
            Frame::Ping(ping) => {
                let mut out = BytesMut::new();
                spdy::pong(&ping, &mut out);
                self.to_runtime.write_all(&out).await
            }
            Frame::GoAway | Frame::Other => Ok(()),
        }
    }

    async fn tell_client(&mut self, channel: u8, bytes: &[u8]) -> io::Result<()> {
        let message = if self.text {
            Message::text(format!("{channel}{}", BASE64.encode(bytes)))
        } else {
            let mut whole = BytesMut::with_capacity(bytes.len() + 1);
            whole.extend_from_slice(&[channel]);
            whole.extend_from_slice(bytes);
            Message::Binary(whole.freeze())
        };
        self.to_client.send(message).await.map_err(io::Error::other)
    }

    async fn take_text(&mut self, text: &str) -> io::Result<()> {
        let mut whole = BytesMut::new();
        let (channel, encoded) = text.split_at(text.len().min(1));
        let Ok(channel) = channel.parse::<u8>() else { return Ok(()) };
        whole.extend_from_slice(&[channel]);
        whole.extend_from_slice(&BASE64.decode(encoded).unwrap_or_default());
        self.take_message(&whole.freeze()).await
    }

    async fn take_message(&mut self, message: &Bytes) -> io::Result<()> {
        let Some((channel, bytes)) = message.split_first() else { return Ok(()) };
        let (channel, bytes, fin) = match (*channel, bytes) {
            (CLOSE, [closed, ..]) => (*closed, &[][..], true),
            (channel, bytes) => (channel, bytes, false),
        };
        let Some(stream) = self.streams.get(&channel).copied() else { return Ok(()) };
        if bytes.is_empty() && !fin {
            return Ok(());
        }
        if fin {
            self.streams.remove(&channel);
        }
        send_data(&mut self.to_runtime, stream, bytes, fin).await
    }
}

async fn send_data(
    to: &mut (impl AsyncWrite + Unpin),
    stream: u32,
    bytes: &[u8],
    fin: bool,
) -> io::Result<()> {
    let mut out = BytesMut::with_capacity(bytes.len() + 16);
    spdy::data(stream, bytes, fin, &mut out);
    to.write_all(&out).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_offered_protocol_is_chosen() {
        let mut headers = HeaderMap::new();
        assert_eq!(choose(&headers, EXEC_PROTOCOLS), None);
        headers.append(
            header::SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static("v4.channel.k8s.io, v5.channel.k8s.io"),
        );
        assert_eq!(choose(&headers, EXEC_PROTOCOLS), Some("v5.channel.k8s.io"));
        assert_eq!(choose(&headers, &["other"]), None);
    }
}
