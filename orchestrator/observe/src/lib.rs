//! Flows: the datapath's events with names, as a stream for people and programs.
//!
//! `flow` turns one event into what happened to whom, `filter` chooses, `stream` makes newline-separated JSON of them for the
//! agent's port, `text` prints a line for a terminal. Who has an address is asked of whoever watches the API ([`Names`]).
#![forbid(unsafe_code)]

mod clock;
mod filter;
mod flow;
pub mod http;
mod stream;
mod text;

pub use filter::Filter;
pub use flow::{Flow, Kind, Line, Names, Owner, Party};
pub use stream::flows;
