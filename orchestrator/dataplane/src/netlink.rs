//! Network devices, addresses, neighbours and routes over one blocking netlink socket.
//!
//! Blocking on purpose: a request is answered by the kernel within the send, the socket belongs to the namespace of the thread
//! that opened it, and pods are wired from threads that live in their namespaces for exactly that long.

mod socket;

use std::{net::IpAddr, os::fd::RawFd};

use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage as Message,
    address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope},
    link::{InfoData, InfoKind, InfoVeth, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
        RouteType,
    },
};

pub use self::socket::Netlink;
use self::socket::{CREATE, DUMP, REPLACE};
use crate::error::{Error, Result};

/// A MAC address.
pub type Mac = [u8; 6];

/// The routing protocol number that marks routes as ours (no other daemon uses it).
const PROTOCOL: RouteProtocol = RouteProtocol::Other(66);

/// A network device as the kernel shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its MAC address; zeros where it has none.
    pub mac: Mac,
    /// Its MTU.
    pub mtu: u32,
    /// Its alias: ours begin with `bowsprit`.
    pub alias: Option<String>,
    /// It is administratively up.
    pub up: bool,
}

/// One end of a veth pair that is to be made.
#[derive(Clone, Debug)]
pub struct VethEnd<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its MAC address.
    pub mac: Mac,
    /// The namespace it is born in; `None`: the socket's own.
    pub namespace: Option<RawFd>,
}

/// A route that is to be there.
#[derive(Clone, Debug)]
pub struct Route {
    /// Where to.
    pub to: IpNet,
    /// Through which gateway, which need not be in any subnet; `None`: directly.
    pub via: Option<IpAddr>,
    /// Out of which device.
    pub device: u32,
    /// The source address of packets that have none yet.
    pub source: Option<IpAddr>,
    /// The largest packet; `None`: the device's.
    pub mtu: Option<u32>,
}

impl Netlink {
    /// The device of that name.
    pub fn device(&mut self, name: &str) -> Result<Device> {
        let mut link = LinkMessage::default();
        link.attributes.push(LinkAttribute::IfName(name.into()));
        self.one_device(name, link)
    }

