//! Names events as they come, keeps the newest, and tells those who follow.
//!
//! An event is named once, when it comes: who had an address then is what a reader wants to know later.

use std::sync::Arc;

use abi::Event;
use futures::{Stream, StreamExt, stream};
use parking_lot::Mutex;
use prometheus::IntCounter;
use telemetry::Registry;
use tokio::sync::{
    broadcast::{self, error::RecvError},
    watch,
};

use crate::{
    clock::Clock,
    flow::{Flow, Line},
    history::History,
    names::Names,
    query::Query,
};

/// Lines that a reader may be behind: a second of a busy node. It is told how many it missed when it is slower.
const BACKLOG: usize = 4096;

/// The flows of a node. Clones share them.
#[derive(Clone, Debug)]
pub struct Flows(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    node: Arc<str>,
    state: Mutex<State>,
    lost: IntCounter,
}

#[derive(Debug)]
struct State {
    clock: Clock,
    history: History,
    /// Told under the lock, so that a reader sees each line once: in the past, or as it comes.
    live: broadcast::Sender<Arc<Line>>,
}

// === impl Flows ===

impl Flows {
    /// None yet.
    pub fn new(node: &str, registry: &Registry) -> Self {
        let lost = registry.counter(
            "bowsprit_flows_lost_total",
            "Datapath events that came faster than they could be named and recorded.",
        );
        let live = broadcast::Sender::new(BACKLOG);
        let state = State { clock: Clock::default(), history: History::default(), live };
        Flows(Arc::new(Shared { node: node.into(), state: Mutex::new(state), lost }))
    }

    /// Records events until the dataplane stops.
    pub async fn record<N: Names>(
        self,
        mut events: broadcast::Receiver<Event>,
        names: watch::Receiver<Arc<N>>,
    ) {
        loop {
            match events.recv().await {
                Ok(event) => {
                    let names = Arc::clone(&names.borrow());
                    self.0.push(|clock, node| {
                        Line::Flow(Flow::new(&event, clock.of_event(event.time_ns), node, &*names))
                    });
                }
                Err(RecvError::Lagged(lost)) => {
                    self.0.lost.inc_by(lost);
                    self.0.push(|clock, node| Line::Lost {
                        time: clock.after_last(),
                        node: Arc::clone(node),
                        lost,
                    });
                }
                Err(RecvError::Closed) => return,
            }
        }
    }

    /// Lines that a query asks for, in order; endless if it follows, until nothing is recorded any more.
    pub fn read(&self, query: Query) -> impl Stream<Item = Arc<Line>> + Send + 'static {
        let (past, live) = {
            let state = self.0.state.lock();
            let past =
                if query.wants_past() { state.history.select(&query, &self.0.node) } else { Vec::new() };
            (past, query.follow.then(|| state.live.subscribe()))
        };
        let shared = Arc::downgrade(&self.0);
        let to_come = stream::unfold(live, move |live| {
            let (shared, filter) = (shared.clone(), query.filter.clone());
            async move {
                let mut live = live?;
                loop {
                    let line = match live.recv().await {
                        Ok(line) => line,
                        Err(RecvError::Lagged(lost)) => shared.upgrade()?.missed(lost),
                        Err(RecvError::Closed) => return None,
                    };
                    if filter.wants(&line) {
                        return Some((line, Some(live)));
                    }
                }
            }
        });
        stream::iter(past).chain(to_come)
    }
}

// === impl Shared ===

impl Shared {
    fn push(&self, line: impl FnOnce(&mut Clock, &Arc<str>) -> Line) {
        let mut state = self.state.lock();
        let line = Arc::new(line(&mut state.clock, &self.node));
        state.history.push(Arc::clone(&line));
        // Without a reader nobody misses it.
        let _ = state.live.send(line);
    }

    fn missed(&self, lost: u64) -> Arc<Line> {
        let time = self.state.lock().clock.after_last();
        Arc::new(Line::Lost { time, node: Arc::clone(&self.node), lost })
    }
}

#[cfg(test)]
mod tests;
