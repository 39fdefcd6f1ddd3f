//! Container logs in CRI's format: `TIME STREAM TAGS CONTENT`, a line of the file for each line of output or part of one.
//! `reader` serves them, following if asked to; `watcher` tells followers of changes; `rotation` keeps them bounded.

use chrono::{DateTime, Utc};

pub mod reader;
pub mod rotation;
mod watcher;

pub use watcher::LogWatcher;

/// One entry of a log file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// When it was written, as in the file.
    pub time: &'a str,
    /// `stdout` or `stderr`.
    pub stream: &'a str,
    /// The line goes on in the next entry of this stream.
    pub partial: bool,
    /// Without the newline.
    pub content: &'a [u8],
}

/// Takes an entry apart; `None` when the line is not in CRI's format. A trailing newline may be there or not.
pub fn parse(line: &[u8]) -> Option<Entry<'_>> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut fields = line.splitn(4, |byte| *byte == b' ');
    let mut text = || std::str::from_utf8(fields.next()?).ok();
    let (time, stream, tags) = (text()?, text()?, text()?);
    let content = fields.next()?;
    if !matches!(stream, "stdout" | "stderr") {
        return None;
    }
    let partial = tags.split(':').next() == Some("P");
    Some(Entry { time, stream, partial, content })
}

/// The content of one line of a log file as text.
pub fn content(line: &str) -> Option<&str> {
    line.splitn(4, ' ').nth(3)
}

impl Entry<'_> {
    /// When it was written.
    pub fn at(&self) -> Option<DateTime<Utc>> {
        self.time.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_apart() {
        let entry = parse(b"2026-01-02T03:04:05.123456789Z stderr P half a li\n").expect("an entry");
        assert_eq!((entry.stream, entry.partial, entry.content), ("stderr", true, &b"half a li"[..]));
        assert!(entry.at().is_some());
        assert_eq!(parse(b"2026-01-02T03:04:05Z stdout F \n").map(|entry| entry.content), Some(&b""[..]));
        for line in ["", "x", "a b c", "a other F c"] {
            assert_eq!(parse(line.as_bytes()), None, "{line}");
        }
    }
}