    /// The device of that index.
    pub fn device_by_index(&mut self, index: u32) -> Result<Device> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        self.one_device(&format!("number {index}"), link)
    }

    /// All devices.
    pub fn devices(&mut self) -> Result<Vec<Device>> {
        let replies = self.request("listing devices", Message::GetLink(LinkMessage::default()), DUMP)?;
        Ok(replies.into_iter().filter_map(as_device).collect())
    }

    /// Makes a veth pair, both ends with their final names, MACs and namespaces.
    pub fn add_veth(&mut self, near: &VethEnd<'_>, far: &VethEnd<'_>, mtu: u32, alias: &str) -> Result<()> {
        let end = |end: &VethEnd<'_>| {
            let mut link = LinkMessage::default();
            link.attributes = vec![
                LinkAttribute::IfName(end.name.into()),
                LinkAttribute::Address(end.mac.into()),
                LinkAttribute::Mtu(mtu),
            ];
            link.attributes.extend(end.namespace.map(LinkAttribute::NetNsFd));
            link
        };
        let mut link = end(near);
        link.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(end(far)))),
        ]));
        self.request(&format!("making the veth pair {}", near.name), Message::NewLink(link), CREATE)?;
        self.set_alias(near.name, alias)
    }

    /// Makes a VXLAN device that takes the tunnel's ends from each packet's metadata.
    pub fn add_vxlan(&mut self, name: &str, port: u16, mtu: u32, alias: &str) -> Result<()> {
        let mut link = LinkMessage::default();
        link.attributes = vec![
            LinkAttribute::IfName(name.into()),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Vxlan),
                LinkInfo::Data(InfoData::Vxlan(vec![
                    InfoVxlan::CollectMetadata(true),
                    InfoVxlan::Learning(false),
                    InfoVxlan::Port(port),
                    // No outer UDP checksum: the inner packet has its own, and computing it costs TSO.
                    InfoVxlan::UDPCsum(false),
                ])),
            ]),
        ];
        self.request(
            &format!("making the VXLAN device {name} on port {port}"),
            Message::NewLink(link),
            CREATE,
        )?;
        self.set_alias(name, alias)
    }

    /// The kernel takes an alias for a device that is there, not for one that is being made.
    fn set_alias(&mut self, name: &str, alias: &str) -> Result<()> {
        let mut link = LinkMessage::default();
        link.attributes = vec![LinkAttribute::IfName(name.into()), LinkAttribute::IfAlias(alias.into())];
        self.request(&format!("naming the device {name} as ours"), Message::SetLink(link), 0)?;
        Ok(())
    }

    /// Brings a device up.
    pub fn set_up(&mut self, index: u32) -> Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        self.request(&format!("bringing device {index} up"), Message::SetLink(link), 0)?;
        Ok(())
    }

    /// Sets a device's MTU.
    pub fn set_mtu(&mut self, index: u32, mtu: u32) -> Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.attributes.push(LinkAttribute::Mtu(mtu));
        self.request(&format!("setting the MTU of device {index} to {mtu}"), Message::SetLink(link), 0)?;
        Ok(())
    }

    /// Removes a device; a veth's other end goes with it.
    pub fn delete(&mut self, index: u32) -> Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        self.request(&format!("removing device {index}"), Message::DelLink(link), 0)?;
        Ok(())
    }

    /// Gives a device an address; it may have it already.
    pub fn set_address(&mut self, index: u32, net: IpNet) -> Result<()> {
        let message = Message::NewAddress(address_message(index, net));
        self.request(&format!("giving device {index} the address {net}"), message, CREATE | REPLACE)?;
        Ok(())
    }

    /// Takes an address from a device.
    pub fn delete_address(&mut self, index: u32, net: IpNet) -> Result<()> {
        let message = Message::DelAddress(address_message(index, net));
        self.request(&format!("taking the address {net} from device {index}"), message, 0)?;
        Ok(())
    }

    /// All addresses of the namespace, with the device that has each.
    pub fn addresses(&mut self) -> Result<Vec<(u32, IpNet)>> {
        let message = Message::GetAddress(AddressMessage::default());
        let replies = self.request("listing addresses", message, DUMP)?;
        Ok(replies.into_iter().filter_map(as_address).collect())
    }

    /// Makes a neighbour entry that never has to be resolved.
    pub fn set_neighbour(&mut self, index: u32, address: IpAddr, mac: Mac) -> Result<()> {
        let mut neighbour = NeighbourMessage::default();
        neighbour.header.family = family(address);
        neighbour.header.ifindex = index;
        neighbour.header.state = NeighbourState::Permanent;
        neighbour.header.kind = RouteType::Unicast;
        let destination = match address {
            IpAddr::V4(address) => NeighbourAddress::Inet(address),
            IpAddr::V6(address) => NeighbourAddress::Inet6(address),
        };
        neighbour.attributes = vec![
            NeighbourAttribute::Destination(destination),
            NeighbourAttribute::LinkLayerAddress(mac.into()),
        ];
        let operation = format!("making the neighbour {address} on device {index}");
        self.request(&operation, Message::NewNeighbour(neighbour), CREATE | REPLACE)?;
        Ok(())
    }

    /// Makes a route, or makes an existing one like this.
    pub fn set_route(&mut self, route: &Route) -> Result<()> {
        let operation = format!("making the route to {}", route.to);
        self.request(&operation, Message::NewRoute(route_message(route)), CREATE | REPLACE)?;
        Ok(())
    }

    /// Removes a route.
    pub fn delete_route(&mut self, route: &Route) -> Result<()> {
        let operation = format!("removing the route to {}", route.to);
        self.request(&operation, Message::DelRoute(route_message(route)), 0)?;
        Ok(())
    }

    /// The routes that we made: destination, gateway, device.
    pub fn our_routes(&mut self) -> Result<Vec<Route>> {
        let routes = self.routes()?;
        Ok(routes.into_iter().filter(|(_, protocol)| *protocol == PROTOCOL).map(|(route, _)| route).collect())
    }

    /// The device that the default route of the family leaves by.
    pub fn default_device(&mut self, v6: bool) -> Result<Option<u32>> {
        let routes = self.routes()?;
        let default = routes.into_iter().find(|(r, _)| r.to.prefix_len() == 0 && r.to.addr().is_ipv6() == v6);
        Ok(default.map(|(route, _)| route.device))
    }

    fn routes(&mut self) -> Result<Vec<(Route, RouteProtocol)>> {
        let replies = self.request("listing routes", Message::GetRoute(RouteMessage::default()), DUMP)?;
        Ok(replies.into_iter().filter_map(as_route).collect())
    }

    fn one_device(&mut self, name: &str, link: LinkMessage) -> Result<Device> {
        let replies = self.request(&format!("looking up device {name}"), Message::GetLink(link), 0)?;
        replies
            .into_iter()
            .find_map(as_device)
            .ok_or_else(|| Error::NoDevice { name: name.into(), remedy: "it was removed by someone else" })
    }
}

