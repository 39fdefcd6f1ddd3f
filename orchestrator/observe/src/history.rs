//! The newest flows of a node, within a bound of bytes.
//!
//! Drops are kept apart from the rest: a burst of connections must not push out the one denial that somebody looks for.

use std::{collections::VecDeque, sync::Arc};

use chrono::{DateTime, Utc};

use crate::{
    flow::{Line, Verdict},
    query::Query,
};

/// Room for drops: about two thousand, some minutes of a client that tries again and again.
const DROPS_BYTES: usize = 1 << 20;
/// Room for everything else: about four thousand, the last seconds of a busy node.
const FLOWS_BYTES: usize = 2 << 20;
/// What a line takes: itself, its counts, and the texts that it alone holds (names are shared with whoever knows them).
const LINE_BYTES: usize = size_of::<Line>() + 2 * size_of::<usize>() + 64;

/// What is remembered.
#[derive(Debug)]
pub(crate) struct History {
    drops: Ring,
    flows: Ring,
}

/// Lines as they came; the oldest go first.
#[derive(Debug)]
struct Ring {
    lines: VecDeque<Arc<Line>>,
    lines_max: usize,
    /// How many went, and the time of the last of them.
    gone: u64,
    gone_until: DateTime<Utc>,
}

// === impl History ===

impl Default for History {
    fn default() -> Self {
        Self::within(DROPS_BYTES, FLOWS_BYTES)
    }
}

impl History {
    /// With room for so many bytes.
    pub(crate) fn within(drops_bytes: usize, flows_bytes: usize) -> Self {
        History { drops: Ring::within(drops_bytes), flows: Ring::within(flows_bytes) }
    }

    /// Keeps a line that is newer than all.
    pub(crate) fn push(&mut self, line: Arc<Line>) {
        match &*line {
            Line::Flow(flow) if flow.verdict == Verdict::Dropped => self.drops.push(line),
            _ => self.flows.push(line),
        }
    }

    /// What a query asks of the past, oldest first. When it reaches back to what is no longer kept, that is said first.
    pub(crate) fn select(&self, query: &Query, node: &Arc<str>) -> Vec<Arc<Line>> {
        let after = query.since.unwrap_or(DateTime::UNIX_EPOCH);
        let mut lines: Vec<Arc<Line>> = [&self.drops, &self.flows]
            .iter()
            .flat_map(|ring| ring.after(after))
            .filter(|line| query.filter.wants(line))
            .cloned()
            .collect();
        lines.sort_by_key(|line| line.time());
        if let Some(last) = query.last {
            lines.drain(..lines.len().saturating_sub(last));
        }
        if query.since.is_some() {
            let rings: &[&Ring] =
                if query.filter.drops { &[&self.drops] } else { &[&self.drops, &self.flows] };
            let gone = rings.iter().filter(|ring| ring.gone_until > after);
            // How many of them came after `since` is forgotten with them: at most so many.
            let (lost, until) =
                gone.fold((0, after), |(lost, until), ring| (lost + ring.gone, until.max(ring.gone_until)));
            if lost > 0 {
                lines.insert(0, Arc::new(Line::Lost { time: until, node: Arc::clone(node), lost }));
            }
        }
        lines
    }
}

// === impl Ring ===

impl Ring {
    fn within(bytes: usize) -> Self {
        let lines_max = (bytes / LINE_BYTES).max(1);
        Ring { lines: VecDeque::new(), lines_max, gone: 0, gone_until: DateTime::UNIX_EPOCH }
    }

    fn push(&mut self, line: Arc<Line>) {
        if self.lines.len() >= self.lines_max
            && let Some(oldest) = self.lines.pop_front()
        {
            self.gone += 1;
            self.gone_until = oldest.time();
        }
        self.lines.push_back(line);
    }

    fn after(&self, time: DateTime<Utc>) -> impl Iterator<Item = &Arc<Line>> {
        // Not a search by halves: where the calendar was set back, times do not grow.
        self.lines.iter().filter(move |line| line.time() > time)
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::flow::tests::{closed, denied, flow};

    fn line(event: &abi::Event, second: i64) -> Arc<Line> {
        let time = DateTime::UNIX_EPOCH + TimeDelta::seconds(second);
        Arc::new(Line::Flow(crate::Flow { time, ..flow(event) }))
    }

    fn seconds(history: &History, query: &str) -> Vec<i64> {
        let query = Query::parse(query, Utc::now()).unwrap();
        history.select(&query, &"two".into()).iter().map(|line| line.time().timestamp()).collect()
    }

    #[test]
    fn a_burst_of_connections_leaves_the_drops() {
        let mut history = History::within(2 * LINE_BYTES, 2 * LINE_BYTES);
        history.push(line(&denied(), 1));
        for second in 2..=5 {
            history.push(line(&closed(), second));
        }
        assert_eq!(seconds(&history, ""), [1, 4, 5]);
        assert_eq!(seconds(&history, "drops"), [1]);
        assert_eq!(seconds(&history, "last=2"), [4, 5]);
    }

    #[test]
    fn who_asks_for_more_than_is_kept_is_told() {
        let mut history = History::within(2 * LINE_BYTES, 2 * LINE_BYTES);
        (1..=5).for_each(|second| history.push(line(&closed(), second)));
        let since = |second: i64| {
            let since = Some(DateTime::UNIX_EPOCH + TimeDelta::seconds(second));
            let lines = history.select(&Query { since, ..Query::default() }, &"two".into());
            let lost = lines.first().and_then(|line| match &**line {
                Line::Lost { lost, .. } => Some(*lost),
                Line::Flow(_) => None,
            });
            (lost, lines.len())
        };
        assert_eq!(since(4), (None, 1));
        assert_eq!(since(3), (None, 2), "3 is the newest that went, and is not asked for");
        assert_eq!(since(2), (Some(3), 3));
    }
}
