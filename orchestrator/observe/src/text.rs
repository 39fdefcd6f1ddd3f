//! Lines for a terminal: a flow a line, in columns that line up.

use std::fmt;

use crate::flow::{Flow, Kind, Line, Party, Verdict};

/// The date is today's for whoever watches.
const TIME: &str = "%H:%M:%S%.3f";
/// A column that is wider than this pushes its own line out, not all that follow.
const WIDTH_MAX: usize = 44;

/// Widths of the columns whose content nobody knows before: each has room for the widest so far.
#[derive(Debug, Clone)]
pub struct Columns {
    node: usize,
    from: usize,
    to: usize,
}

// === impl Columns ===

impl Default for Columns {
    fn default() -> Self {
        Columns { node: 6, from: 32, to: 32 }
    }
}

impl Columns {
    /// What the columns are.
    pub fn heading(&self) -> String {
        let Columns { node, from, to } = self;
        format!(
            "{:<12}  {:<node$}  {:<7}  {:<5}  {:<from$}     {:<to$}  WHY",
            "TIME", "NODE", "EVENT", "PROTO", "FROM", "TO"
        )
    }

    /// Makes room for lines that are known already, so that the first of them stand like the last.
    pub fn fit<'l>(&mut self, lines: impl IntoIterator<Item = &'l Line>) {
        for line in lines {
            widen(&mut self.node, line.node());
            if let Line::Flow(flow) = line {
                widen(&mut self.from, &flow.from.to_string());
                widen(&mut self.to, &destination(flow));
            }
        }
    }

    /// A line without its end.
    pub fn line(&mut self, line: &Line) -> String {
        self.fit([line]);
        let Columns { node: width, from, to } = *self;
        let (time, node) = (line.time().format(TIME), line.node());
        let text = match line {
            Line::Flow(flow) => format!(
                "{time}  {node:<width$}  {:<7}  {:<5}  {:<from$}  -> {:<to$}  {}",
                event(flow.event),
                flow.protocol,
                flow.from.to_string(),
                destination(flow),
                Why(flow),
            ),
            Line::Lost { lost, .. } => {
                format!(
                    "{time}  {node:<width$}  {lost} flows are missing here: they came too fast to be told"
                )
            }
        };
        text.trim_end().to_owned()
    }
}

fn widen(width: &mut usize, text: &str) {
    let wanted = text.chars().count();
    if wanted <= WIDTH_MAX {
        *width = wanted.max(*width);
    }
}

fn event(kind: Kind) -> &'static str {
    match kind {
        Kind::New => "new",
        Kind::Closed => "closed",
        Kind::Dropped => "DROPPED",
    }
}

/// Who was asked for, and who serves when that is somebody else.
fn destination(flow: &Flow) -> String {
    match &flow.backend {
        Some(backend) => format!("{} -> {backend}", flow.to),
        None => flow.to.to_string(),
    }
}

/// The last column: what decided, and what came of it.
struct Why<'f>(&'f Flow);

impl fmt::Display for Why<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flow = self.0;
        let policies = flow.policies.join(", ");
        match (&flow.reason, &flow.reason_text, flow.verdict) {
            (Some(reason), _, Verdict::Dropped) if !policies.is_empty() => {
                write!(f, "{reason}: no {} rule of {policies} allows it", flow.direction)?;
            }
            (Some(reason), Some(text), _) => write!(f, "{reason}: {}", text.trim_end_matches('.'))?,
            _ if !policies.is_empty() => write!(f, "allowed by {policies} ({})", flow.direction)?,
            _ => {}
        }
        if let Some(source) = &flow.source {
            write!(f, "  [{source}]")?;
        }
        if let (Some(packets), Some(bytes)) = (flow.packets, flow.bytes) {
            let gap = if policies.is_empty() { "" } else { "  " };
            write!(f, "{gap}{} out, {} back", amount(packets[0], bytes[0]), amount(packets[1], bytes[1]))?;
        }
        Ok(())
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

    use super::*;
    use crate::flow::tests::{closed, denied, flow};

    #[test]
    fn lines_say_it_in_columns() {
        let allowed = Event { kind: event_kind::NEW, drop: 0, source: [0; 4], ..denied() };
        let lines = [denied(), closed(), allowed].map(|event| Line::Flow(flow(&event)));
        let mut columns = Columns::default();
        columns.fit(&lines);
        let shown = lines.each_ref().map(|line| columns.line(line));
        assert_eq!(
            std::iter::once(columns.heading()).chain(shown).collect::<Vec<_>>(),
            [
                "TIME          NODE    EVENT    PROTO  FROM                                 TO                                    WHY",
                "12:34:56.123  two     DROPPED  TCP    shop/web-7d9f-x2x:40000           -> service shop/db:80 -> shop/db-0:5432  \
                 PolicyIngress: no ingress rule of shop/db allows it  [datapath/src/policy.rs:77]",
                "12:34:56.123  two     closed   TCP    node one:40001                    -> shop/db-0:5432                        \
                 3 packets (180 B) out, 1 packet (60 B) back",
                "12:34:56.123  two     new      TCP    0.0.0.0:40000                     -> service shop/db:80 -> shop/db-0:5432  \
                 allowed by shop/db (ingress)",
            ]
        );
    }

    #[test]
    fn one_long_name_does_not_widen_the_rest() {
        let mut columns = Columns::default();
        let long = "x".repeat(WIDTH_MAX + 1);
        let mut flow = flow(&denied());
        flow.from.pod = Some(long.as_str().into());
        assert!(columns.line(&Line::Flow(flow)).contains(&long));
        assert_eq!(columns.from, Columns::default().from);
    }
}
