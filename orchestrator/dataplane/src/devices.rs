//! The network devices of a node: the pair that leads its own processes to pods, the tunnel, and each pod's link.
//!
//! ```text
//!   processes --- bowsprit_host ==== bowsprit_net [node_egress] --> pods, tunnel
//!   pod eth0 ==== bw0123456789ab [pod_egress] --> pods, tunnel, processes, uplink
//!   uplink [uplink_ingress, uplink_egress]      bowsprit_vxlan [overlay_ingress]
//! ```
//! Everything is made if it is missing and adopted if it is there; `detach` removes what carries our alias.

mod pod;
mod sysctl;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use abi::GATEWAY_MAC;
use ipnet::IpNet;
use netplan::{Host, snapshot::Routing};

pub use self::pod::{PodLink, PodWiring, link_name};
use crate::{
    config::Config,
    error::{Error, Result},
    netlink::{Device, Netlink, Route, VethEnd},
};

/// The node's end of the pair that its own processes reach pods by.
pub const HOST_DEVICE: &str = "bowsprit_host";
/// The other end, where `node_egress` sits.
pub const NET_DEVICE: &str = "bowsprit_net";
/// The tunnel.
pub const OVERLAY_DEVICE: &str = "bowsprit_vxlan";
/// How the aliases of all our devices begin.
pub const ALIAS: &str = "bowsprit";

/// The pods' IPv4 gateway: link-local, the same in every pod, answered by a permanent neighbour entry.
pub const GATEWAY4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The pods' IPv6 gateway.
pub const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// What VXLAN adds to a packet over IPv4: outer IP 20, UDP 8, VXLAN 8, inner Ethernet 14.
const VXLAN_OVERHEAD_V4: u32 = 50;
/// Over IPv6 the outer header has 40 bytes.
const VXLAN_OVERHEAD_V6: u32 = 70;

/// The devices of a node, found or made.
#[derive(Clone, Debug)]
pub struct NodeDevices {
    /// What leads out of the node.
    pub uplink: Device,
    /// [`HOST_DEVICE`].
    pub host: Device,
    /// [`NET_DEVICE`].
    pub net: Device,
    /// [`OVERLAY_DEVICE`], unless routing is native.
    pub overlay: Option<Device>,
    /// The pods' MTU.
    pub pod_mtu: u32,
}

/// Finds the uplink and makes the node's own devices.
pub fn ensure(config: &Config) -> Result<NodeDevices> {
    let mut netlink = Netlink::open()?;
    let uplink = uplink(&mut netlink, config)?;
    let pod_mtu = pod_mtu(&mut netlink, config, &uplink)?;
    sysctl::prepare_node(&uplink.name)?;
    let (host, net) = host_pair(&mut netlink, pod_mtu)?;
    let overlay = match config.routing {
        Routing::Vxlan => Some(overlay(&mut netlink, config, pod_mtu)?),
        Routing::Native => None,
    };
    Ok(NodeDevices { uplink, host, net, overlay, pod_mtu })
}

fn uplink(netlink: &mut Netlink, config: &Config) -> Result<Device> {
    if !config.uplink.is_empty() {
        return netlink.device(&config.uplink).map_err(|error| {
            if error.is_gone() {
                let remedy = "name the node's uplink in the configuration (`uplink`)";
                return Error::NoDevice { name: config.uplink.clone(), remedy };
            }
            error
        });
    }
    let index = match netlink.default_device(false)? {
        Some(index) => Some(index),
        None => netlink.default_device(true)?,
    };
    let index = index.ok_or_else(|| Error::NoDevice {
        name: "of the default route".into(),
        remedy: "there is no default route: name the node's uplink in the configuration (`uplink`)",
    })?;
    netlink.device_by_index(index)
}

fn pod_mtu(netlink: &mut Netlink, config: &Config, uplink: &Device) -> Result<u32> {
    if config.mtu != 0 {
        return Ok(config.mtu);
    }
    if config.routing == Routing::Native {
        return Ok(uplink.mtu);
    }
    let has_v4 =
        netlink.addresses()?.iter().any(|(index, net)| *index == uplink.index && net.addr().is_ipv4());
    Ok(uplink.mtu.saturating_sub(if has_v4 { VXLAN_OVERHEAD_V4 } else { VXLAN_OVERHEAD_V6 }))
}

fn host_pair(netlink: &mut Netlink, mtu: u32) -> Result<(Device, Device)> {
    if let Err(error) = netlink.device(HOST_DEVICE) {
        if !error.is_gone() {
            return Err(error);
        }
        let near = VethEnd { name: HOST_DEVICE, mac: host_mac(), namespace: None };
        let far = VethEnd { name: NET_DEVICE, mac: GATEWAY_MAC.octets(), namespace: None };
        netlink.add_veth(&near, &far, mtu, ALIAS)?;
    }
    let (host, net) = (netlink.device(HOST_DEVICE)?, netlink.device(NET_DEVICE)?);
    for device in [&host, &net] {
        ready(netlink, device, mtu)?;
    }
    netlink.set_neighbour(host.index, GATEWAY4.into(), net.mac)?;
    Ok((host, net))
}

