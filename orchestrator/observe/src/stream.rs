//! Flows as they happen, one JSON object a line.

use std::sync::Arc;

use abi::Event;
use bytes::Bytes;
use futures::Stream;
use tokio::sync::{broadcast, watch};

use crate::{
    clock::Clock,
    filter::Filter,
    flow::{Flow, Line, Names},
};

/// Lines of the flows that `filter` wants, until the dataplane stops. A slow reader is told how many it missed.
pub fn flows<N: Names>(
    node: String,
    events: broadcast::Receiver<Event>,
    names: watch::Receiver<Arc<N>>,
    filter: Filter,
) -> impl Stream<Item = Bytes> + Send + 'static {
    let state = Following { node, events, names, filter, clock: None };
    futures::stream::unfold(state, |mut state| async move {
        let line = state.next().await?;
        let mut bytes = serde_json::to_vec(&line).expect("invariant: a line is made of strings and numbers");
        bytes.push(b'\n');
        Some((Bytes::from(bytes), state))
    })
}

struct Following<N> {
    node: String,
    events: broadcast::Receiver<Event>,
    names: watch::Receiver<Arc<N>>,
    filter: Filter,
    clock: Option<Clock>,
}

impl<N: Names> Following<N> {
    async fn next(&mut self) -> Option<Line> {
        loop {
            match self.events.recv().await {
                Ok(event) => {
                    let clock = self.clock.get_or_insert_with(|| Clock::anchored(event.time_ns));
                    let micros = clock.micros(event.time_ns);
                    let names = self.names.borrow().clone();
                    let flow = Flow::new(&event, &self.node, micros, &*names);
                    if self.filter.wants(&flow) {
                        return Some(Line::Flow(Box::new(flow)));
                    }
                }
                Err(broadcast::error::RecvError::Lagged(lost)) => return Some(Line::Lost { lost }),
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests;
