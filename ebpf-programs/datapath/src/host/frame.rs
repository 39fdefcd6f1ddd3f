//! Frames from their parts, and parts from frames: every checksum right, or said to be wrong.

use abi::{Mac, Port, protocol};

use super::HostFamily;
use crate::address::Address;
use crate::checksum::{fold, sum_words};
use crate::flow::{Flow, tcp};
use crate::packet::L3;

/// Ports, or what ICMP has in their place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Transport {
    /// TCP with flags, sequence and acknowledgement numbers.
    Tcp {
        /// As the header has them.
        flags: u32,
        /// Sequence number.
        sequence: u32,
        /// Acknowledgement number.
        acknowledges: u32,
    },
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
    /// An ICMP echo; the identifier is the source port.
    Echo {
        /// Whether it is the answer.
        reply: bool,
    },
    /// Another ICMP message.
    Icmp {
        /// Its type.
        icmp_type: u8,
        /// Its code.
        code: u8,
        /// The second word of its header.
        argument: u32,
    },
    /// Not looked into: a later fragment, or an unknown protocol.
    Opaque {
        /// IP protocol number.
        protocol: u8,
    },
}

/// What follows the transport header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    /// So many octets.
    Octets(usize),
    /// The packet that an ICMP error speaks of.
    Quote(Box<Frame>),
}

/// Fragmentation of an IPv4 packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Fragment {
    /// Identification.
    pub id: u16,
    /// Flags and offset, as the header has them in the host's order.
    pub place: u16,
}

/// A frame in parts. Addresses are words as events have them, so that one type serves both families.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// Source address.
    pub source: [u32; 4],
    /// Destination address.
    pub destination: [u32; 4],
    /// Source port or echo identifier.
    pub source_port: Port,
    /// Destination port.
    pub destination_port: Port,
    /// The rest of the transport header.
    pub transport: Transport,
    /// What follows.
    pub body: Body,
    /// Identification and fragment field (IPv4).
    pub fragment: Fragment,
    /// Which checksums did not hold when the frame was taken apart.
    pub wrong: Vec<&'static str>,
}

/// Link addresses of frames made here.
const MACS: [Mac; 2] = [abi::GATEWAY_MAC, Mac::new([2, 0, 0, 0, 0, 9])];

impl Frame {
    /// IP protocol number in this family.
    fn protocol<F: HostFamily>(&self) -> u8 {
        match self.transport {
            Transport::Tcp { .. } => protocol::TCP,
            Transport::Udp => protocol::UDP,
            Transport::Sctp => protocol::SCTP,
            Transport::Echo { .. } | Transport::Icmp { .. } => F::ICMP,
            Transport::Opaque { protocol } => protocol,
        }
    }

    /// The frame's bytes.
    pub fn build<F: HostFamily>(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(MACS[0].octets());
        bytes.extend(MACS[1].octets());
        bytes.extend(if F::VERSION == 6 { [0x86, 0xdd] } else { [0x08, 0x00] });
        bytes.extend(self.packet::<F>());
        bytes
    }

    /// The bytes from the network header on.
    fn packet<F: HostFamily>(&self) -> Vec<u8> {
        let mut l4 = self.header::<F>();
        match &self.body {
            Body::Octets(length) => l4.extend((0..*length).map(|i| i as u8)),
            Body::Quote(quoted) => {
                l4.extend(quoted.packet::<F>().into_iter().take(F::HEADER as usize + 8));
            }
        }
        let protocol = self.protocol::<F>();
        if self.transport == Transport::Udp {
            let length = (l4.len() as u16).to_be_bytes();
            l4[4..6].copy_from_slice(&length);
        }
        if let Some(at) = checksum_at::<F>(protocol)
            && !matches!(self.transport, Transport::Opaque { .. })
        {
            let sum = self.l4_sum::<F>(protocol, &l4);
            l4[at..at + 2].copy_from_slice(&(!(sum as u16)).to_ne_bytes());
        }
        let mut bytes = F::header_bytes(self, protocol, l4.len());
        bytes.extend(l4);
        bytes
    }

    /// The transport header, its checksum 0.
    fn header<F: HostFamily>(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let ports = [self.source_port.0.to_ne_bytes(), self.destination_port.0.to_ne_bytes()].concat();
        match self.transport {
            Transport::Tcp { flags, sequence, acknowledges } => {
                bytes.extend(ports);
                bytes.extend(sequence.to_be_bytes());
                bytes.extend(acknowledges.to_be_bytes());
                bytes.extend([0x50, flags as u8, 0x20, 0, 0, 0, 0, 0]);
            }
            Transport::Udp => {
                bytes.extend(ports);
                bytes.extend([0; 4]);
            }
            Transport::Sctp => {
                bytes.extend(ports);
                bytes.extend([0; 8]);
            }
            Transport::Echo { reply } => {
                bytes.extend([F::ECHO[reply as usize], 0, 0, 0]);
                bytes.extend(self.source_port.0.to_ne_bytes());
                bytes.extend([0, 1]);
            }
            Transport::Icmp { icmp_type, code, argument } => {
                bytes.extend([icmp_type, code, 0, 0]);
                bytes.extend(argument.to_be_bytes());
            }
            Transport::Opaque { .. } => {}
        }
        bytes
    }

