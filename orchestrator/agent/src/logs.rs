//! Container logs in CRI's format: `TIME STREAM TAGS CONTENT`, one line of a file a line or a part of one.

/// The content of one line of a log file; `None` when the line is not in CRI's format.
pub fn content(line: &str) -> Option<&str> {
    line.splitn(4, ' ').nth(3)
}
