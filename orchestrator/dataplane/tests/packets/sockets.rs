//! The socket hooks on a real cgroup: a connect to a Service arrives at its backend, and the client never learns.

use std::fs;
use std::io::{ErrorKind, Read, Seek, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process;

use abi::names::program;
use abi::{Addr4, Addr6, Backend, Port, Service, ServiceKey, event_kind, protocol, scope};
use aya::programs::{CgroupAttachMode, Program};
use datapath::V4;
use datapath::host::World;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};

use crate::kernel::{Kernel, ip};

/// A command of a test takes some milliseconds; a loaded machine gets much longer.
const LEAVE_MS: u16 = 10_000;
/// Where cgroup v2 may be mounted: alone, or beside v1.
const HIERARCHIES: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// A cgroup that this thread is in while the value lives.
struct Cgroup {
    path: PathBuf,
    home: PathBuf,
}

impl Cgroup {
    /// The whole process moves in: hooks are asked by the socket's cgroup, and a socket's is its maker's.
    fn enter() -> Self {
        let root = HIERARCHIES.iter().map(Path::new).find(|root| root.join("cgroup.controllers").exists());
        let root = root.expect("cgroup v2 is mounted").to_owned();
        let path = root.join(format!("bowsprit-test-{}", process::id()));
        fs::create_dir(&path).expect("a cgroup takes root");
        let line = fs::read_to_string("/proc/self/cgroup").expect("/proc is mounted");
        let own =
            line.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/").trim_start_matches('/');
        let cgroup = Cgroup { path, home: root.join(own) };
        join(&cgroup.path);
        cgroup
    }
}

fn join(cgroup: &Path) {
    let result = fs::write(cgroup.join("cgroup.procs"), process::id().to_string());
    result.unwrap_or_else(|error| panic!("joining {}: {error}", cgroup.display()));
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        join(&self.home);
        // Commands that other tests began meanwhile are in it until they end.
        await_empty(&self.path);
        fs::remove_dir(&self.path)
            .unwrap_or_else(|error| panic!("removing {}: {error}", self.path.display()));
    }
}

/// Waits until no process is left in a cgroup.
fn await_empty(cgroup: &Path) {
    let mut events = fs::File::open(cgroup.join("cgroup.events")).expect("a cgroup has events");
    loop {
        let mut text = String::new();
        events.rewind().expect("a file");
        events.read_to_string(&mut text).expect("readable");
        if text.contains("populated 0") {
            return;
        }
        let changed =
            poll(&mut [PollFd::new(events.as_fd(), PollFlags::POLLPRI)], PollTimeout::from(LEAVE_MS));
        assert!(changed.expect("cgroup files can be polled") > 0, "{} stays populated", cgroup.display());
    }
}

/// A Service of one backend.
fn serve4(kernel: &mut Kernel, vip: Ipv4Addr, protocol: u8, backend: Option<(Ipv4Addr, u16)>) {
    let slot = u32::from(protocol);
    if let Some((address, port)) = backend {
        let value = Backend { address: Addr4::from(address), port: Port::new(port), flags: 0, service: 1 };
        kernel.array("BACKENDS4").set(slot, value, 0).expect("a slot");
    }
    let key = ServiceKey { address: Addr4::from(vip), port: Port::new(80), protocol, scope: scope::INTERNAL };
    let service = Service { id: 1, base: slot, ready: backend.is_some() as u32, ..Service::default() };
    kernel.hash("SERVICES4").insert(key, service, 0).expect("a frontend");
}

fn serve6(kernel: &mut Kernel, vip: Ipv6Addr, port: u16) {
    let value =
        Backend { address: Addr6::from(Ipv6Addr::LOCALHOST), port: Port::new(port), flags: 0, service: 2 };
    kernel.array("BACKENDS6").set(0, value, 0).expect("a slot");
    let key = ServiceKey {
        address: Addr6::from(vip),
        port: Port::new(80),
        protocol: protocol::TCP,
        scope: scope::INTERNAL,
    };
    let service = Service { id: 2, ready: 1, ..Service::default() };
    kernel.hash("SERVICES6").insert(key, service, 0).expect("a frontend");
}

