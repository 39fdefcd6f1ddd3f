//! The plugin process: one request carried to the agent and its answer back, with nothing else started.

use std::{
    env,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;

use super::{
    MESSAGE_BYTES_MAX,
    answer::{Answer, CniError, code, versions},
    loopback::{self, LOOPBACK},
    request::Request,
};

/// Longer than the agent itself waits for anything; the runtime's own limit is minutes.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Where the agent listens when the configuration does not say.
const DEFAULT_SOCKET: &str = "/run/bowsprit/cni.sock";

/// Whether a container runtime calls this process as a plugin: it says so in the environment.
pub fn is_plugin_call() -> bool {
    env::var_os("CNI_COMMAND").is_some()
}

fn is_loopback() -> bool {
    env::args_os().next().is_some_and(|program| Path::new(&program).ends_with(LOOPBACK))
}

/// The whole plugin: returns the exit code.
pub fn plugin_main() -> i32 {
    let request = match read_request(io::stdin()) {
        Ok(request) => request,
        Err(error) => return print(&Answer::Error(error), "1.0.0"),
    };
    // The one command that needs no agent: the runtime asks it to learn whether the plugin runs at all.
    if request.command == "VERSION" {
        return print(&Answer::Result(versions()), request.version());
    }
    if is_loopback() {
        return print(&loopback::answer(&request), request.version());
    }
    match ask(&request) {
        Ok(answer) => print(&answer, request.version()),
        Err(error) => print(&Answer::Error(error), request.version()),
    }
}

fn read_request(input: impl Read) -> Result<Request, CniError> {
    let variable = |name: &str| env::var(name).unwrap_or_default();
    let mut bytes = Vec::new();
    input
        .take(MESSAGE_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(|error| CniError::new(code::IO, format!("reading standard input failed: {error}")))?;
    let config = if bytes.iter().all(u8::is_ascii_whitespace) {
        Value::Null
    } else {
        serde_json::from_slice(&bytes).map_err(|error| {
            CniError::new(code::DECODE, format!("the network configuration is not JSON: {error}"))
        })?
    };
    Ok(Request {
        command: variable("CNI_COMMAND"),
        container: variable("CNI_CONTAINERID"),
        netns: variable("CNI_NETNS"),
        ifname: variable("CNI_IFNAME"),
        args: variable("CNI_ARGS"),
        config,
    })
}

fn ask(request: &Request) -> Result<Answer, CniError> {
    let socket: PathBuf =
        request.config.get("socket").and_then(Value::as_str).unwrap_or(DEFAULT_SOCKET).into();
    let unreachable = |error: io::Error| {
        let message = format!("the agent does not answer on {}: is it running?", socket.display());
        CniError::new(code::LATER, message).details(error.to_string())
    };
    let mut stream = UnixStream::connect(&socket).map_err(unreachable)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT)).map_err(unreachable)?;
    let bytes = serde_json::to_vec(request)
        .map_err(|error| CniError::new(code::DECODE, format!("the request cannot be written: {error}")))?;
    stream.write_all(&bytes).map_err(unreachable)?;
    stream.shutdown(std::net::Shutdown::Write).map_err(unreachable)?;
    let mut answer = Vec::new();
    stream.take(MESSAGE_BYTES_MAX).read_to_end(&mut answer).map_err(unreachable)?;
    serde_json::from_slice(&answer).map_err(|_| {
        CniError::new(code::LATER, "the agent ended before it answered; the runtime tries again")
    })
}

fn print(answer: &Answer, version: &str) -> i32 {
    let (text, exit) = match answer {
        Answer::Result(Value::Null) => return 0,
        Answer::Result(value) => (value.to_string(), 0),
        Answer::Error(error) => (error.to_json(version).to_string(), 1),
    };
    // If nobody reads it, the exit code still tells.
    let _ = writeln!(io::stdout(), "{text}");
    exit
}
