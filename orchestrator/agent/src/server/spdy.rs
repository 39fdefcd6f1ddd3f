//! As much of SPDY/3.1 as a client of the runtime's streaming server needs: it opens streams, sends and receives data,
//! answers pings. Header blocks are sent uncompressed within their zlib wrapping, and received ones are not read: nothing
//! in a SYN_REPLY matters here.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Flag of a frame that ends its direction of a stream.
const FIN: u8 = 0x01;
/// Version 3 with the control bit.
const CONTROL: u16 = 0x8003;
const SYN_STREAM: u16 = 1;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;

/// Bytes before a frame's payload.
const HEADER_BYTES: usize = 8;
/// A stored deflate block holds at most this much; our headers are a hundred bytes.
const STORED_BYTES_MAX: usize = 0xffff;
/// The largest frame that a header can announce.
pub const FRAME_BYTES_MAX: usize = 0xff_ffff;

/// A frame that came in, as far as it matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Data of a stream.
    Data {
        /// The stream.
        stream: u32,
        /// The bytes.
        bytes: Bytes,
        /// Nothing follows in this direction.
        fin: bool,
    },
    /// The stream was refused or broken off.
    Reset {
        /// The stream.
        stream: u32,
    },
    /// To be sent back as it is.
    Ping(Bytes),
    /// The server takes no more streams.
    GoAway,
    /// Replies, settings, windows.
    Other,
}

/// Encodes frames of a client.
#[derive(Default)]
pub struct Encoder {
    last_stream: u32,
    /// The zlib header goes before the first header block only.
    begun: bool,
}

// === impl Encoder ===

impl Encoder {
    /// Opens a stream with these headers; answers its number.
    pub fn open(&mut self, headers: &[(&str, &str)], out: &mut BytesMut) -> u32 {
        // A client's streams have odd numbers.
        self.last_stream = if self.last_stream == 0 { 1 } else { self.last_stream + 2 };
        let block = self.header_block(headers);
        control(out, SYN_STREAM, 0, 10 + block.len());
        out.put_u32(self.last_stream);
        out.put_u32(0);
        out.put_u16(0);
        out.put_slice(&block);
        self.last_stream
    }

    fn header_block(&mut self, headers: &[(&str, &str)]) -> BytesMut {
        let mut plain = BytesMut::new();
        plain.put_u32(length(headers.len()));
        for (name, value) in headers {
            for text in [name, value] {
                plain.put_u32(length(text.len()));
                plain.put_slice(text.as_bytes());
            }
        }
        debug_assert!(plain.len() <= STORED_BYTES_MAX);
        let mut block = BytesMut::new();
        if !std::mem::replace(&mut self.begun, true) {
            // zlib: deflate, 32 KiB window, no preset dictionary.
            block.put_slice(&[0x78, 0x01]);
        }
        stored(&mut block, &plain);
        // An empty block makes the reader give out what it has before it looks for more.
        stored(&mut block, &[]);
        block
    }
}

/// A deflate block that holds its bytes as they are.
fn stored(block: &mut BytesMut, bytes: &[u8]) {
    let count = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    block.put_u8(0);
    block.put_u16_le(count);
    block.put_u16_le(!count);
    block.put_slice(bytes);
}

/// Data for a stream; `fin` says that nothing follows.
pub fn data(stream: u32, bytes: &[u8], fin: bool, out: &mut BytesMut) {
    let mut chunks = bytes.chunks(FRAME_BYTES_MAX).peekable();
    if chunks.peek().is_none() {
        return data_frame(stream, &[], fin, out);
    }
    while let Some(chunk) = chunks.next() {
        data_frame(stream, chunk, fin && chunks.peek().is_none(), out);
    }
}

fn data_frame(stream: u32, bytes: &[u8], fin: bool, out: &mut BytesMut) {
    out.put_u32(stream);
    flags_and_length(out, if fin { FIN } else { 0 }, bytes.len());
    out.put_slice(bytes);
}

/// The answer to a ping.
pub fn pong(ping: &Bytes, out: &mut BytesMut) {
    control(out, PING, 0, ping.len());
    out.put_slice(ping);
}

