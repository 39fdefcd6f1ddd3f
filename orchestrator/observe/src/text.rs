//! A flow as one line for a terminal.

use std::fmt;

use crate::flow::{Flow, Kind, Line, Party};

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Line::Flow(flow) => flow.fmt(f),
            Line::Lost { lost } => write!(f, "{lost} events were lost here: the reader was too slow"),
        }
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The date is today's for whoever watches.
        let time = self.time.split_once('T').map_or(&*self.time, |(_, time)| time.trim_end_matches('Z'));
        let kind = match self.kind {
            Kind::New => "new    ",
            Kind::Closed => "closed ",
            Kind::Dropped => "DROPPED",
        };
        write!(f, "{time} {kind} {} {} -> {}", self.protocol, self.source, self.destination)?;
        if let Some(backend) = &self.backend {
            write!(f, " = {backend}")?;
        }
        if let Some(drop) = &self.drop {
            write!(f, "  {} at {}: {}", drop.reason, drop.code, drop.sentence)?;
        }
        if let (Some(direction), false) = (&self.direction, self.policies.is_empty()) {
            write!(f, "  {direction} policy {}", self.policies.join(", "))?;
        }
        if let (Some(packets), Some(bytes)) = (self.packets, self.bytes) {
            write!(f, "  {} out, {} back", amount(packets[0], bytes[0]), amount(packets[1], bytes[1]))?;
        }
        Ok(())
    }
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.owner {
            Some(owner) if owner.namespace.is_empty() => write!(f, "{} {}", owner.kind, owner.name)?,
            Some(owner) => write!(f, "{}/{}", owner.namespace, owner.name)?,
            None if self.address.is_ipv6() && self.port != 0 => write!(f, "[{}]", self.address)?,
            None => write!(f, "{}", self.address)?,
        }
        if self.port == 0 { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

fn amount(packets: u64, bytes: u64) -> String {
    let unit = if packets == 1 { "packet" } else { "packets" };
    format!("{packets} {unit} ({bytes} B)")
}
