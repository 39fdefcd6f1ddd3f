//! The datapath outside the kernel: tables of ordinary collections and packets of bytes, for tests and for `trace`.

mod bytes;
mod memory;

pub use bytes::Bytes;
pub use memory::{Memory, Table};
