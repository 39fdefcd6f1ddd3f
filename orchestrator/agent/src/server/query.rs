//! Query strings of the node's HTTP server, in the kubelet's names and in the API's.

use chrono::{Duration, Utc};

use super::failure::Failure;
use crate::logs::reader::LogOptions;
use crate::runtime::Streams;

/// A query string taken apart.
pub struct Query {
    pairs: Vec<(String, String)>,
}

// === impl Query ===

impl Query {
    /// Takes a query string apart.
    pub fn parse(query: Option<&str>) -> Self {
        let text = query.unwrap_or_default();
        let pairs = form_urlencoded::parse(text.as_bytes()).into_owned().collect();
        Query { pairs }
    }

    /// All values of a key, in order.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.pairs.iter().filter(move |(known, _)| known == key).map(|(_, value)| value.as_str())
    }

    fn get(&self, key: &str) -> Option<&str> {
        let mut found = self.pairs.iter().filter(|(known, value)| known == key && !value.is_empty());
        found.next().map(|(_, value)| value.as_str())
    }

    fn flag(&self, names: &[&str]) -> bool {
        names.iter().any(|name| matches!(self.get(name), Some("1" | "true" | "True" | "t")))
    }

    fn number(&self, key: &str) -> Result<Option<u64>, Failure> {
        let Some(text) = self.get(key) else { return Ok(None) };
        let number =
            text.parse().map_err(|_| Failure::bad_request(format!("{key}={text} is not a number")))?;
        Ok(Some(number))
    }

    /// The command to run.
    pub fn command(&self) -> Vec<String> {
        self.all("command").map(str::to_owned).collect()
    }

    /// The streams wanted. A terminal carries errors in its output.
    pub fn streams(&self) -> Streams {
        let tty = self.flag(&["tty"]);
        Streams {
            stdin: self.flag(&["input", "stdin"]),
            stdout: self.flag(&["output", "stdout"]),
            stderr: self.flag(&["error", "stderr"]) && !tty,
            tty,
        }
    }

    /// Ports named in the request.
    pub fn ports(&self) -> Result<Vec<u16>, Failure> {
        let texts = self.all("port").chain(self.all("ports")).flat_map(|list| list.split(','));
        texts
            .filter(|text| !text.is_empty())
            .map(|text| text.parse().map_err(|_| Failure::bad_request(format!("{text:?} is not a port"))))
            .collect()
    }

    /// The log of the run before is wanted.
    pub fn previous(&self) -> bool {
        self.flag(&["previous"])
    }

    /// What of a log is wanted.
    pub fn log_options(&self) -> Result<LogOptions, Failure> {
        let since_seconds = self.number("sinceSeconds")?;
        let since = match (since_seconds, self.get("sinceTime")) {
            (Some(seconds), _) => {
                let seconds = i64::try_from(seconds).unwrap_or(i64::MAX / 1000);
                Duration::try_seconds(seconds).and_then(|back| Utc::now().checked_sub_signed(back))
            }
            (None, Some(text)) => Some(
                text.parse().map_err(|_| Failure::bad_request(format!("sinceTime={text} is not a time")))?,
            ),
            (None, None) => None,
        };
        let stream = match self.get("stream") {
            None | Some("All") => None,
            Some("Stdout") => Some("stdout".to_owned()),
            Some("Stderr") => Some("stderr".to_owned()),
            Some(other) => {
                return Err(Failure::bad_request(format!("stream={other} is none of All, Stdout, Stderr")));
            }
        };
        Ok(LogOptions {
            follow: self.flag(&["follow"]),
            tail: self.number("tailLines")?,
            since,
            timestamps: self.flag(&["timestamps"]),
            limit_bytes: self.number("limitBytes")?,
            stream,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_names_of_a_stream_are_known() {
        let query = Query::parse(Some("input=1&stdout=true&error=1&command=sh&command=-c&command=a%20b"));
        let streams = query.streams();
        assert_eq!((streams.stdin, streams.stdout, streams.stderr, streams.tty), (true, true, true, false));
        assert_eq!(query.command(), ["sh", "-c", "a b"]);
        assert!(!Query::parse(Some("tty=1&error=1")).streams().stderr);
    }

    #[test]
    fn what_does_not_parse_is_named() {
        let options = Query::parse(Some("tailLines=x")).log_options();
        assert!(options.is_err_and(|failure| failure.to_string().contains("tailLines=x")));
        let options =
            Query::parse(Some("follow=true&tailLines=5&sinceTime=2026-01-01T00:00:00Z")).log_options();
        let options = options.expect("valid");
        assert_eq!((options.follow, options.tail, options.since.is_some()), (true, Some(5), true));
        assert_eq!(Query::parse(Some("port=80,90&port=7")).ports().expect("ports"), [80, 90, 7]);
    }
}
