//! The agent's side of the socket: threads that answer one request each.
//!
//! Threads rather than tasks: a request is a row of blocking kernel calls, some of them inside another network namespace,
//! which is a property of the thread.

use std::{
    fs, io,
    io::{Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixListener, net::UnixStream},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use serde_json::Value;

use super::{
    MESSAGE_BYTES_MAX,
    answer::{Answer, CniError, code, versions},
    request::{Command, Request},
};
use crate::error::{Error, Result};

/// Requests at work at a time. A runtime starts four sandboxes at once with profit; the rest may be removals and retries.
const CONCURRENT_MAX: usize = 16;

/// A plugin that stops in the middle of its request must not hold a place for long.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Who does the work behind the socket.
pub trait Handler: Send + Sync + 'static {
    /// Makes a pod's device, or finds it made; the result to print.
    fn add(&self, request: &Request) -> Result<Value, CniError>;
    /// Removes a pod's device; success when there is none.
    fn del(&self, request: &Request) -> Result<(), CniError>;
    /// Looks whether a pod's device is as it was made.
    fn check(&self, request: &Request) -> Result<(), CniError>;
}

/// The listening socket; dropping it stops accepting.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    stopping: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

/// Counts requests at work.
#[derive(Debug, Default)]
struct Places {
    taken: Mutex<usize>,
    freed: Condvar,
}

struct Place(Arc<Places>);

// === impl Server ===

impl Server {
    /// Listens on `path`, which is replaced if a predecessor left it.
    pub fn start(path: &Path, handler: Arc<dyn Handler>) -> Result<Self> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(Error::file("making", parent))?;
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::file("removing", path)(error));
            }
            _ => {}
        }
        let listener = UnixListener::bind(path).map_err(Error::file("listening on", path))?;
        // Whoever may write here may give any namespace a pod's address.
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))
            .map_err(Error::file("protecting", path))?;
        let stopping = Arc::new(AtomicBool::new(false));
        let acceptor = std::thread::Builder::new()
            .name("cni".into())
            .spawn({
                let stopping = stopping.clone();
                move || accept(&listener, &handler, &stopping)
            })
            .map_err(Error::file("starting a thread for", path))?;
        Ok(Server { path: path.into(), stopping, acceptor: Some(acceptor) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        // Wakes the acceptor.
        let _ = UnixStream::connect(&self.path);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        let _ = fs::remove_file(&self.path);
    }
}

fn accept(listener: &UnixListener, handler: &Arc<dyn Handler>, stopping: &AtomicBool) {
    let places = Arc::new(Places::default());
    for stream in listener.incoming() {
        if stopping.load(Ordering::Acquire) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let place = Places::take(&places);
        let handler = handler.clone();
        let serve = move || {
            let _place = place;
            serve(stream, &*handler);
        };
        if let Err(error) = std::thread::Builder::new().name("cni-request".into()).spawn(serve) {
            tracing::error!(%error, "no thread for a CNI request; the runtime tries again");
        }
    }
}

fn serve(mut stream: UnixStream, handler: &dyn Handler) {
    let answer = match read(&mut stream).and_then(|request| dispatch(&request, handler)) {
        Ok(value) => Answer::Result(value),
        Err(error) => Answer::Error(error),
    };
    let bytes = serde_json::to_vec(&answer).expect("invariant: an answer is made of JSON values");
    if let Err(error) = stream.write_all(&bytes) {
        tracing::warn!(%error, "the CNI plugin left before its answer");
    }
}

fn read(stream: &mut UnixStream) -> Result<Request, CniError> {
    let io = |error: io::Error| CniError::new(code::IO, format!("reading the request failed: {error}"));
    stream.set_read_timeout(Some(REQUEST_TIMEOUT)).map_err(io)?;
    let mut bytes = Vec::new();
    stream.take(MESSAGE_BYTES_MAX).read_to_end(&mut bytes).map_err(io)?;
    serde_json::from_slice(&bytes)
        .map_err(|error| CniError::new(code::DECODE, format!("the request is not JSON: {error}")))
}

fn dispatch(request: &Request, handler: &dyn Handler) -> Result<Value, CniError> {
    let command = request.command()?;
    if command == Command::Version {
        return Ok(versions());
    }
    request.check_version()?;
    request.check_names()?;
    let started = std::time::Instant::now();
    let result = match command {
        Command::Add => handler.add(request),
        Command::Del => handler.del(request).map(|()| Value::Null),
        Command::Check => handler.check(request).map(|()| Value::Null),
        Command::Version => Ok(versions()),
    };
    let ms = started.elapsed().as_secs_f64() * 1e3;
    let Request { command, container, .. } = request;
    match &result {
        Ok(_) => tracing::debug!(%command, %container, ms, "CNI request done"),
        Err(error) => tracing::warn!(%command, %container, ms, %error, "CNI request failed"),
    }
    result
}

// === impl Places ===

impl Places {
    /// Waits for a place: over the bound the plugin waits in the socket's queue.
    fn take(this: &Arc<Self>) -> Place {
        let mut taken = this.taken.lock();
        while *taken >= CONCURRENT_MAX {
            this.freed.wait(&mut taken);
        }
        *taken += 1;
        Place(this.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *self.0.taken.lock() -= 1;
        self.0.freed.notify_one();
    }
}
