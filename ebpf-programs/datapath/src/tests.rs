//! The tables of packets on the host, and what a table cannot say.

mod cases;
mod properties;
mod scenarios;
