//! Flows: the datapath's events with names, kept for a while, streamed to people and programs.
//!
//! `flow` says what one event means, `recorder` names events as they come and keeps the newest (`history`), `http` serves
//! them on the agent's port as one JSON object a line, `cluster` reads all nodes' through the API server, `text` lays
//! them out for a terminal. Who has an address is asked of whoever watches the API ([`Names`]).
#![forbid(unsafe_code)]

mod clock;
pub mod cluster;
mod flow;
mod history;
pub mod http;
mod names;
mod query;
mod recorder;
mod text;

pub use flow::{Flow, Kind, Line, Party, Verdict};
pub use names::{Names, Owner};
pub use query::{BadQuery, Filter, Query, moment};
pub use recorder::Flows;
pub use text::Columns;
