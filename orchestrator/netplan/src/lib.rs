//! Pure: a snapshot of pods, Services, policies and nodes -> the contents of the eBPF maps.
//!
//! Knows no kernel, no API type, no clock of its own. `compile` is a function of the snapshot and of `Ids`, which only remembers
//! numbers and slots; the same objects give the same numbers in every process, so a restarted agent finds its maps as they
//! should be. `dataplane` makes the kernel hold a `Plan`; `ebpf-programs/datapath` reads it.
#![forbid(unsafe_code)]

mod compile;
pub mod conntrack;
mod family;
mod hash;
mod host;
mod ids;
mod names;
mod nodes;
mod peers;
mod plan;
mod policy;
mod ports;
mod selector;
mod services;
mod slots;
pub mod snapshot;
#[doc(hidden)]
pub mod testing;

pub use compile::compile;
pub use family::Address;
pub use host::{Host, HostRoute};
pub use ids::{GRACE, Ids, Limits};
pub use names::{Names, ServiceName};
pub use plan::{Family, FamilyPlan, Local, Plan, Shortfall, Slice};
pub use policy::{Direction, Subject};
pub use selector::{Demand, Labels, Selector};
pub use snapshot::Snapshot;
