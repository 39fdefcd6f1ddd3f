//! Every packet decision: no_std, no aya; the same code in the kernel, in tests and in `trace`.
//!
//! A packet comes in by a [`Place`] and is parsed into a [`Flow`]; [`conntrack`] decides most of them with one lookup;
//! the first of a flow goes through [`mod@begin`]: who sends ([`peer`]), which backend serves ([`service`]), whether the
//! policy allows it ([`policy`]), which port source NAT gives it ([`mod@claim`]); then it is on record
//! ([`establish`]). [`leave`] gives what leaves the node
//! its outside addresses, [`mod@related`] moves ICMP errors, [`answer`] speaks for Services without backends.
//!
//! Everything is generic over the address [`Family`], the [`Packet`], the [`Tables`] and the [`Observer`], and inlined
//! into one function a program: the kernel's build of an observer that hears nothing is nothing.
#![cfg_attr(not(any(test, feature = "host")), no_std)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

#[cfg(any(test, feature = "host"))]
extern crate core;

pub mod address;
pub mod answer;
pub mod begin;
pub mod bits;
pub mod checksum;
pub mod claim;
pub mod conntrack;
mod context;
pub mod deliver;
pub mod establish;
pub mod event;
pub mod family;
pub mod flow;
pub mod fragment;
pub mod hooks;
#[cfg(any(test, feature = "host"))]
pub mod host;
pub mod leave;
pub mod nat;
pub mod observe;
pub mod packet;
pub mod parse;
pub mod peer;
pub mod policy;
pub mod related;
pub mod service;
pub mod socket;
pub mod tables;
#[cfg(test)]
mod tests;
mod verdict;

pub use address::Address;
pub use begin::begin;
pub use context::{AtNode, AtOverlay, AtPod, AtUplink, Context, Place};
pub use family::{Family, V4, V6};
pub use flow::Flow;
pub use hooks::{decide, receive, refuse};
pub use leave::uplink_egress;
pub use observe::{Note, Observer, Silent};
pub use packet::{L3, Packet, Plain};
pub use related::related;
pub use tables::{Claim, Inserted, Shared, Tables};
pub use verdict::{Kind, Step, Verdict};
