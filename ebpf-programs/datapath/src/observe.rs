//! What `trace` hears: every decision, in the order taken. In the kernel the observer has no size and no code.

use abi::{Hook, Port};

/// One decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// The headers were understood.
    Parsed {
        /// Where.
        hook: Hook,
        /// IP protocol number.
        protocol: u32,
        /// Source port.
        source: Port,
        /// Destination port.
        destination: Port,
    },
    /// A connection on record goes on.
    Established {
        /// From the responder.
        reply: bool,
        /// `ct_flag` bits of the entry.
        flags: u32,
    },
    /// No connection on record: a new flow.
    New,
    /// An ICMP error about a connection on record.
    Related,
    /// The destination is a Service.
    Service {
        /// Its id.
        id: u32,
    },
    /// This backend serves.
    Backend {
        /// Slot in `BACKENDS*`.
        slot: u32,
    },
    /// An address was looked up.
    Located {
        /// The destination, not the source.
        destination: bool,
        /// Its class.
        class: u32,
        /// Its `via` word.
        via: u32,
    },
    /// A policy was asked.
    Policy {
        /// Policy id.
        id: u32,
        /// Class of the peer.
        class: u32,
        /// Rule that decided.
        rule: u32,
        /// Whether it allows.
        allowed: bool,
    },
    /// The source was given another port or address.
    SourceTranslated {
        /// The port claimed.
        port: Port,
    },
    /// It goes to this `via` word.
    Delivered {
        /// The word.
        via: u32,
    },
}

/// Hears the decisions.
pub trait Observer {
    /// Called once for each, with the source line.
    fn note(&mut self, note: Note, line: u32);
}

/// Hears nothing: the kernel's.
pub struct Silent;

impl Observer for Silent {
    #[inline(always)]
    fn note(&mut self, _: Note, _: u32) {}
}
