//! What every step of a decision is handed: the packet, the tables, who listens, and where the packet was seen.

use core::marker::PhantomData;

use abi::{Config, Hook, feature};

use crate::family::Family;
use crate::get;
use crate::tables::{Shared, Tables};

/// The packet, the tables and the observer of one decision.
pub struct Context<'a, F, P, T, O> {
    /// The packet.
    pub packet: &'a mut P,
    /// The tables.
    pub tables: &'a T,
    /// Who hears the decisions.
    pub observer: &'a mut O,
    family: PhantomData<F>,
}

impl<'a, F: Family, P, T: Tables<F>, O> Context<'a, F, P, T, O> {
    /// Puts them together.
    #[inline(always)]
    pub fn new(packet: &'a mut P, tables: &'a T, observer: &'a mut O) -> Self {
        Context { packet, tables, observer, family: PhantomData }
    }

    /// Whether a bit of `abi::feature` is on.
    #[inline(always)]
    pub fn has(&self, feature: u32) -> bool {
        let config: Shared<'_, Config> = self.tables.config();
        get!(config.features) & feature != 0
    }

    /// Whether other nodes are reached through the tunnel.
    #[inline(always)]
    pub fn tunnels(&self) -> bool {
        self.has(feature::VXLAN)
    }
}

/// A hook that packets come in by; a type without a value, so that each program is compiled for its own.
pub trait Place {
    /// Its number.
    const HOOK: Hook;
}

/// The host's side of a pod's link.
pub struct AtPod;
/// The node's own way to pods.
pub struct AtNode;
/// The uplink.
pub struct AtUplink;
/// The tunnel.
pub struct AtOverlay;

impl Place for AtPod {
    const HOOK: Hook = Hook::PodEgress;
}
impl Place for AtNode {
    const HOOK: Hook = Hook::NodeEgress;
}
impl Place for AtUplink {
    const HOOK: Hook = Hook::UplinkIngress;
}
impl Place for AtOverlay {
    const HOOK: Hook = Hook::OverlayIngress;
}

/// Whether this is the hook; a constant once compiled.
#[inline(always)]
pub const fn at<H: Place>(hook: Hook) -> bool {
    H::HOOK as u8 == hook as u8
}

/// Tells the observer, with the line.
macro_rules! note {
    ($observer:expr, $note:expr) => {
        $observer.note($note, line!())
    };
}

pub(crate) use note;
