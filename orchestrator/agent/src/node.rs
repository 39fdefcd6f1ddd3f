//! The node itself: how it joins (`join`), what it says of itself (`status`), that it lives (`lease`).

pub mod facts;
pub mod join;
mod lease;
mod status;

pub use lease::keep as keep_lease;
pub use status::{NodeConfig, RuntimeHealth, keep as keep_status};
