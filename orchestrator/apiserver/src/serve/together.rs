//! What a connection writes in one turn leaves together.
//!
//! HTTP/2 flushes after every data frame, and over TLS each flush is a record, a system call and a packet: one event for the
//! hundred watches of a client would be a hundred of them. Here a flush is put off to the connection's next turn, which is
//! asked for at once, so that what other streams have to say meanwhile goes with it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes gathered at most: what a TLS record holds.
const GATHERED_BYTES_MAX: usize = 16 * 1024;

/// A stream that gathers writes until its owner reads again. An HTTP/2 connection reads in every turn.
pub(super) struct Together<S> {
    inner: S,
    gathered: Vec<u8>,
    /// How much of it has left.
    sent: usize,
    put_off: bool,
}

// === impl Together ===

impl<S: AsyncWrite + Unpin> Together<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner, gathered: Vec::new(), sent: 0, put_off: false }
    }

    /// Hands what is gathered on; keeps no memory for it.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.gathered.len() {
            let written = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.gathered[self.sent..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += written;
        }
        self.gathered = Vec::new();
        self.sent = 0;
        Poll::Ready(Ok(()))
    }

    fn poll_send_and_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
        self.put_off = false;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Together<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // A peer that cannot take it now wakes this task when it can; that must not keep us from reading.
        if self.put_off
            && let Poll::Ready(Err(error)) = self.poll_send_and_flush(cx)
        {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Together<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let bytes: usize = slices.iter().map(|slice| slice.len()).sum();
        if self.gathered.len() + bytes > GATHERED_BYTES_MAX {
            ready!(self.poll_send(cx))?;
        }
        if bytes > GATHERED_BYTES_MAX {
            return Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        }
        slices.iter().for_each(|slice| self.gathered.extend_from_slice(slice));
        Poll::Ready(Ok(bytes))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.gathered.is_empty() {
            return self.poll_send_and_flush(cx);
        }
        if !std::mem::replace(&mut self.put_off, true) {
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send_and_flush(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    /// One turn of a connection: reads what there is, then writes and flushes after each frame.
    fn turn(stream: &mut Together<DuplexStream>, cx: &mut Context<'_>, frames: &[&[u8]]) {
        let mut buffer = [0; 16];
        assert!(Pin::new(&mut *stream).poll_read(cx, &mut ReadBuf::new(&mut buffer)).is_pending());
        for frame in frames {
            assert!(Pin::new(&mut *stream).poll_write(cx, frame).is_ready());
            assert!(Pin::new(&mut *stream).poll_flush(cx).is_ready());
        }
    }

    #[tokio::test]
    async fn frames_of_a_turn_leave_with_the_next() {
        let (ours, mut theirs) = duplex(1024);
        let mut stream = Together::new(ours);
        let mut turns = 0;
        poll_fn(|cx| {
            turns += 1;
            turn(&mut stream, cx, if turns == 1 { &[b"one ", b"two"] } else { &[] });
            // Nobody but the flush itself wakes this task.
            if turns == 2 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        let mut seen = [0; 16];
        let count = theirs.read(&mut seen).await.unwrap();
        assert_eq!(&seen[..count], b"one two", "in one piece");
        assert_eq!(stream.gathered.capacity(), 0, "an idle connection holds nothing");
    }

    #[tokio::test]
    async fn everything_arrives_in_order_at_a_slow_reader() {
        let (ours, mut theirs) = duplex(100);
        let sent: Vec<u8> = (0..200_000_u32).map(|number| (number % 251) as u8).collect();
        let expected = sent.clone();
        let writer = tokio::spawn(async move {
            let mut stream = Together::new(ours);
            let (mut rest, mut size) = (&sent[..], 1);
            // Frames of all sizes, also such as are not gathered.
            while !rest.is_empty() {
                let (frame, later) = rest.split_at(size.min(rest.len()));
                stream.write_all(frame).await.unwrap();
                stream.flush().await.unwrap();
                (rest, size) = (later, size * 3 % 40_009);
            }
            stream.shutdown().await.unwrap();
        });
        let mut seen = Vec::new();
        theirs.read_to_end(&mut seen).await.unwrap();
        writer.await.unwrap();
        assert!(seen == expected);
    }
}
