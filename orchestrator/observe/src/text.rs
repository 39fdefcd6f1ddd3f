//! A line for a terminal.

use std::fmt;

use crate::flow::{Flow, Kind, Line, Party, Verdict};

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Line::Flow(flow) => flow.fmt(f),
            Line::Lost { time, node, lost } => {
                write!(f, "{} {node} {lost} flows are missing here: they came too fast", time.format(TIME))
            }
        }
    }
}

/// The date is today's for whoever watches.
const TIME: &str = "%H:%M:%S%.3f";

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.event {
            Kind::New => "new    ",
            Kind::Closed => "closed ",
            Kind::Dropped => "DROPPED",
        };
        let (time, node, protocol) = (self.time.format(TIME), &self.node, &self.protocol);
        write!(f, "{time} {node} {kind} {protocol} {} -> {}", self.from, self.to)?;
        if let Some(backend) = &self.backend {
            write!(f, " -> {backend}")?;
        }
        if let (Some(reason), Some(text)) = (&self.reason, &self.reason_text) {
            write!(f, "  {reason}: {text}")?;
        }
        self.policy(f)?;
        if let Some(source) = &self.source {
            write!(f, " [{source}]")?;
        }
        if let (Some(packets), Some(bytes)) = (self.packets, self.bytes) {
            write!(f, "  {} out, {} back", amount(packets[0], bytes[0]), amount(packets[1], bytes[1]))?;
        }
        Ok(())
    }
}

impl Flow {
    fn policy(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = &self.direction;
        match (self.verdict, &*self.policies) {
            (_, []) => Ok(()),
            (Verdict::Allowed, policies) => write!(f, "  allowed by {} ({direction})", policies.join(", ")),
            (Verdict::Dropped, policies) => {
                write!(f, " No rule of {} ({direction}) allows it.", policies.join(", "))
            }
        }
    }
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let namespace = self.namespace.as_deref().unwrap_or_default();
        match (&self.pod, &self.service, &self.node) {
            (Some(pod), _, _) => write!(f, "{namespace}/{pod}")?,
            (None, Some(service), _) => write!(f, "service {namespace}/{service}")?,
            (None, None, Some(node)) => write!(f, "node {node}")?,
            (None, None, None) if self.ip.is_ipv6() && self.port != 0 => write!(f, "[{}]", self.ip)?,
            (None, None, None) => write!(f, "{}", self.ip)?,
        }
        if self.port == 0 { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

fn amount(packets: u64, bytes: u64) -> String {
    let unit = if packets == 1 { "packet" } else { "packets" };
    format!("{packets} {unit} ({bytes} B)")
}

#[cfg(test)]
mod tests {
    use abi::{Event, event_kind};

    use crate::flow::tests::{closed, denied, flow};

    #[test]
    fn lines_say_it_in_one_sentence() {
        let check = |event: &Event, expected: &str| assert_eq!(flow(event).to_string(), expected);
        check(
            &denied(),
            "12:34:56.123 two DROPPED TCP shop/web-7d9f-x2x:40000 -> service shop/db:80 -> shop/db-0:5432  PolicyIngress: \
             A policy of the receiving pod forbids it. No rule of shop/db (ingress) allows it. [datapath/src/policy.rs:77]",
        );
        check(
            &closed(),
            "12:34:56.123 two closed  TCP node one:40001 -> shop/db-0:5432  3 packets (180 B) out, 1 packet (60 B) back",
        );
        check(
            &Event { kind: event_kind::NEW, drop: 0, source: [0; 4], ..denied() },
            "12:34:56.123 two new     TCP 0.0.0.0:40000 -> service shop/db:80 -> shop/db-0:5432  allowed by shop/db (ingress)",
        );
    }
}
