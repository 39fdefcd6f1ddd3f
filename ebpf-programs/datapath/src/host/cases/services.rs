//! Services that packets ask for, where the socket hooks did not translate: ClusterIPs and NodePorts from inside.

use super::{Case, case, case4, row};

pub(super) const CASES: &[Case] = &[
    case(
        "a backend on the node",
        &[
            row("a SYN to the Service", "a", "tcp a:1000 > web:80 S", "pod b", "tcp a:1000 > b:8080 S"),
            row(
                "its answer is the Service's",
                "b",
                "tcp b:8080 > a:1000 SA",
                "pod a",
                "tcp web:80 > a:1000 SA",
            ),
            row("data", "a", "tcp a:1000 > web:80 A len 77", "pod b", "tcp a:1000 > b:8080 A"),
            row("datagrams", "a", "udp a:1000 > web:80 len 3", "pod b", "udp a:1000 > b:8080"),
            row("their answers", "b", "udp b:8080 > a:1000 len 4", "pod a", "udp web:80 > a:1000"),
            row(
                "without a backend for the port",
                "a",
                "tcp a:1 > web:81 S",
                "answer NoService",
                "tcp web:81 > a:1 AR",
            ),
        ],
    ),
    case(
        "a backend elsewhere",
        &[
            row("a SYN to the Service", "a", "tcp a:1000 > far:80 S", "tunnel 2", "tcp a:1000 > r:8080 S"),
            row("its answer", "tunnel", "tcp r:8080 > a:1000 SA", "pod a", "tcp far:80 > a:1000 SA"),
            row("the node asks", "stack", "tcp overlay:1 > far:80 S", "tunnel 2", "tcp overlay:1 > r:8080 S"),
            row(
                "and is answered",
                "tunnel",
                "tcp r:8080 > overlay:1 SA",
                "host",
                "tcp far:80 > overlay:1 SA",
            ),
        ],
    ),
    case(
        "a backend on the host",
        &[
            row("a SYN to the Service", "a", "tcp a:1000 > host:443 S", "host", "tcp a:1000 > node:6443 S"),
            row("its answer", "stack", "tcp node:6443 > a:1000 SA", "pod a", "tcp host:443 > a:1000 SA"),
        ],
    ),
    case(
        "a backend outside",
        &[
            row(
                "a SYN to the Service: the host routes it",
                "a",
                "tcp a:1000 > ext:80 S",
                "pass",
                "tcp a:1000 > world:8080 S",
            ),
            row("it leaves", "leaves", "tcp a:1000 > world:8080 S", "pass", "tcp node:* > world:8080 S"),
            row(
                "its answer is the Service's",
                "uplink",
                "tcp world:8080 > node:* SA",
                "pod a",
                "tcp ext:80 > a:1000 SA",
            ),
            row("data", "a", "tcp a:1000 > ext:80 A", "pass", "tcp a:1000 > world:8080 A"),
            row("leaves", "leaves", "tcp a:1000 > world:8080 A", "pass", "tcp node:* > world:8080 A"),
        ],
    ),
    case(
        "a pod that serves itself",
        &[
            row(
                "goes through the node's address",
                "a",
                "tcp a:1000 > self:80 S",
                "pod a",
                "tcp overlay:* > a:8080 S",
            ),
            row("and back", "a", "tcp a:8080 > overlay:* SA", "pod a", "tcp self:80 > a:1000 SA"),
            row("data", "a", "tcp a:1000 > self:80 A", "pod a", "tcp overlay:* > a:8080 A"),
        ],
    ),
    case(
        "nobody serves",
        &[
            row(
                "TCP is reset",
                "a",
                "tcp a:1000 > none:80 S seq 5",
                "answer NoBackend",
                "tcp none:80 > a:1000 AR",
            ),
            row(
                "also in the middle",
                "a",
                "tcp a:1 > none:80 A ack 9 len 30",
                "answer NoBackend",
                "tcp none:80 > a:1 R",
            ),
            row("a reset is not answered", "a", "tcp a:1000 > none:80 R", "drop NoBackend", ""),
            row(
                "a NodePort is",
                "a",
                "tcp a:1000 > node:30083 S",
                "answer NoBackend",
                "tcp node:30083 > a:1000 AR",
            ),
            row(
                "an address that no Service has",
                "a",
                "tcp a:1 > nobody:80 S",
                "answer NoService",
                "tcp nobody:80 > a:1 AR",
            ),
        ],
    ),
    case4(
        "nobody serves datagrams",
        &[
            row(
                "an ICMP error says so",
                "a",
                "udp a:1000 > none:80 len 30",
                "answer NoBackend",
                "icmp 3/3 none > a : udp a:1000 > none:80",
            ),
            row(
                "also for the shortest one",
                "a",
                "udp a:1000 > none:80",
                "answer NoBackend",
                "icmp 3/3 none > a : udp a:1000 > none:80",
            ),
        ],
    ),
    case(
        "NodePorts from inside",
        &[
            row("of the own node", "a", "tcp a:1 > node:30080 S", "pod b", "tcp a:1 > b:8080 S"),
            row("answered in its name", "b", "tcp b:8080 > a:1 SA", "pod a", "tcp node:30080 > a:1 SA"),
            row("of another node", "a", "tcp a:2 > node2:30080 S", "pod b", "tcp a:2 > b:8080 S"),
            row(
                "of the overlay address",
                "a",
                "tcp a:3 > overlay2:30081 S",
                "tunnel 2",
                "tcp a:3 > r:8080 S",
            ),
            row("not of a pod", "a", "tcp a:4 > b:30080 S", "pod b", ""),
            row("a port without Service is the node's", "a", "tcp a:5 > node:30099 S", "host", ""),
        ],
    ),
    case(
        "the same tuple, with and without a Service",
        &[
            row("through the Service", "a", "tcp a:1000 > web:80 S", "pod b", "tcp a:1000 > b:8080 S"),
            row("is answered", "b", "tcp b:8080 > a:1000 SA", "pod a", "tcp web:80 > a:1000 SA"),
            row(
                "directly: the later gets another port",
                "a",
                "tcp a:1000 > b:8080 S",
                "pod b",
                "tcp a:* > b:8080 S",
            ),
            row("and is answered", "b", "tcp b:8080 > a:* SA", "pod a", "tcp b:8080 > a:1000 SA"),
            row("its data", "a", "tcp a:1000 > b:8080 A", "pod b", "tcp a:* > b:8080 A"),
            row("the first lives on", "a", "tcp a:1000 > web:80 A", "pod b", "tcp a:1000 > b:8080 A"),
            row("and is answered", "b", "tcp b:8080 > a:1000 A", "pod a", "tcp web:80 > a:1000 A"),
        ],
    ),
    case(
        "the same tuple, without and with a Service",
        &[
            row("directly", "a", "tcp a:1000 > b:8080 S", "pod b", ""),
            row("is answered", "b", "tcp b:8080 > a:1000 SA", "pod a", ""),
            row(
                "through the Service: the later gets another port",
                "a",
                "tcp a:1000 > web:80 S",
                "pod b",
                "tcp a:* > b:8080 S",
            ),
            row("and is answered", "b", "tcp b:8080 > a:* SA", "pod a", "tcp web:80 > a:1000 SA"),
            row("the first lives on", "b", "tcp b:8080 > a:1000 A", "pod a", ""),
            row("is closed", "a", "tcp a:1000 > b:8080 FA", "pod b", ""),
            row("by both", "b", "tcp b:8080 > a:1000 FA", "pod a", ""),
        ],
    ),
    case(
        "one connection after the other, through a Service",
        &[
            row("a connection", "a", "tcp a:1000 > web:80 S", "pod b", "tcp a:1000 > b:8080 S"),
            row("is answered", "b", "tcp b:8080 > a:1000 SA", "pod a", "tcp web:80 > a:1000 SA"),
            row("and reset by the backend", "b", "tcp b:8080 > a:1000 R", "pod a", "tcp web:80 > a:1000 R"),
            row(
                "a new one may go to another backend",
                "a",
                "tcp a:1000 > web:80 S",
                "pod b",
                "tcp a:1000 > b:8080 S",
            ),
            row("and is answered", "b", "tcp b:8080 > a:1000 SA", "pod a", "tcp web:80 > a:1000 SA"),
            row(
                "a SYN of the backend does not cut it",
                "b",
                "tcp b:8080 > a:1000 S",
                "drop ConntrackClash",
                "",
            ),
        ],
    ),
    case(
        "errors of backends",
        &[
            row("a datagram", "a", "udp a:1000 > web:80 len 3", "pod b", "udp a:1000 > b:8080"),
            row(
                "the backend's refusal is the Service's",
                "b",
                "icmp 3/3 b > a : udp a:1000 > b:8080",
                "pod a",
                "icmp 3/3 web > a : udp a:1000 > web:80",
            ),
            row(
                "the client's refusal of the answer",
                "a",
                "icmp 3/3 a > web : udp web:80 > a:1000",
                "pod b",
                "icmp 3/3 a > b : udp b:8080 > a:1000",
            ),
        ],
    ),
];