fn attach(kernel: &mut Kernel, cgroup: &Path) {
    let cgroup = fs::File::open(cgroup).expect("the cgroup is there");
    for name in program::SOCK_ADDR.iter().copied().chain([program::SOCK_RELEASE]) {
        match kernel.program(name) {
            Program::CgroupSockAddr(program) => {
                dataplane::patiently(|| program.load()).unwrap_or_else(|error| panic!("{name}: {error}"));
                program.attach(cgroup.as_fd(), CgroupAttachMode::Single).expect(name);
            }
            Program::CgroupSock(program) => {
                dataplane::patiently(|| program.load()).unwrap_or_else(|error| panic!("{name}: {error}"));
                program.attach(cgroup.as_fd(), CgroupAttachMode::Single).expect(name);
            }
            _ => panic!("{name} is a socket hook"),
        }
    }
}

const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 7, 7);
const EMPTY: Ipv4Addr = Ipv4Addr::new(10, 96, 7, 8);

/// One test: a process has one cgroup.
#[test]
fn sockets_reach_backends_under_the_services_name() {
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace takes root");
    ip("link set lo up");
    let cgroup = Cgroup::enter();
    let mut kernel = Kernel::load(&mut World::<V4>::default());
    kernel.hold(&World::<V4>::default());
    attach(&mut kernel, &cgroup.path);
    let listener = TcpListener::bind("[::]:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    serve4(&mut kernel, VIP, protocol::TCP, Some((Ipv4Addr::LOCALHOST, port)));
    serve4(&mut kernel, EMPTY, protocol::TCP, None);
    tcp(&listener, SocketAddr::from((VIP, 80)));
    tcp(&listener, SocketAddr::from((VIP.to_ipv6_mapped(), 80)));
    refused(&mut kernel);
    datagrams(&mut kernel);
    let vip6 = Ipv6Addr::new(0xfd00, 96, 0, 0, 0, 0, 0, 7);
    serve6(&mut kernel, vip6, port);
    tcp(&listener, SocketAddr::from((vip6, 80)));
    let left: Vec<_> = kernel
        .hash::<abi::SockReverseKey<Addr4>, abi::SockReverseValue<Addr4>>("SOCK_REVERSE4")
        .keys()
        .collect();
    assert!(left.is_empty(), "sockets that are gone are forgotten: {left:?}");
}

fn tcp(listener: &TcpListener, service: SocketAddr) {
    let mut client = TcpStream::connect(service).unwrap_or_else(|error| panic!("{service}: {error}"));
    let (mut server, _) = listener.accept().expect("it came here");
    assert_eq!(client.peer_addr().expect("connected"), service, "the client is told the Service");
    client.write_all(b"ping").expect("open");
    let mut heard = [0; 4];
    server.read_exact(&mut heard).expect("open");
    assert_eq!(&heard, b"ping");
}

fn refused(kernel: &mut Kernel) {
    let error = TcpStream::connect((EMPTY, 80)).expect_err("nobody serves");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
    let events = kernel.events();
    let event = events.last().expect("a report");
    assert_eq!((event.kind, event.hook), (event_kind::DROP, abi::Hook::Socket as u8));
    assert_eq!(event.destination[0], Addr4::from(EMPTY).0);
}

fn datagrams(kernel: &mut Kernel) {
    let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = server.local_addr().expect("bound").port();
    serve4(kernel, VIP, protocol::UDP, Some((Ipv4Addr::LOCALHOST, port)));
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    client.send_to(b"ask", (VIP, 80)).expect("sent");
    let mut buffer = [0; 8];
    let (length, from) = server.recv_from(&mut buffer).expect("it came here");
    assert_eq!(&buffer[..length], b"ask");
    server.send_to(b"answer", from).expect("sent");
    let (length, from) = client.recv_from(&mut buffer).expect("answered");
    assert_eq!(&buffer[..length], b"answer");
    assert_eq!(from, SocketAddr::from((VIP, 80)), "the answer is the Service's");
    // An unconnected socket names no peer when it goes; its entry is the LRU's to drop.
    kernel.clear_reverse();
}
