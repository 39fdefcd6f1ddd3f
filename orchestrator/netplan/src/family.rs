//! What differs between IPv4 and IPv6 on this side: how an `IpAddr` becomes a key.

use std::{fmt::Debug, hash::Hash, net::IpAddr};

use abi::{Addr4, Addr6, CidrKey};
use ipnet::IpNet;

/// An address of one family as the maps hold it.
pub trait Address: Copy + Default + Debug + Eq + Hash + Ord + Send + Sync + 'static {
    /// Whether this is the IPv6 one.
    const V6: bool;

    /// `None` for an address of the other family.
    fn from_ip(ip: IpAddr) -> Option<Self>;

    /// Back to the standard type.
    fn ip(self) -> IpAddr;
}

impl Address for Addr4 {
    const V6: bool = false;

    fn from_ip(ip: IpAddr) -> Option<Self> {
        match ip {
            IpAddr::V4(ip) => Some(ip.into()),
            IpAddr::V6(_) => None,
        }
    }

    fn ip(self) -> IpAddr {
        IpAddr::V4(self.into())
    }
}

impl Address for Addr6 {
    const V6: bool = true;

    fn from_ip(ip: IpAddr) -> Option<Self> {
        match ip {
            IpAddr::V6(ip) => Some(ip.into()),
            IpAddr::V4(_) => None,
        }
    }

    fn ip(self) -> IpAddr {
        IpAddr::V6(self.into())
    }
}

/// The key of a prefix; `None` for one of the other family.
pub(crate) fn cidr_key<A: Address>(net: &IpNet) -> Option<CidrKey<A>> {
    let address = A::from_ip(net.network())?;
    Some(CidrKey { prefix_len: u32::from(net.prefix_len()), address })
}
