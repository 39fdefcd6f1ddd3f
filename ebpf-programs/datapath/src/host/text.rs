//! Packets as a line of text, with names for addresses: what tables of packets are written in.
//!
//! ```text
//! tcp a:1000 > web:80 S          flags S A F R, `seq N`, `ack N`
//! udp a:1000 > world:53 len 12
//! echo a > b id 7                `reply` for the answer
//! icmp 3/4 router > a arg 1400 : tcp a:1000 > world:80
//! udp a:1000 > b:53 id 9 first   `later` for a fragment without header; `df`
//! ```

use std::collections::HashMap;
use std::fmt::Write;

use abi::{Port, protocol};

use super::HostFamily;
use super::frame::{Body, Fragment, Frame, Transport};
use crate::flow::tcp;

/// What addresses are called.
#[derive(Clone, Debug, Default)]
pub struct Names(HashMap<String, [u32; 4]>);

impl Names {
    /// Calls an address so.
    pub fn add(&mut self, name: &str, address: [u32; 4]) {
        self.0.insert(name.to_owned(), address);
    }

    /// The address with this name.
    pub fn address(&self, name: &str) -> [u32; 4] {
        *self.0.get(name).unwrap_or_else(|| panic!("no address is called {name}"))
    }

    /// The name of an address.
    pub fn name<F: HostFamily>(&self, address: [u32; 4]) -> String {
        let found = self.0.iter().find(|(_, known)| **known == address);
        found.map_or_else(|| F::show(address), |(name, _)| name.clone())
    }
}

const FLAGS: [(char, u32); 4] = [('S', tcp::SYN), ('A', tcp::ACK), ('F', tcp::FIN), ('R', tcp::RST)];

/// A frame from text. Panics on text that is none: it is written by tests.
pub fn read<F: HostFamily>(text: &str, names: &Names) -> Frame {
    let (head, quote) = match text.split_once(" : ") {
        Some((head, quote)) => (head, Some(quote)),
        None => (text, None),
    };
    let mut words = head.split_whitespace();
    let mut next = || words.next().unwrap_or_else(|| panic!("{text:?} is cut off"));
    let transport = match next() {
        "tcp" => Transport::Tcp { flags: 0, sequence: 0, acknowledges: 0 },
        "udp" => Transport::Udp,
        "sctp" => Transport::Sctp,
        "echo" => Transport::Echo { reply: false },
        "icmp" => icmp(next()),
        number => Transport::Opaque { protocol: number.parse().expect("a protocol's name or number") },
    };
    let (source, source_port) = end(next(), names);
    assert_eq!(next(), ">", "{text:?}");
    let (destination, destination_port) = end(next(), names);
    let body = match quote {
        Some(quote) => Body::Quote(Box::new(read::<F>(quote, names))),
        None => Body::Octets(0),
    };
    let fragment = Fragment::default();
    let wrong = Vec::new();
    let mut frame =
        Frame { source, destination, source_port, destination_port, transport, body, fragment, wrong };
    while let Some(word) = words.next() {
        option(&mut frame, word, &mut words);
    }
    frame
}

/// `type/code`.
fn icmp(text: &str) -> Transport {
    let (icmp_type, code) = text.split_once('/').expect("type/code");
    let number = |text: &str| text.parse().expect("a number");
    Transport::Icmp { icmp_type: number(icmp_type), code: number(code), argument: 0 }
}

/// `name` or `name:port`.
fn end(text: &str, names: &Names) -> ([u32; 4], Port) {
    match text.split_once(':') {
        Some((name, port)) => (names.address(name), Port::new(port.parse().expect("a port"))),
        None => (names.address(text), Port(0)),
    }
}

/// One word behind the ends, and its argument.
fn option<'a>(frame: &mut Frame, word: &str, words: &mut impl Iterator<Item = &'a str>) {
    let mut number = || words.next().and_then(|word| word.parse::<u32>().ok()).expect("a number");
    match (word, &mut frame.transport) {
        ("len", _) => frame.body = Body::Octets(number() as usize),
        ("seq", Transport::Tcp { sequence, .. }) => *sequence = number(),
        ("ack", Transport::Tcp { acknowledges, .. }) => *acknowledges = number(),
        ("id", Transport::Echo { .. }) => {
            frame.source_port = Port::new(number() as u16);
            frame.destination_port = frame.source_port;
        }
        ("reply", Transport::Echo { reply }) => *reply = true,
        ("arg", Transport::Icmp { argument, .. }) => *argument = number(),
        ("id", _) => frame.fragment.id = number() as u16,
        ("df", _) => frame.fragment.place |= 0x4000,
        ("first", _) => frame.fragment.place |= 0x2000,
        ("later", _) => later(frame),
        (flags, Transport::Tcp { flags: bits, .. }) => {
            for letter in flags.chars() {
                let flag = FLAGS.iter().find(|(known, _)| *known == letter);
                *bits |= flag.unwrap_or_else(|| panic!("no flag is called {letter}")).1;
            }
        }
        _ => panic!("{word} means nothing here"),
    }
}

/// Makes a frame the second fragment of its packet: no ports in it.
fn later(frame: &mut Frame) {
    let protocol = match frame.transport {
        Transport::Tcp { .. } => protocol::TCP,
        Transport::Udp => protocol::UDP,
        Transport::Sctp => protocol::SCTP,
        _ => protocol::ICMP,
    };
    frame.transport = Transport::Opaque { protocol };
    frame.fragment.place |= 185;
    if frame.body == Body::Octets(0) {
        frame.body = Body::Octets(16);
    }
}

/// A frame as text: what [`read`] reads, without what is as it always is.
pub fn write<F: HostFamily>(frame: &Frame, names: &Names) -> String {
    let name = |address| names.name::<F>(address);
    let (source, destination) = (name(frame.source), name(frame.destination));
    let (sport, dport) = (frame.source_port.get(), frame.destination_port.get());
    let mut text = match &frame.transport {
        Transport::Tcp { flags, .. } => {
            let letters: String =
                FLAGS.iter().filter(|(_, flag)| flags & flag != 0).map(|(letter, _)| *letter).collect();
            format!("tcp {source}:{sport} > {destination}:{dport} {letters}")
        }
        Transport::Udp => format!("udp {source}:{sport} > {destination}:{dport}"),
        Transport::Sctp => format!("sctp {source}:{sport} > {destination}:{dport}"),
        Transport::Echo { reply } => {
            format!("echo {source} > {destination} id {sport}{}", if *reply { " reply" } else { "" })
        }
        Transport::Icmp { icmp_type, code, .. } => {
            format!("icmp {icmp_type}/{code} {source} > {destination}")
        }
        Transport::Opaque { protocol } => format!("{protocol} {source} > {destination}"),
    };
    if let Body::Quote(quoted) = &frame.body {
        let _ = write!(text, " : {}", write::<F>(quoted, names));
    }
    for wrong in &frame.wrong {
        let _ = write!(text, " WRONG {wrong}");
    }
    text.trim_end().to_owned()
}
