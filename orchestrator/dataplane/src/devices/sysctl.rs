//! Kernel settings of the node's namespace that our way of forwarding needs.

use std::{fs, io, path::PathBuf};

use crate::error::{Error, Result};

/// The node forwards; replies come by other devices than the host's own routes would say (packets of pods reach the host from
/// their links, while its routes to pods lead through the host pair), so that reverse path checks would drop them. Ours are
/// stricter: `pod_egress` compares source and device, `overlay_ingress` source and node.
pub(super) fn prepare_node(uplink: &str) -> Result<()> {
    set("ipv4/ip_forward", "1")?;
    set("ipv4/conf/all/rp_filter", "0")?;
    set("ipv4/conf/default/rp_filter", "0")?;
    prepare_device(uplink)
}

/// As [`prepare_node`], for one device.
pub(super) fn prepare_device(name: &str) -> Result<()> {
    set(&format!("ipv4/conf/{name}/rp_filter"), "0")
}

/// Whether a device of ours, in the calling thread's namespace, speaks IPv6. Where no address asks for it, router solicitations and
/// group reports would only be dropped, counted and shown.
pub(super) fn speak_v6(name: &str, speak: bool) -> Result<()> {
    set(&format!("ipv6/conf/{name}/disable_ipv6"), if speak { "0" } else { "1" })
}

/// IPv6 is forwarded only where pods have such addresses: it changes how the uplink treats router advertisements.
pub(super) fn forward_v6() -> Result<()> {
    set("ipv6/conf/all/forwarding", "1")
}

fn set(name: &str, value: &str) -> Result<()> {
    let path = PathBuf::from("/proc/sys/net").join(name);
    if fs::read_to_string(&path).is_ok_and(|held| held.trim() == value) {
        return Ok(());
    }
    match fs::write(&path, value) {
        // Only possible for a device that was just removed: whoever needs it will say so.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.map_err(Error::file("writing", path)),
    }
}
