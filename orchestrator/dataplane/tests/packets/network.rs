//! Two nodes with pods, joined by a segment on which a client sits: what BPF_PROG_TEST_RUN does not carry out -
//! redirection into pods, the tunnel, neighbours, answers, masquerade - is carried out here, with real sockets.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use abi::names::{self, program};
use abi::{
    Addr4, Config, Endpoint, GATEWAY_MAC, Mac, Node, Peer, Port, Service, ServiceKey, State, class, feature,
    node_flag, peer_flag, policy_id, scope,
};
use aya::Pod;
use aya::programs::{Program, TcAttachType};
use datapath::host::world::{NET, OVERLAY, PODS, UPLINK};
use datapath::host::{Names, World};
use datapath::{Address, V4, V6};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{Shutdown, shutdown};

use crate::kernel::{Kernel, KernelFamily, ip};

/// Networks are numbered so that tests beside each other, and runs that were interrupted, do not meet.
static NETWORKS: AtomicU32 = AtomicU32::new(0);

/// How long a socket waits for what must come.
const PATIENCE: Duration = Duration::from_secs(5);

/// Named namespaces, removed with the value.
struct Network {
    prefix: String,
    names: Vec<String>,
}

impl Drop for Network {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = process::Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

impl Network {
    fn new(places: &[&str]) -> Self {
        let prefix = format!("bw{}-{}-", process::id(), NETWORKS.fetch_add(1, Ordering::Relaxed));
        let mut network = Network { names: Vec::new(), prefix };
        for place in places {
            let name = network.name(place);
            ip(&format!("netns add {name}"));
            network.names.push(name);
        }
        network
    }

    fn name(&self, place: &str) -> String {
        format!("{}{place}", self.prefix)
    }

