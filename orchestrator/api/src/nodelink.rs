//! The stream between an agent and its server: lines of JSON in both directions over one long request.
//!
//! Up go heartbeats with the newest revision whose endpoints the node's kernel holds, down comes the minimum of those
//! numbers over all nodes that are up. Both are states, not events: a newer line replaces an older one.
use std::marker::PhantomData;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The group of the endpoint.
pub const GROUP: &str = "bowsprit.dev";
/// Where an agent sends its reports with `POST`; the node's name follows.
pub const PATH: &str = "/apis/bowsprit.dev/v1/nodelink/";
/// How often an agent reports when nothing changes: four reports fit into the second within which a dead node is noticed.
pub const HEARTBEAT: Duration = Duration::from_millis(250);
/// Longest line: a number and its name, with room for fields to come.
const LINE_BYTES_MAX: usize = 4096;

/// What an agent says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// The newest revision whose endpoints the kernel holds; 0 before the first.
    pub applied: u64,
}

/// What the server answers, at once and with every change, and at least as often as it is reported to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Notice {
    /// The revision that every node's kernel holds; 0 while that is not known.
    pub minimum: u64,
}

/// One line of the stream.
pub fn line<T: Serialize>(message: &T) -> Vec<u8> {
    let mut line = serde_json::to_vec(message).expect("invariant: messages are plain data");
    line.push(b'\n');
    line
}

/// Takes a stream of bytes apart into messages.
#[derive(Debug)]
pub struct Decoder<T> {
    rest: Vec<u8>,
    message: PhantomData<T>,
}

/// A line that is no message, or never ends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed line in the stream between node and server: {0}")]
pub struct MalformedLine(String);

impl<T> Default for Decoder<T> {
    fn default() -> Self {
        Self { rest: Vec::new(), message: PhantomData }
    }
}

impl<T: DeserializeOwned> Decoder<T> {
    /// Takes the next bytes; returns the newest message that they complete, because it replaces those before it.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Option<T>, MalformedLine> {
        self.rest.extend_from_slice(bytes);
        let mut newest = None;
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let message = serde_json::from_slice(&self.rest[..end]);
            newest = Some(message.map_err(|error| MalformedLine(error.to_string()))?);
            self.rest.drain(..=end);
        }
        if self.rest.len() > LINE_BYTES_MAX {
            return Err(MalformedLine(format!("longer than {LINE_BYTES_MAX} bytes")));
        }
        Ok(newest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_in_pieces_and_the_newest_counts() {
        let mut decoder = Decoder::<Report>::default();
        let mut bytes = line(&Report { applied: 1 });
        bytes.extend(line(&Report { applied: 2 }));
        let (head, tail) = bytes.split_at(bytes.len() - 3);
        assert_eq!(decoder.push(head), Ok(Some(Report { applied: 1 })));
        assert_eq!(decoder.push(tail), Ok(Some(Report { applied: 2 })));
        assert_eq!(decoder.push(b""), Ok(None));
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(Decoder::<Report>::default().push(b"x\n").is_err());
        assert!(Decoder::<Report>::default().push(&[b' '; LINE_BYTES_MAX + 1]).is_err());
    }
}
