//! NodePorts from outside, and what else comes in by the uplink.

use super::{Case, case, row};

pub(super) const CASES: &[Case] = &[
    case(
        "a NodePort served on the node",
        &[
            row(
                "the client's address is kept",
                "uplink",
                "tcp world:5 > node:30080 S",
                "pod b",
                "tcp world:5 > b:8080 S",
            ),
            row(
                "the answer leaves in the node's name",
                "b",
                "tcp b:8080 > world:5 SA",
                "route",
                "tcp node:30080 > world:5 SA",
            ),
            row("unchanged by the uplink", "leaves", "tcp node:30080 > world:5 SA", "pass", ""),
            row("data", "uplink", "tcp world:5 > node:30080 A len 8", "pod b", "tcp world:5 > b:8080 A"),
            row("datagrams", "uplink", "udp world:5 > node:30080 len 8", "pod b", "udp world:5 > b:8080"),
            row("and theirs", "b", "udp b:8080 > world:5", "route", "udp node:30080 > world:5"),
        ],
    ),
    case(
        "a NodePort served elsewhere",
        &[
            row(
                "goes under the node's name",
                "uplink",
                "tcp world:5 > node:30081 S",
                "tunnel 2",
                "tcp overlay:* > r:8080 S",
            ),
            row(
                "and comes back",
                "tunnel",
                "tcp r:8080 > overlay:* SA",
                "route",
                "tcp node:30081 > world:5 SA",
            ),
            row("data", "uplink", "tcp world:5 > node:30081 A", "tunnel 2", "tcp overlay:* > r:8080 A"),
            row(
                "another client",
                "uplink",
                "tcp router:5 > node:30081 S",
                "tunnel 2",
                "tcp overlay:* > r:8080 S",
            ),
            row(
                "has its own port",
                "tunnel",
                "tcp r:8080 > overlay:* SA",
                "route",
                "tcp node:30081 > router:5 SA",
            ),
        ],
    ),
    case(
        "a NodePort served by the host",
        &[
            row(
                "goes up the stack",
                "uplink",
                "tcp world:5 > node:30082 S",
                "host",
                "tcp world:5 > node:6443 S",
            ),
            row(
                "the answer gets its name back",
                "leaves",
                "tcp node:6443 > world:5 SA",
                "pass",
                "tcp node:30082 > world:5 SA",
            ),
        ],
    ),
    case(
        "a NodePort that nobody serves",
        &[
            row(
                "is answered",
                "uplink",
                "tcp world:5 > node:30083 S",
                "answer NoBackend",
                "tcp node:30083 > world:5 AR",
            ),
            row(
                "Local, and nobody here",
                "uplink",
                "tcp world:5 > node:30084 S",
                "answer NoLocalBackend",
                "tcp node:30084 > world:5 AR",
            ),
            row("a port without Service is the host's", "uplink", "tcp world:5 > node:30099 S", "pass", ""),
        ],
    ),
    case(
        "the host's own",
        &[
            row("a login", "uplink", "tcp world:5 > node:22 S", "pass", ""),
            row("its answer", "leaves", "tcp node:22 > world:5 SA", "pass", ""),
            row("the tunnel itself", "uplink", "udp node2:4444 > node:8472 len 90", "pass", ""),
            row("and out", "leaves", "udp node:4444 > node2:8472 len 90", "pass", ""),
            row("a ClusterIP is none of the outside", "uplink", "tcp world:5 > web:80 S", "pass", ""),
            row("a pod, if somebody routes there", "uplink", "tcp world:5 > a:80 S", "pod a", ""),
            row("and its answer by the host's routes", "a", "tcp a:80 > world:5 SA", "pass", ""),
            row("under its own address", "leaves", "tcp a:80 > world:5 SA", "pass", ""),
        ],
    ),
];