    /// Runs something in a namespace, on a thread of its own.
    fn within<R: Send>(&self, place: &str, work: impl FnOnce() -> R + Send) -> R {
        let path = format!("/run/netns/{}", self.name(place));
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                let namespace = File::open(path).expect("the namespace is there");
                setns(namespace, CloneFlags::CLONE_NEWNET).expect("entering takes root");
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

/// A family's `ip` and prefixes.
trait Wired: KernelFamily {
    const IP: &'static str;
    const SEGMENT: u8;
    const PODS: &'static str;
    const GATEWAY: &'static str;
}

impl Wired for V4 {
    const IP: &'static str = "-4";
    const SEGMENT: u8 = 24;
    const PODS: &'static str = "10.244.0.0/16";
    const GATEWAY: &'static str = "169.254.1.1";
}

impl Wired for V6 {
    const IP: &'static str = "-6";
    const SEGMENT: u8 = 64;
    const PODS: &'static str = "fd00:f4::/32";
    const GATEWAY: &'static str = "fe80::1";
}

/// The address of a place as sockets take it.
fn address<F: Wired>(names: &Names, name: &str) -> IpAddr {
    F::show(names.address(name)).parse().expect("an address")
}

fn set(path: &str, value: &str) {
    fs::write(path, value).unwrap_or_else(|error| panic!("{path}: {error}"));
}

/// Takes checksum offload from a device: what leaves it carries a whole checksum, which its receiver verifies.
fn checksum_in_software(device: &str) {
    /// "Ask the driver" (linux/sockios.h), and "set transmit checksums" (linux/ethtool.h).
    const SIOCETHTOOL: libc::c_ulong = 0x8946;
    const ETHTOOL_STXCSUM: u32 = 0x17;
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    let mut off = [ETHTOOL_STXCSUM, 0];
    // SAFETY: all zero is a request.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = off.as_mut_ptr().cast();
    // SAFETY: the request names a device and a command block that outlive the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &mut request) };
    assert_eq!(result, 0, "{device}: {}", std::io::Error::last_os_error());
}

/// The segment: a bridge with the client's address on it.
fn segment<F: Wired>(names: &Names) {
    ip("link set lo up");
    ip("link add br0 type bridge");
    ip("link set br0 up");
    for node in [1, 2] {
        ip(&format!("link set port{node} master br0 up"));
    }
    let nodes = F::place(100, 0);
    ip(&format!("{} route add {}/{} dev br0", F::IP, F::show(nodes.words()), F::SEGMENT));
    let nodad = if F::VERSION == 6 { "nodad" } else { "" };
    ip(&format!("{} addr add {}/{} dev br0 {nodad}", F::IP, address::<F>(names, "world"), F::BITS));
}

/// Which node, by its number.
#[derive(Clone, Copy)]
struct Seat {
    number: u8,
    node: &'static str,
    overlay: &'static str,
    pods: &'static [&'static str],
}

const SEATS: [Seat; 2] = [
    Seat { number: 1, node: "node", overlay: "overlay", pods: &["a", "b"] },
    Seat { number: 2, node: "node2", overlay: "overlay2", pods: &["r"] },
];

/// The node's devices and routes.
fn node<F: Wired>(names: &Names, seat: Seat) {
    ip("link set lo up");
    for (path, value) in [
        ("/proc/sys/net/ipv4/ip_forward", "1"),
        ("/proc/sys/net/ipv6/conf/all/forwarding", "1"),
        ("/proc/sys/net/ipv4/conf/all/rp_filter", "0"),
        ("/proc/sys/net/ipv4/conf/default/rp_filter", "0"),
    ] {
        set(path, value);
    }
    let nodad = if F::VERSION == 6 { "nodad" } else { "" };
    ip(&format!("link set uplink address 02:00:00:00:00:0{}", seat.number));
    ip("link set uplink up");
    // The tunnel's own addresses are IPv4 in either case.
    ip(&format!("-4 addr add 192.168.0.{}/24 dev uplink", seat.number));
    if F::VERSION == 6 {
        ip(&format!("-6 addr add {}/64 dev uplink nodad", address::<F>(names, seat.node)));
    }
    ip(&format!("{} route add {}/{} dev uplink", F::IP, address::<F>(names, "world"), F::BITS));
    ip(&format!("link add bowsprit_host type veth peer name bowsprit_net index {NET}"));
    for device in ["bowsprit_host", "bowsprit_net"] {
        ip(&format!("link set {device} arp off up"));
    }
    ip(&format!(
        "{} addr add {}/{} dev bowsprit_host {nodad}",
        F::IP,
        address::<F>(names, seat.overlay),
        F::BITS
    ));
    let source = address::<F>(names, seat.overlay);
    ip(&format!("{} route add {} dev bowsprit_host src {source}", F::IP, F::PODS));
    ip(&format!("link add vx index {OVERLAY} type vxlan external dstport 8472"));
    ip("link set vx mtu 1450 up");
}

/// Native routing: the other node's pods by the other node's address.
fn route_to_the_other<F: Wired>(names: &Names, seat: Seat) {
    let other = SEATS[usize::from(seat.number == 1)];
    let pods = F::place(other.number, 0);
    ip(&format!(
        "{} route add {}/{} via {} src {}",
        F::IP,
        F::show(pods.words()),
        F::SEGMENT,
        address::<F>(names, other.node),
        address::<F>(names, seat.overlay),
    ));
}

/// MAC of a pod, as [`World`] has it.
fn mac(octets: [u8; 6]) -> String {
    octets.map(|octet| format!("{octet:02x}")).join(":")
}

/// A pod's side of its link.
fn pod<F: Wired>(names: &Names, name: &str) {
    let nodad = if F::VERSION == 6 { "nodad" } else { "" };
    ip("link set lo up");
    ip("link set eth0 mtu 1450 up");
    ip(&format!("{} addr add {}/{} dev eth0 {nodad}", F::IP, address::<F>(names, name), F::BITS));
    let gateway = F::GATEWAY;
    ip(&format!("{} neigh add {gateway} lladdr {} nud permanent dev eth0", F::IP, mac(GATEWAY_MAC.octets())));
    if F::VERSION == 4 {
        ip(&format!("-4 route add {gateway} dev eth0 scope link"));
    }
    ip(&format!("{} route add default via {gateway} dev eth0", F::IP));
}

/// Joins namespaces by links; devices of nodes keep the numbers of [`World`].
fn wire<F: Wired>(network: &Network, names: &Names, features: u32) {
    for seat in SEATS {
        let (node, out) = (network.name(seat.node), network.name("world"));
        let number = seat.number;
        ip(&format!("-n {node} link add uplink index {UPLINK} type veth peer name port{number} netns {out}"));
        for name in seat.pods {
            let host = host_part::<F>(names, name);
            let octets = [2, 0, 0, 0, 1, host];
            ip(&format!(
                "-n {node} link add pod{host} index {} address {} type veth peer name eth0 address {} netns {}",
                PODS + host as u32,
                mac(GATEWAY_MAC.octets()),
                mac(octets),
                network.name(name),
            ));
            ip(&format!("-n {node} link set pod{host} up"));
        }
    }
    network.within("world", || segment::<F>(names));
    for seat in SEATS {
        network.within(seat.node, || node::<F>(names, seat));
        if features & feature::VXLAN == 0 {
            network.within(seat.node, || route_to_the_other::<F>(names, seat));
        }
        for name in seat.pods {
            network.within(name, || pod::<F>(names, name));
        }
    }
}

/// Last octet of a pod's address.
fn host_part<F: Wired>(names: &Names, name: &str) -> u8 {
    match address::<F>(names, name) {
        IpAddr::V4(address) => address.octets()[3],
        IpAddr::V6(address) => address.octets()[15],
    }
}

/// The second node's view of the cluster, where the first's is [`World`]'s.
fn second<F: Wired>(kernel: &mut Kernel, world: &World<F>)
where
    ServiceKey<F::Address>: Pod,
    abi::Backend<F::Address>: Pod,
{
    kernel.hold(world);
    let first = Node {
        address: [Addr4::from([192, 168, 0, 1].into_addr()).0, 0, 0, 0],
        flags: node_flag::PRESENT,
        reserved: 0,
    };
    kernel.array(names::NODES.name).set(1, first, 0).expect("a node");
    let mut state = State { epoch: 1, ..State::default() };
    F::set_state(&mut state, world.address("node2"), world.address("overlay2"));
    kernel.array(names::STATE.name).set(0, state, 0).expect("the state");
    let endpoints = F::map(names::ENDPOINTS4, names::ENDPOINTS6);
    for (address, _) in world.tables.endpoints.all() {
        kernel.hash::<F::Address, Endpoint>(endpoints).remove(&address).expect("it was the first node's");
    }
    let r = Endpoint {
        ifindex: PODS + 10,
        class: class::FIRST,
        egress_policy: policy_id::ALLOW,
        ingress_policy: policy_id::ALLOW,
        mac: Mac::new([2, 0, 0, 0, 1, 10]),
        ..Endpoint::default()
    };
    kernel.hash(endpoints).insert(world.address("r"), r, 0).expect("a pod");
    peers(kernel, world);
    for id in [1, 2] {
        let ready_local = u32::from(id == 2);
        let service = Service { id, base: id * 10, ready: 1, ready_local, ..Service::default() };
        let key = ServiceKey {
            address: F::Address::default(),
            port: Port::new(30079 + id as u16),
            protocol: abi::protocol::TCP,
            scope: scope::EXTERNAL,
        };
        kernel.hash(F::map(names::SERVICES4, names::SERVICES6)).insert(key, service, 0).expect("a NodePort");
    }
}

fn peers<F: Wired>(kernel: &mut Kernel, world: &World<F>) {
    const HERE: u32 = peer_flag::NODE | peer_flag::LOCAL;
    for (name, class, node, flags) in [
        ("node2", class::SELF_NODE, 0, HERE),
        ("overlay2", class::SELF_NODE, 0, HERE),
        ("node", class::FIRST + 2, 1, peer_flag::NODE),
        ("overlay", class::FIRST + 2, 1, peer_flag::NODE),
        ("r", class::FIRST, 0, peer_flag::LOCAL),
        ("a", class::FIRST, 1, 0),
        ("b", class::FIRST, 1, 0),
    ] {
        let peer = Peer { class, node, flags };
        kernel
            .hash(F::map(names::PEERS4, names::PEERS6))
            .insert(world.address(name), peer, 0)
            .expect("a peer");
    }
}

/// An address from octets, without naming the type twice.
trait IntoAddr {
    fn into_addr(self) -> std::net::Ipv4Addr;
}

impl IntoAddr for [u8; 4] {
    fn into_addr(self) -> std::net::Ipv4Addr {
        self.into()
    }
}

/// Attaches a node's programs; in the node's namespace.
fn attach(kernel: &mut Kernel, seat: Seat, pods: &[u8]) {
    let mut hooks = vec![
        (program::NODE_EGRESS, "bowsprit_net".to_owned(), TcAttachType::Ingress),
        (program::UPLINK_INGRESS, "uplink".to_owned(), TcAttachType::Ingress),
        (program::UPLINK_EGRESS, "uplink".to_owned(), TcAttachType::Egress),
        (program::OVERLAY_INGRESS, "vx".to_owned(), TcAttachType::Ingress),
    ];
    hooks.extend(pods.iter().map(|host| (program::POD_EGRESS, format!("pod{host}"), TcAttachType::Ingress)));
    for (name, device, hook) in hooks {
        let Program::SchedClassifier(program) = kernel.program(name) else {
            panic!("{name} is a tcx program")
        };
        let attached = program.attach(&device, hook);
        attached.unwrap_or_else(|error| panic!("{name} on {device} of node {}: {error}", seat.number));
    }
}

/// Two nodes, ready.
struct Cluster<F: Wired> {
    network: Network,
    world: World<F>,
    kernels: [Kernel; 2],
}

impl<F: Wired> Cluster<F>
where
    ServiceKey<F::Address>: Pod,
    abi::Backend<F::Address>: Pod,
{
    fn up(features: u32) -> Self {
        let mut world = World::<F>::default();
        let config = world.tables.config.get_mut();
        *config = Config { features, ..*config };
        let network = Network::new(&["world", "node", "node2", "a", "b", "r"]);
        wire::<F>(&network, &world.names, features);
        let mut first = Kernel::load(&mut world);
        first.hold(&world);
        let mut other = Kernel::load(&mut world);
        second(&mut other, &world);
        let mut kernels = [first, other];
        for (seat, kernel) in SEATS.into_iter().zip(&mut kernels) {
            let pods: Vec<u8> = seat.pods.iter().map(|name| host_part::<F>(&world.names, name)).collect();
            network.within(seat.node, || attach(kernel, seat, &pods));
        }
        Cluster { network, world, kernels }
    }

    fn at(&self, name: &str, port: u16) -> SocketAddr {
        SocketAddr::new(address::<F>(&self.world.names, name), port)
    }

    /// Connects from a place to an address that another place serves, says much and hears it back; gives who the
    /// server saw.
    fn talk(&mut self, from: &str, to: (&str, u16), server: (&str, u16)) -> IpAddr {
        let any = SocketAddr::new(if F::VERSION == 6 { [0u16; 8].into() } else { [0u8; 4].into() }, server.1);
        let listener = self.network.within(server.0, || TcpListener::bind(any).expect("a port"));
        let destination = self.at(to.0, to.1);
        let network = &self.network;
        let result = thread::scope(|scope| {
            let served = scope.spawn(|| echo(&listener));
            network.within(from, || converse(destination)).map(|()| served.join().expect("the server ends"))
        });
        // Another test's child may hold a copy until it runs its program, and with it the port.
        shutdown(listener.as_raw_fd(), Shutdown::Both).expect("a listener can be shut");
        match result {
            Ok(peer) => peer,
            Err(error) => panic!("{from} to {destination} at {server:?}: {error}\n{}", self.drops()),
        }
    }

    /// Everyone who may speak to someone does, and who asks for nobody is told.
    fn reach(&mut self) {
        for (from, to, server, seen) in TALKS {
            let peer = self.talk(from, *to, *server);
            assert_eq!(peer, address::<F>(&self.world.names, seen), "{from} at {to:?}: who the server sees");
        }
        nobody_serves(self);
    }

    /// What the programs dropped, for people.
    fn drops(&mut self) -> String {
        let mut text = String::new();
        for (seat, kernel) in SEATS.iter().zip(&mut self.kernels) {
            for event in kernel.events() {
                let why = abi::DropCode::from_word(event.drop);
                let (source, destination) = (F::show(event.source), F::show(event.destination));
                text.push_str(&format!(
                    "node {} kind {} hook {}: {source}:{:?} > {destination}:{:?} {why:?}\n",
                    seat.number, event.kind, event.hook, event.source_port, event.destination_port
                ));
            }
        }
        text
    }
}

/// Enough to fill windows and to be bundled.
const SAID: usize = 1 << 20;

fn converse(destination: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&destination, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let said: Vec<u8> = (0..SAID).map(|i| (i * 7) as u8).collect();
    let mut writer = stream.try_clone()?;
    let mut heard = vec![0; SAID];
    thread::scope(|scope| {
        let speaks = scope.spawn(|| writer.write_all(&said));
        let hears = stream.read_exact(&mut heard);
        speaks.join().expect("it speaks")?;
        hears
    })?;
    assert!(said == heard, "what comes back is what was said");
    Ok(())
}

/// Serves one connection; gives its peer.
fn echo(listener: &TcpListener) -> IpAddr {
    let Ok((mut stream, peer)) = accept_within(listener) else { return IpAddr::from([0; 4]) };
    let mut writer = stream.try_clone().expect("a second handle");
    let _ = std::io::copy(&mut stream, &mut writer);
    peer.ip()
}

/// Accepts, or gives up when nobody comes.
fn accept_within(listener: &TcpListener) -> std::io::Result<(TcpStream, SocketAddr)> {
    let mut wait = [nix::poll::PollFd::new(std::os::fd::AsFd::as_fd(listener), nix::poll::PollFlags::POLLIN)];
    let milliseconds = u16::try_from(PATIENCE.as_millis()).expect("it is short");
    if nix::poll::poll(&mut wait, milliseconds)? == 0 {
        return Err(ErrorKind::TimedOut.into());
    }
    listener.accept()
}

/// Who speaks to whom, who serves, and as whom the server sees the client.
type Talk = (&'static str, (&'static str, u16), (&'static str, u16), &'static str);

const TALKS: &[Talk] = &[
    ("a", ("b", 8080), ("b", 8080), "a"),
    ("a", ("r", 8080), ("r", 8080), "a"),
    ("r", ("a", 8080), ("a", 8080), "r"),
    ("a", ("node", 8081), ("node", 8081), "a"),
    ("a", ("node2", 8081), ("node2", 8081), "a"),
    ("node", ("a", 8080), ("a", 8080), "overlay"),
    ("node", ("r", 8080), ("r", 8080), "overlay"),
    ("node2", ("a", 8080), ("a", 8080), "overlay2"),
    ("a", ("web", 80), ("b", 8080), "a"),
    ("a", ("far", 80), ("r", 8080), "a"),
    ("a", ("self", 80), ("a", 8080), "overlay"),
    ("a", ("host", 443), ("node", 6443), "a"),
    ("a", ("world", 8080), ("world", 8080), "node"),
    ("a", ("ext", 80), ("world", 8080), "node"),
    ("world", ("node", 30080), ("b", 8080), "world"),
    ("world", ("node", 30081), ("r", 8080), "overlay"),
    ("world", ("node2", 30080), ("b", 8080), "overlay2"),
    ("world", ("node", 30082), ("node", 6443), "world"),
    ("a", ("node2", 30081), ("r", 8080), "a"),
];

/// Everyone who may speak to someone does, and is seen as who it should be.
fn everyone_reaches_everyone<F: Wired>(features: u32)
where
    ServiceKey<F::Address>: Pod,
    abi::Backend<F::Address>: Pod,
{
    Cluster::<F>::up(features).reach();
}

/// Refusals come at once.
fn nobody_serves<F: Wired>(cluster: &mut Cluster<F>)
where
    ServiceKey<F::Address>: Pod,
    abi::Backend<F::Address>: Pod,
{
    for (from, to) in [("a", ("none", 80)), ("a", ("web", 81)), ("world", ("node", 30083))] {
        let destination = cluster.at(to.0, to.1);
        let error = cluster
            .network
            .within(from, || TcpStream::connect_timeout(&destination, PATIENCE).expect_err("refused"));
        assert_eq!(
            error.kind(),
            ErrorKind::ConnectionRefused,
            "{from} to {to:?}: {error}\n{}",
            cluster.drops()
        );
    }
    let destination = cluster.at("none", 80);
    let any = SocketAddr::new(if F::VERSION == 6 { [0u16; 8].into() } else { [0u8; 4].into() }, 0);
    let error = cluster.network.within("a", || {
        let socket = UdpSocket::bind(any).expect("a port");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        socket.connect(destination).expect("connecting sends nothing");
        socket.send(b"anyone?").expect("sent");
        socket.recv(&mut [0; 8]).expect_err("nobody")
    });
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}\n{}", cluster.drops());
}

/// What every cluster has.
const ALWAYS: u32 = feature::MASQUERADE | feature::FLOW_EVENTS;

#[test]
fn everyone_reaches_everyone_through_the_tunnel_in_ipv4() {
    everyone_reaches_everyone::<V4>(feature::VXLAN | ALWAYS);
}

#[test]
fn everyone_reaches_everyone_through_the_tunnel_in_ipv6() {
    everyone_reaches_everyone::<V6>(feature::VXLAN | ALWAYS);
}

/// Devices at either end of every way, so that whole and partial checksums are rewritten and then verified.
fn checksums_hold<F: Wired>()
where
    ServiceKey<F::Address>: Pod,
    abi::Backend<F::Address>: Pod,
{
    let mut cluster = Cluster::<F>::up(feature::VXLAN | ALWAYS);
    for (place, device) in [("node", "uplink"), ("node2", "uplink"), ("a", "eth0"), ("world", "port1")] {
        cluster.network.within(place, || checksum_in_software(device));
    }
    cluster.reach();
}

#[test]
fn checksums_hold_in_ipv4() {
    checksums_hold::<V4>();
}

#[test]
fn checksums_hold_in_ipv6() {
    checksums_hold::<V6>();
}

#[test]
fn everyone_reaches_everyone_by_routes_in_ipv4() {
    everyone_reaches_everyone::<V4>(ALWAYS);
}

#[test]
fn everyone_reaches_everyone_by_routes_in_ipv6() {
    everyone_reaches_everyone::<V6>(ALWAYS);
}