    /// Sum that the transport checksum makes up for.
    fn l4_sum<F: HostFamily>(&self, protocol: u8, l4: &[u8]) -> u32 {
        let flow = Flow::<F::Address> {
            source: F::from_words(self.source),
            destination: F::from_words(self.destination),
            ..Flow::default()
        };
        let covers = protocol != F::ICMP || F::ICMP_PSEUDO;
        let pseudo = if covers { F::pseudo_sum(&flow, protocol, l4.len() as u32) } else { 0 };
        fold(pseudo + sum_bytes(l4))
    }

    /// Takes a frame apart; `None` if it is not of this family or cut off.
    pub fn parse<F: HostFamily>(frame: &[u8]) -> Option<Frame> {
        Self::parse_packet::<F>(frame.get(L3 as usize..)?, false)
    }

    fn parse_packet<F: HostFamily>(packet: &[u8], quoted: bool) -> Option<Frame> {
        let (mut frame, protocol, l4) = F::parse_header(packet)?;
        frame.transport = Transport::Opaque { protocol };
        if frame.fragment.place & 0x1fff != 0 || l4.len() < 8 {
            frame.body = Body::Octets(l4.len());
            return Some(frame);
        }
        frame.take_transport::<F>(protocol, l4, quoted)?;
        let whole = !quoted && frame.fragment.place & 0x3fff == 0;
        if whole
            && let Some(at) = checksum_at::<F>(protocol)
            && frame.l4_sum::<F>(protocol, l4) != 0xffff
            && !(protocol == protocol::UDP && l4[at..at + 2] == [0, 0])
        {
            frame.wrong.push("transport checksum");
        }
        Some(frame)
    }

    fn take_transport<F: HostFamily>(&mut self, protocol: u8, l4: &[u8], quoted: bool) -> Option<()> {
        let half = |at: usize| u16::from_ne_bytes([l4[at], l4[at + 1]]);
        self.source_port = Port(half(0));
        self.destination_port = Port(half(2));
        let header = match protocol {
            protocol::TCP => {
                let word = |at: usize| Some(u32::from_be_bytes(l4.get(at..at + 4)?.try_into().ok()?));
                let flags = if quoted { tcp::ACK } else { *l4.get(13)? as u32 };
                let acknowledges = if quoted { 0 } else { word(8)? };
                self.transport = Transport::Tcp { flags, sequence: word(4)?, acknowledges };
                20
            }
            protocol::UDP => {
                self.transport = Transport::Udp;
                8
            }
            protocol::SCTP => {
                self.transport = Transport::Sctp;
                12
            }
            number if number == F::ICMP => return self.take_icmp::<F>(l4, quoted),
            _ => return Some(()),
        };
        self.body = Body::Octets(l4.len().saturating_sub(header));
        Some(())
    }

    fn take_icmp<F: HostFamily>(&mut self, l4: &[u8], quoted: bool) -> Option<()> {
        self.source_port = Port(0);
        self.destination_port = Port(0);
        let [icmp_type, code] = [l4[0], l4[1]];
        self.body = Body::Octets(l4.len() - 8);
        if F::is_echo(icmp_type as u32) {
            let id = Port(u16::from_ne_bytes([l4[4], l4[5]]));
            (self.source_port, self.destination_port) = (id, id);
            self.transport = Transport::Echo { reply: icmp_type == F::ECHO[1] };
            return Some(());
        }
        let argument = u32::from_be_bytes(l4[4..8].try_into().ok()?);
        self.transport = Transport::Icmp { icmp_type, code, argument };
        if F::is_icmp_error(icmp_type as u32) && !quoted {
            self.body = Body::Quote(Box::new(Self::parse_packet::<F>(&l4[8..], true)?));
        }
        Some(())
    }
}

/// Where a protocol keeps its checksum.
fn checksum_at<F: HostFamily>(number: u8) -> Option<usize> {
    match number {
        protocol::TCP => Some(16),
        protocol::UDP => Some(6),
        _ if number == F::ICMP => Some(2),
        _ => None,
    }
}

/// Sum of the half-words of a byte string, the last one padded.
pub(super) fn sum_bytes(bytes: &[u8]) -> u32 {
    let mut sum = 0;
    for chunk in bytes.chunks(4) {
        let mut word = [0; 4];
        word[..chunk.len()].copy_from_slice(chunk);
        sum = fold(sum + sum_words(&[u32::from_ne_bytes(word)]));
    }
    sum
}

/// An address of a family as words.
pub(super) fn words<F: HostFamily>(address: F::Address) -> [u32; 4] {
    address.words()
}
