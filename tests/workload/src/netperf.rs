//! Three measures of a path between two processes: new connections per second, round trips per second, one stream.
//!
//! The client says with its first byte what it wants: `c` closes at once, `r` echoes single bytes, `s` is read and dropped.

use crate::Flags;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// One write of the stream; large enough that system calls do not decide.
const CHUNK: usize = 256 * 1024;
/// A connection that does not come about within this has failed, and with it the measurement.
const CONNECT: Duration = Duration::from_secs(2);

pub(crate) fn serve(flags: &Flags) -> ExitCode {
    let port: u16 = flags.get("--port", 5201);
    let listener = match TcpListener::bind(("0.0.0.0", port)) {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("workload: cannot listen on port {port}: {error}");
            return ExitCode::FAILURE;
        }
    };
    for stream in listener.incoming().flatten() {
        std::thread::spawn(move || {
            // The client decides when it has enough: its end is no error here.
            let _ended = answer(stream);
        });
    }
    ExitCode::SUCCESS
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut kind = [0u8];
    stream.read_exact(&mut kind)?;
    match kind[0] {
        b'r' => loop {
            let mut byte = [0u8];
            stream.read_exact(&mut byte)?;
            stream.write_all(&byte)?;
        },
        b's' => {
            let mut buffer = vec![0u8; CHUNK];
            while stream.read(&mut buffer)? > 0 {}
            Ok(())
        }
        _ => stream.write_all(b"c"),
    }
}

/// Prints one number: connections or round trips per second, or megabits per second.
pub(crate) fn call(flags: &Flags) -> ExitCode {
    let Some(address) = flags.subject().to_socket_addrs().ok().and_then(|mut all| all.next()) else {
        eprintln!("workload: {} is no HOST:PORT", flags.subject());
        return ExitCode::from(64);
    };
    let time = Duration::from_millis(flags.get("--ms", 2000));
    let result = match flags.get("--kind", "connect".to_owned()).as_str() {
        "connect" => connects(address, time),
        "rr" => round_trips(address, time),
        "stream" => stream(address, time),
        other => {
            eprintln!("workload: --kind is connect, rr or stream, not {other}");
            return ExitCode::from(64);
        }
    };
    match result {
        Ok(rate) => {
            println!("{rate:.0}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("workload: {address}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn rate(count: u64, began: Instant) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    let count = count as f64;
    count / began.elapsed().as_secs_f64()
}

fn connects(address: SocketAddr, time: Duration) -> std::io::Result<f64> {
    let began = Instant::now();
    let mut count = 0;
    while began.elapsed() < time {
        let mut stream = TcpStream::connect_timeout(&address, CONNECT)?;
        stream.write_all(b"c")?;
        // The server closes first, so that its end keeps TIME_WAIT and the client does not run out of ports.
        stream.read_to_end(&mut Vec::new())?;
        count += 1;
    }
    Ok(rate(count, began))
}

fn round_trips(address: SocketAddr, time: Duration) -> std::io::Result<f64> {
    let mut stream = TcpStream::connect_timeout(&address, CONNECT)?;
    stream.set_nodelay(true)?;
    stream.write_all(b"r")?;
    let began = Instant::now();
    let mut count = 0;
    let mut byte = [7u8];
    while began.elapsed() < time {
        stream.write_all(&byte)?;
        stream.read_exact(&mut byte)?;
        count += 1;
    }
    Ok(rate(count, began))
}

fn stream(address: SocketAddr, time: Duration) -> std::io::Result<f64> {
    let mut stream = TcpStream::connect_timeout(&address, CONNECT)?;
    stream.write_all(b"s")?;
    let chunk = vec![0u8; CHUNK];
    let began = Instant::now();
    let mut bytes = 0u64;
    while began.elapsed() < time {
        stream.write_all(&chunk)?;
        bytes += chunk.len() as u64;
    }
    Ok(rate(bytes * 8 / 1_000_000, began))
}
