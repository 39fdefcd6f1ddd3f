//! One pod's link: a veth pair whose far end is the pod's `eth0`, with a /32 and a gateway that needs no ARP.

use std::{
    fs::File,
    net::IpAddr,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

use abi::GATEWAY_MAC;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{ALIAS, GATEWAY4, GATEWAY6, ignore_gone, sysctl};
use crate::{
    error::{Error, Result},
    netlink::{Mac, Netlink, Route, VethEnd},
    netns,
};

/// What a pod's link is to be.
#[derive(Clone, Debug)]
pub struct PodWiring {
    /// Name of the node's end.
    pub name: String,
    /// `namespace/name` of the pod, for people who look at the device.
    pub pod: String,
    /// The pod's network namespace.
    pub netns: PathBuf,
    /// Name of the pod's end.
    pub ifname: String,
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
    /// The link's MTU.
    pub mtu: u32,
}

/// A pod's link as the datapath sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodLink {
    /// Index of the node's end.
    pub ifindex: u32,
    /// MAC of the pod's end.
    pub mac: Mac,
    /// Cookie of the pod's namespace.
    pub netns_cookie: u64,
}

/// The name of the node's end for a sandbox: within the kernel's 15 bytes, and the same whenever it is asked for.
pub fn link_name(container: &str, ifname: &str) -> String {
    // FNV-1a; a clash within a node would need two of some hundred sandboxes to share 48 bits.
    let hash =
        container.bytes().chain([0]).chain(ifname.bytes()).fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
    format!("bw{:012x}", hash >> 16)
}

// === impl PodWiring ===

impl PodWiring {
    /// Makes the link. `attach` is called with the node's end before anything can pass it.
    pub fn make(&self, attach: impl FnOnce(u32) -> Result<()>) -> Result<PodLink> {
        let namespace = File::open(&self.netns)
            .map_err(|source| Error::Namespace { path: self.netns.clone(), source })?;
        let mac = self.mac();
        let mut netlink = Netlink::open()?;
        remove(&mut netlink, &self.name)?;
        let near = VethEnd { name: &self.name, mac: GATEWAY_MAC.octets(), namespace: None };
        let far = VethEnd { name: &self.ifname, mac, namespace: Some(namespace.as_raw_fd()) };
        netlink.add_veth(&near, &far, self.mtu, &format!("{ALIAS} {}", self.pod))?;
        let made = self.finish(&mut netlink, mac, attach);
        if made.is_err() {
            // The first error counts; a leftover is removed by the next attempt or by DEL.
            let _ = remove(&mut netlink, &self.name);
        }
        made
    }

    fn finish(
        &self,
        netlink: &mut Netlink,
        mac: Mac,
        attach: impl FnOnce(u32) -> Result<()>,
    ) -> Result<PodLink> {
        let ifindex = netlink.device(&self.name)?.index;
        attach(ifindex)?;
        if self.speaks_v6() {
            sysctl::forward_v6()?;
        }
        sysctl::speak_v6(&self.name, self.speaks_v6())?;
        let netns_cookie = netns::inside(&self.netns, || self.inside())?;
        netlink.set_up(ifindex)?;
        Ok(PodLink { ifindex, mac, netns_cookie })
    }

    /// What happens in the pod's namespace.
    fn inside(&self) -> Result<u64> {
        let mut netlink = Netlink::open()?;
        let eth0 = netlink.device(&self.ifname)?.index;
        sysctl::speak_v6(&self.ifname, self.speaks_v6())?;
        for address in &self.addresses {
            netlink.set_address(eth0, IpNet::from(*address))?;
        }
        netlink.set_up(eth0)?;
        for address in &self.addresses {
            let (gateway, everywhere): (IpAddr, IpNet) = match address {
                IpAddr::V4(_) => (GATEWAY4.into(), Ipv4Net::default().into()),
                IpAddr::V6(_) => (GATEWAY6.into(), Ipv6Net::default().into()),
            };
            netlink.set_neighbour(eth0, gateway, GATEWAY_MAC.octets())?;
            let direct = Route { to: gateway.into(), via: None, device: eth0, source: None, mtu: None };
            netlink.set_route(&direct)?;
            netlink.set_route(&Route {
                to: everywhere,
                via: Some(gateway),
                device: eth0,
                source: None,
                mtu: None,
            })?;
        }
        netns::cookie()
    }

    fn speaks_v6(&self) -> bool {
        self.addresses.iter().any(IpAddr::is_ipv6)
    }

    /// Locally administered, and as unique as the address.
    fn mac(&self) -> Mac {
        match self.addresses.first() {
            Some(IpAddr::V4(address)) => {
                let [a, b, c, d] = address.octets();
                [0x0a, 0x62, a, b, c, d]
            }
            Some(IpAddr::V6(address)) => {
                let o = address.octets();
                [0x0e, o[11], o[12], o[13], o[14], o[15]]
            }
            None => [0x0a, 0x62, 0, 0, 0, 0],
        }
    }
}

impl PodLink {
    /// Finds the link of a pod again; `None` when either end is gone.
    pub fn find(name: &str, netns: &Path, ifname: &str) -> Result<Option<Self>> {
        let found = (|| {
            let ifindex = Netlink::open()?.device(name)?.index;
            let (mac, netns_cookie) =
                netns::inside(netns, || Ok((Netlink::open()?.device(ifname)?.mac, netns::cookie()?)))?;
            Ok(PodLink { ifindex, mac, netns_cookie })
        })();
        match found {
            Ok(link) => Ok(Some(link)),
            Err(error) if Error::is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes a pod's link; it may be gone already, with its namespace.
    pub fn remove(name: &str) -> Result<()> {
        remove(&mut Netlink::open()?, name)
    }
}

fn remove(netlink: &mut Netlink, name: &str) -> Result<()> {
    match netlink.device(name) {
        Ok(device) => ignore_gone(netlink.delete(device.index)),
        Err(error) => ignore_gone(Err(error)),
    }
}
