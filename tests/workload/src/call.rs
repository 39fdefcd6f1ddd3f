//! One request from where this is run: a plain HTTP/1.1 GET over a new connection.

use crate::Flags;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::time::Duration;

/// An answer is cut here: echoes are a few hundred bytes.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// Why a call failed, in a word that the tables print.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The address could not be parsed or resolved.
    Address,
    /// No answer within the time limit: what a dropped packet looks like.
    Timeout,
    /// A RST or ICMP port unreachable to the SYN.
    Refused,
    /// An ICMP host or network unreachable.
    Unreachable,
    /// The connection was cut after it had been made.
    Reset,
    /// The peer closed without a full answer, or answered something that is not HTTP.
    Broken,
}

impl Failure {
    fn of(error: &std::io::Error, connected: bool) -> Self {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Self::Timeout,
            ErrorKind::ConnectionRefused => Self::Refused,
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Self::Unreachable,
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe if connected => Self::Reset,
            ErrorKind::ConnectionReset => Self::Refused,
            _ => Self::Broken,
        }
    }

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Timeout => "timeout",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Reset => "reset",
            Self::Broken => "broken",
        }
    }
}

/// `http://HOST:PORT/PATH`, taken apart.
pub(crate) struct Url<'a> {
    pub(crate) authority: &'a str,
    pub(crate) path: &'a str,
}

impl<'a> Url<'a> {
    /// A URL without a path means `/`; one without a port means port 80.
    pub(crate) fn parse(text: &'a str) -> Self {
        let rest = text.strip_prefix("http://").unwrap_or(text);
        match rest.find('/') {
            Some(at) => Self { authority: &rest[..at], path: &rest[at..] },
            None => Self { authority: rest, path: "/" },
        }
    }

    pub(crate) fn address(&self) -> Option<SocketAddr> {
        let with_port = if self.authority.contains(':') {
            self.authority.to_owned()
        } else {
            format!("{}:80", self.authority)
        };
        with_port.to_socket_addrs().ok()?.next()
    }
}

/// GETs `url` over a new connection: the status code and the body.
pub(crate) fn get(url: &Url<'_>, timeout: Duration) -> Result<(u16, String), Failure> {
    let address = url.address().ok_or(Failure::Address)?;
    let mut stream =
        TcpStream::connect_timeout(&address, timeout).map_err(|error| Failure::of(&error, false))?;
    let late = |error: std::io::Error| Failure::of(&error, true);
    stream.set_read_timeout(Some(timeout)).map_err(late)?;
    stream.set_write_timeout(Some(timeout)).map_err(late)?;
    let request =
        format!("GET {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", url.path, url.authority);
    stream.write_all(request.as_bytes()).map_err(late)?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer).map_err(late)?;
    parse_answer(&answer).ok_or(Failure::Broken)
}

fn parse_answer(answer: &str) -> Option<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse::<usize>().ok());
    // A body cut short is a broken answer, not a short one.
    if length.is_some_and(|length| length != body.len()) {
        return None;
    }
    Some((status, body.to_owned()))
}

/// Prints the body and ends with 0, or prints the failure's word on stderr and ends with 1.
pub(crate) fn run(flags: &Flags) -> ExitCode {
    let timeout = Duration::from_millis(flags.get("--timeout-ms", 2000));
    match get(&Url::parse(flags.subject()), timeout) {
        Ok((200, body)) => {
            print!("{body}");
            ExitCode::SUCCESS
        }
        Ok((status, body)) => {
            eprint!("status {status}: {body}");
            ExitCode::FAILURE
        }
        Err(failure) => {
            eprintln!("{}", failure.word());
            ExitCode::FAILURE
        }
    }
}

/// Only makes a connection: whether the packets of a handshake pass.
pub(crate) fn connect_only(flags: &Flags) -> ExitCode {
    let timeout = Duration::from_millis(flags.get("--timeout-ms", 2000));
    let Some(address) = Url::parse(flags.subject()).address() else {
        eprintln!("{}", Failure::Address.word());
        return ExitCode::FAILURE;
    };
    match TcpStream::connect_timeout(&address, timeout) {
        Ok(_) => {
            println!("connected");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{}", Failure::of(&error, false).word());
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_body_is_a_broken_answer() {
        assert_eq!(
            parse_answer("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
            Some((200, "ok".to_owned()))
        );
        assert_eq!(parse_answer("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok"), None);
        assert_eq!(parse_answer("HTTP/1.1 200 OK\r\n"), None);
    }

    #[test]
    fn urls_come_apart() {
        let url = Url::parse("http://10.0.0.1:8080/call?x=1");
        assert_eq!((url.authority, url.path), ("10.0.0.1:8080", "/call?x=1"));
        assert_eq!(Url::parse("10.0.0.1").address().map(|a| a.port()), Some(80));
    }
}