fn as_device(message: Message) -> Option<Device> {
    let Message::NewLink(link) = message else { return None };
    let up = link.header.flags.contains(LinkFlags::Up);
    let mut device =
        Device { index: link.header.index, name: String::new(), mac: [0; 6], mtu: 0, alias: None, up };
    for attribute in link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => device.name = name,
            LinkAttribute::Address(mac) => device.mac = mac.try_into().unwrap_or_default(),
            LinkAttribute::Mtu(mtu) => device.mtu = mtu,
            LinkAttribute::IfAlias(alias) => device.alias = Some(alias),
            _ => {}
        }
    }
    Some(device)
}

fn address_message(index: u32, net: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(net.addr());
    message.header.prefix_len = net.prefix_len();
    message.header.scope = AddressScope::Universe;
    message.header.index = index;
    if net.addr().is_ipv6() {
        // The address is ours by assignment: waiting for duplicates would delay the pod by a second.
        message.header.flags = AddressHeaderFlags::Nodad;
    }
    message.attributes = vec![AddressAttribute::Local(net.addr()), AddressAttribute::Address(net.addr())];
    message
}

fn as_address(message: Message) -> Option<(u32, IpNet)> {
    let Message::NewAddress(message) = message else { return None };
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let plain = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    });
    let net = IpNet::new(local.or(plain)?, message.header.prefix_len).ok()?;
    Some((message.header.index, net))
}

fn route_message(route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(route.to.addr());
    message.header.destination_prefix_length = route.to.prefix_len();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = PROTOCOL;
    message.header.kind = RouteType::Unicast;
    message.header.scope = if route.via.is_some() { RouteScope::Universe } else { RouteScope::Link };
    if route.via.is_some() {
        message.header.flags = RouteFlags::Onlink;
    }
    if route.to.prefix_len() > 0 {
        message.attributes.push(RouteAttribute::Destination(RouteAddress::from(route.to.network())));
    }
    message.attributes.extend(route.via.map(|via| RouteAttribute::Gateway(via.into())));
    message.attributes.extend(route.source.map(|source| RouteAttribute::PrefSource(source.into())));
    message.attributes.push(RouteAttribute::Oif(route.device));
    let mtu = route.mtu.map(|mtu| vec![netlink_packet_route::route::RouteMetric::Mtu(mtu)]);
    message.attributes.extend(mtu.map(RouteAttribute::Metrics));
    message
}

/// Routes of the main table; `None` for others and for what has no device.
fn as_route(message: Message) -> Option<(Route, RouteProtocol)> {
    let Message::NewRoute(message) = message else { return None };
    if message.header.table != RouteHeader::RT_TABLE_MAIN {
        return None;
    }
    let (mut to, mut via, mut device, mut source) = (None, None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => to = as_ip(address),
            RouteAttribute::Gateway(address) => via = as_ip(address),
            RouteAttribute::PrefSource(address) => source = as_ip(address),
            RouteAttribute::Oif(index) => device = Some(*index),
            _ => {}
        }
    }
    let unspecified = match message.header.address_family {
        AddressFamily::Inet => IpAddr::from([0u8; 4]),
        AddressFamily::Inet6 => IpAddr::from([0u8; 16]),
        _ => return None,
    };
    let to = IpNet::new(to.unwrap_or(unspecified), message.header.destination_prefix_length).ok()?;
    Some((Route { to, via, device: device?, source, mtu: None }, message.header.protocol))
}

fn as_ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet }
}