fn overlay(netlink: &mut Netlink, config: &Config, mtu: u32) -> Result<Device> {
    if let Err(error) = netlink.device(OVERLAY_DEVICE) {
        if !error.is_gone() {
            return Err(error);
        }
        netlink.add_vxlan(OVERLAY_DEVICE, config.vxlan_port, mtu, ALIAS)?;
    }
    let device = netlink.device(OVERLAY_DEVICE)?;
    ready(netlink, &device, mtu)?;
    Ok(device)
}

fn ready(netlink: &mut Netlink, device: &Device, mtu: u32) -> Result<()> {
    if device.mtu != mtu {
        netlink.set_mtu(device.index, mtu)?;
    }
    sysctl::prepare_device(&device.name)?;
    if device.up {
        return Ok(());
    }
    sysctl::speak_v6(&device.name, false)?;
    netlink.set_up(device.index)
}

/// Locally administered, and not the gateway's.
fn host_mac() -> [u8; 6] {
    let mut mac = GATEWAY_MAC.octets();
    mac[5] = mac[5].wrapping_add(1);
    mac
}

// === impl NodeDevices ===

impl NodeDevices {
    /// Gives the node its overlay addresses and the routes to pods, and takes away those of an earlier plan.
    pub fn sync_host(&self, host: &Host) -> Result<()> {
        let mut netlink = Netlink::open()?;
        self.sync_addresses(&mut netlink, &host.overlay)?;
        let wanted: Vec<Route> =
            host.routes.iter().filter_map(|route| self.route(route, &host.overlay)).collect();
        let held = netlink.our_routes()?;
        for route in &wanted {
            if !held.iter().any(|held| same_route(held, route)) {
                netlink.set_route(route)?;
            }
        }
        for route in held.iter().filter(|held| !wanted.iter().any(|wanted| wanted.to == held.to)) {
            netlink.delete_route(route)?;
        }
        Ok(())
    }

    fn sync_addresses(&self, netlink: &mut Netlink, overlay: &[IpAddr]) -> Result<()> {
        let held = netlink.addresses()?;
        let ours = |net: &IpNet| !is_link_local(net.addr());
        for address in overlay {
            let net = IpNet::from(*address);
            if address.is_ipv6() {
                sysctl::speak_v6(HOST_DEVICE, true)?;
                sysctl::speak_v6(NET_DEVICE, true)?;
                netlink.set_neighbour(self.host.index, GATEWAY6.into(), self.net.mac)?;
            }
            if !held.contains(&(self.host.index, net)) {
                netlink.set_address(self.host.index, net)?;
            }
        }
        for (index, net) in held.iter().filter(|(_, net)| ours(net)) {
            if *index == self.host.index && !overlay.contains(&net.addr()) {
                netlink.delete_address(*index, *net)?;
            }
        }
        Ok(())
    }

    /// The kernel's form of a route; `None` while the node has no overlay address of the family.
    fn route(&self, route: &netplan::HostRoute, overlay: &[IpAddr]) -> Option<Route> {
        let v6 = route.to.addr().is_ipv6();
        let source = overlay.iter().copied().find(|address| address.is_ipv6() == v6)?;
        Some(match route.via {
            None => Route {
                to: route.to,
                via: Some(if v6 { GATEWAY6.into() } else { GATEWAY4.into() }),
                device: self.host.index,
                source: Some(source),
                mtu: None,
            },
            Some(node) => Route {
                to: route.to,
                via: Some(node),
                device: self.uplink.index,
                source: Some(source),
                mtu: None,
            },
        })
    }
}

fn same_route(held: &Route, wanted: &Route) -> bool {
    (held.to, held.via, held.device, held.source) == (wanted.to, wanted.via, wanted.device, wanted.source)
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// Removes every device and route that we made in this namespace; the pods' ends go with ours.
pub fn remove_all() -> Result<()> {
    let mut netlink = Netlink::open()?;
    for route in netlink.our_routes()? {
        ignore_gone(netlink.delete_route(&route))?;
    }
    for device in netlink.devices()? {
        if device.alias.as_deref().is_some_and(|alias| alias.starts_with(ALIAS)) {
            ignore_gone(netlink.delete(device.index))?;
        }
    }
    Ok(())
}

/// Success if it was there or not.
pub(crate) fn ignore_gone(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if error.is_gone() => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests;