fn control(out: &mut BytesMut, kind: u16, flags: u8, payload: usize) {
    out.put_u16(CONTROL);
    out.put_u16(kind);
    flags_and_length(out, flags, payload);
}

fn flags_and_length(out: &mut BytesMut, flags: u8, payload: usize) {
    out.put_u32(u32::from(flags) << 24 | length(payload));
}

fn length(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Reads frames from a connection.
pub struct Reader<R> {
    from: R,
    buffer: BytesMut,
}

// === impl Reader ===

impl<R: AsyncRead + Unpin> Reader<R> {
    /// Reads frames from `from`.
    pub fn new(from: R) -> Self {
        Reader { from, buffer: BytesMut::new() }
    }

    /// The next frame; `None` at the end of the connection. Can be cancelled without losing bytes.
    pub async fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.take() {
                return Ok(Some(frame));
            }
            if self.from.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }

    fn take(&mut self) -> Option<Frame> {
        let mut header = self.buffer.get(..HEADER_BYTES)?;
        let (first, second) = (header.get_u32(), header.get_u32());
        let payload = (second & 0x00ff_ffff) as usize;
        if self.buffer.len() < HEADER_BYTES + payload {
            self.buffer.reserve(HEADER_BYTES + payload - self.buffer.len());
            return None;
        }
        self.buffer.advance(HEADER_BYTES);
        let bytes = self.buffer.split_to(payload).freeze();
        let fin = (second >> 24) as u8 & FIN != 0;
        if first & 0x8000_0000 == 0 {
            return Some(Frame::Data { stream: first, bytes, fin });
        }
        Some(match (first & 0xffff) as u16 {
            RST_STREAM if bytes.len() >= 4 => Frame::Reset { stream: (&bytes[..4]).get_u32() & 0x7fff_ffff },
            PING => Frame::Ping(bytes),
            GOAWAY => Frame::GoAway,
            _ => Frame::Other,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_opens_with_readable_headers() {
        let mut out = BytesMut::new();
        let mut encoder = Encoder::default();
        assert_eq!(encoder.open(&[("streamtype", "stdin")], &mut out), 1);
        let first = out.split();
        assert_eq!(&first[..4], [0x80, 0x03, 0x00, 0x01]);
        let length = usize::from(first[6]) << 8 | usize::from(first[7]);
        assert_eq!(length, first.len() - HEADER_BYTES);
        // zlib header, stored block of 4 + 4 + 10 + 4 + 5 bytes.
        assert_eq!(&first[18..25], [0x78, 0x01, 0x00, 27, 0, 0xe4, 0xff]);
        assert!(first.ends_with(b"stdin\x00\x00\x00\xff\xff"));
        assert_eq!(encoder.open(&[("streamtype", "stdout")], &mut out), 3);
        assert_eq!(out[18], 0, "the zlib header comes once");
    }

    #[tokio::test]
    async fn frames_are_read_across_reads() {
        let mut out = BytesMut::new();
        data(1, b"hello", false, &mut out);
        data(1, b"", true, &mut out);
        pong(&Bytes::from_static(&[0, 0, 0, 7]), &mut out);
        control(&mut out, RST_STREAM, 0, 8);
        out.put_u64(3 << 32 | 5);
        let (mut writer, reader) = tokio::io::duplex(3);
        tokio::spawn(async move {
            tokio::io::AsyncWriteExt::write_all(&mut writer, &out).await.expect("read");
        });
        let mut reader = Reader::new(reader);
        let mut frames = Vec::new();
        while let Some(frame) = reader.next().await.expect("frames") {
            frames.push(frame);
        }
        assert_eq!(
            frames,
            [
                Frame::Data { stream: 1, bytes: Bytes::from_static(b"hello"), fin: false },
                Frame::Data { stream: 1, bytes: Bytes::new(), fin: true },
                Frame::Ping(Bytes::from_static(&[0, 0, 0, 7])),
                Frame::Reset { stream: 3 },
            ]
        );
    }
}
