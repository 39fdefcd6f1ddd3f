//! The echo: `/` names the pod, `/healthz` is for probes, `/call?url=...` asks this pod to call another address.
//!
//! On SIGTERM it either drains (stops accepting, finishes what it has, ends) or, with `--on-term exit`, ends at once:
//! the cruel application that shows whether the cluster still sends it new connections.

use crate::call::{self, Url};
use crate::{Flags, signals};
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A client that says nothing for this long is closed: an idle connection must not hold up the drain.
const IDLE: Duration = Duration::from_secs(5);
/// In-flight requests get this long after SIGTERM; the default grace period is 30 s.
const DRAIN: Duration = Duration::from_secs(20);

struct Server {
    name: String,
    node: String,
    ready_at: Instant,
    open: AtomicUsize,
}

pub(crate) fn run(flags: &Flags) -> ExitCode {
    let port: u16 = flags.get("--port", 8080);
    let exit_at_once = flags.get("--on-term", "drain".to_owned()) == "exit";
    let server = Arc::new(Server {
        name: std::env::var("POD_NAME")
            .or_else(|_| std::env::var("HOSTNAME"))
            .unwrap_or_else(|_| "unnamed".to_owned()),
        node: std::env::var("NODE_NAME").unwrap_or_default(),
        ready_at: Instant::now() + Duration::from_millis(flags.get("--delay-ready", 0)),
        open: AtomicUsize::new(0),
    });
    let end = signals::install();
    let listener = match TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))
        .or_else(|_| TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], port))))
    {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("workload: cannot listen on port {port}: {error}");
            return ExitCode::FAILURE;
        }
    };
    println!("{} listens on {port}", server.name);
    let acceptor = Arc::clone(&server);
    std::thread::spawn(move || accept(&acceptor, &listener));
    signals::wait(&end);
    if !exit_at_once {
        drain(&server);
    }
    println!("{} ends", server.name);
    ExitCode::SUCCESS
}

/// Accepts until the process ends: a connection that was accepted after SIGTERM is served too, it is in flight.
fn accept(server: &Arc<Server>, listener: &TcpListener) {
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        let server = Arc::clone(server);
        server.open.fetch_add(1, Ordering::SeqCst);
        std::thread::spawn(move || {
            // A client that goes away mid-request is its own affair.
            let _gone = converse(&server, stream);
            server.open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

fn drain(server: &Server) {
    let deadline = Instant::now() + DRAIN;
    while server.open.load(Ordering::SeqCst) > 0 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn converse(server: &Server, stream: TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_nodelay(true)?;
    let peer = stream.peer_addr()?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut close = signals::terminating();
        loop {
            let mut header = String::new();
            if reader.read_line(&mut header)? == 0 {
                return Ok(());
            }
            let header = header.trim_end().to_ascii_lowercase();
            close |= header == "connection: close";
            if header.is_empty() {
                break;
            }
        }
        let (status, body) = server.answer(line.split(' ').nth(1).unwrap_or("/"), peer);
        let connection = if close { "close" } else { "keep-alive" };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: {connection}\r\n\r\n",
            body.len()
        );
        writer.write_all((head + &body).as_bytes())?;
        if close {
            return Ok(());
        }
    }
}

impl Server {
    fn answer(&self, target: &str, peer: SocketAddr) -> (&'static str, String) {
        let path = target.split('?').next().unwrap_or(target);
        match path {
            "/healthz" => ("200 OK", "ok\n".to_owned()),
            "/readyz" if Instant::now() < self.ready_at => {
                ("503 Service Unavailable", "not yet\n".to_owned())
            }
            "/readyz" => ("200 OK", "ok\n".to_owned()),
            "/call" => {
                let url = target.split_once("url=").map_or("", |(_, url)| url);
                match call::get(&Url::parse(url), Duration::from_secs(2)) {
                    Ok((status, body)) => ("200 OK", format!("{} called {url}: {status} {body}", self.name)),
                    Err(failure) => {
                        ("502 Bad Gateway", format!("{} called {url}: {}\n", self.name, failure.word()))
                    }
                }
            }
            _ => (
                "200 OK",
                format!("pod={} node={} client={}\n", self.name, self.node, peer.ip().to_canonical()),
            ),
        }
    }
}
