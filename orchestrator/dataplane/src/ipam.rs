//! Which sandbox has which address: one file each, on disk before anyone is told.
//!
//! Addresses go round: one that was given back is the last to be given again, because other nodes, connections and logs may
//! still mean the pod that had it. The files are the truth; the runtime's list of sandboxes is asked at start which of
//! them are still wanted.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// What is known of one sandbox's device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The runtime's id of the sandbox.
    pub container: String,
    /// Name of the device inside.
    pub ifname: String,
    /// Path of the sandbox's network namespace.
    pub netns: PathBuf,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's uid.
    pub uid: String,
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
    /// Name of the device outside.
    pub device: String,
}

/// What names a record: a sandbox may have several devices.
pub type Key = (String, String);

/// The addresses of this node.
#[derive(Debug)]
pub struct Ipam {
    directory: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    nets: Vec<IpNet>,
    records: HashMap<Key, Record>,
    /// The last address given from each net: the search goes on behind it.
    last: HashMap<IpNet, IpAddr>,
}

/// Why there is no address.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IpamError {
    /// The node has no pod CIDR yet.
    #[error("the node has no pod CIDR yet: the node CIDR controller assigns one when the node is registered")]
    NoCidr,
    /// Every address is taken.
    #[error(
        "all {count} addresses of {net} are in use: delete pods of this node, or give nodes larger pod CIDRs"
    )]
    Exhausted {
        /// The net.
        net: IpNet,
        /// How many pods have one.
        count: usize,
    },
    /// A record is unreadable.
    #[error("the address record {path} is damaged: make sure that its pod is gone, then remove the file")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// The disk does not do what it should.
    #[error("{operation} {path} failed")]
    File {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
}

/// The file that remembers where the round is; losing it costs only the order.
const LAST: &str = "last";

impl Ipam {
    /// Reads the records of `directory`, which is made if it is missing.
    pub fn open(directory: &Path) -> Result<Self, IpamError> {
        fs::create_dir_all(directory).map_err(file("making", directory))?;
        let mut state = State::default();
        for entry in fs::read_dir(directory).map_err(file("reading", directory))? {
            let path = entry.map_err(file("reading", directory))?.path();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("json") => {
                    let record = read(&path)?;
                    state.records.insert(record.key(), record);
                }
                // Written half: nobody was told of it.
                Some("new") => fs::remove_file(&path).map_err(file("removing", &path))?,
                _ => {}
            }
        }
        if let Ok(text) = fs::read_to_string(directory.join(LAST)) {
            state.last = serde_json::from_str(&text).unwrap_or_default();
        }
        Ok(Ipam { directory: directory.into(), state: Mutex::new(state) })
    }

    /// Says which nets addresses are given from.
    pub fn set_nets(&self, nets: &[IpNet]) {
        self.state.lock().nets = nets.iter().map(IpNet::trunc).collect();
    }

    /// All records.
    pub fn records(&self) -> Vec<Record> {
        self.state.lock().records.values().cloned().collect()
    }

    /// The record of a device.
    pub fn get(&self, key: &Key) -> Option<Record> {
        self.state.lock().records.get(key).cloned()
    }

    /// Gives `wanted` addresses (its own are ignored), one of each net, and writes them down. The same answer for the same
    /// device until it is released.
    pub fn allocate(&self, mut wanted: Record) -> Result<Record, IpamError> {
        let mut state = self.state.lock();
        if let Some(record) = state.records.get(&wanted.key()) {
            return Ok(record.clone());
        }
        if state.nets.is_empty() {
            return Err(IpamError::NoCidr);
        }
        wanted.addresses.clear();
        for net in state.nets.clone() {
            let address = state.next(net)?;
            wanted.addresses.push(address);
            state.last.insert(net, address);
        }
        // Not synced: see LAST.
        let _ = fs::write(self.directory.join(LAST), serde_json::to_vec(&state.last).unwrap_or_default());
        self.write(&wanted)?;
        state.records.insert(wanted.key(), wanted.clone());
        Ok(wanted)
    }

    /// Gives a device's addresses back; `None` if there was no record.
    pub fn release(&self, key: &Key) -> Result<Option<Record>, IpamError> {
        let mut state = self.state.lock();
        let Some(record) = state.records.get(key).cloned() else { return Ok(None) };
        let path = self.path(&record);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(file("removing", &path)(source));
            }
            _ => {}
        }
        state.records.remove(key);
        Ok(Some(record))
    }

    fn path(&self, record: &Record) -> PathBuf {
        // Ids are hexadecimal; should one not be, it must still not leave the directory.
        let safe =
            |text: &str| text.replace(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_', "_");
        self.directory.join(format!("{}.{}.json", safe(&record.container), safe(&record.ifname)))
    }

    fn write(&self, record: &Record) -> Result<(), IpamError> {
        let path = self.path(record);
        let new = path.with_extension("new");
        let bytes =
            serde_json::to_vec_pretty(record).expect("invariant: a record has only strings and numbers");
        let mut out = File::create(&new).map_err(file("writing", &new))?;
        out.write_all(&bytes).and_then(|()| out.sync_data()).map_err(file("writing", &new))?;
        fs::rename(&new, &path).map_err(file("renaming", &new))?;
        let directory = File::open(&self.directory).map_err(file("opening", &self.directory))?;
        directory.sync_all().map_err(file("syncing", &self.directory))
    }
}

// === impl State ===

impl State {
    /// The next free address of `net` behind the last one given.
    fn next(&self, net: IpNet) -> Result<IpAddr, IpamError> {
        let used: HashSet<IpAddr> =
            self.records.values().flat_map(|record| record.addresses.iter().copied()).collect();
        let (first, count) = pool(net);
        let last = self.last.get(&net).and_then(|last| number(*last).checked_sub(first));
        let start = last.map_or(0, |last| last + 1);
        // No more than the used ones can be in the way.
        let tries = count.min(used.len() as u128 + 1);
        (0..tries)
            .map(|step| address(first + (start + step) % count, net.addr().is_ipv6()))
            .find(|candidate| !used.contains(candidate))
            .filter(|_| count > 0)
            .ok_or(IpamError::Exhausted { net, count: used.len() })
    }
}

// === impl Record ===

impl Record {
    /// What names it.
    pub fn key(&self) -> Key {
        (self.container.clone(), self.ifname.clone())
    }
}

/// The first address for pods and how many there are: not the network's, not the node's own (the first), not the last.
fn pool(net: IpNet) -> (u128, u128) {
    let (network, last) = (number(net.network()), number(net.broadcast()));
    (network + 2, (last - network).saturating_sub(2))
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

fn address(number: u128, v6: bool) -> IpAddr {
    if v6 { Ipv6Addr::from(number).into() } else { Ipv4Addr::from(number as u32).into() }
}

fn read(path: &Path) -> Result<Record, IpamError> {
    let bytes = fs::read(path).map_err(file("reading", path))?;
    serde_json::from_slice(&bytes).map_err(|source| IpamError::Damaged { path: path.into(), source })
}

fn file(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> IpamError {
    let path = path.into();
    move |source| IpamError::File { operation, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sandbox(container: &str) -> Record {
        Record {
            container: container.into(),
            ifname: "eth0".into(),
            netns: "/var/run/netns/x".into(),
            namespace: "default".into(),
            name: "web".into(),
            uid: "uid".into(),
            addresses: vec![],
            device: "bw0".into(),
        }
    }

    fn ipam(directory: &Path, net: &str) -> Ipam {
        let ipam = Ipam::open(directory).unwrap();
        ipam.set_nets(&[net.parse().unwrap()]);
        ipam
    }

    fn give(ipam: &Ipam, container: &str) -> String {
        ipam.allocate(sandbox(container)).unwrap().addresses[0].to_string()
    }

    #[test]
    fn addresses_go_round_and_survive_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let before = ipam(directory.path(), "10.244.3.0/29");
        assert_eq!(give(&before, "a"), "10.244.3.2", "0 is the net, 1 the node");
        assert_eq!(give(&before, "a"), "10.244.3.2", "asking again changes nothing");
        assert_eq!(give(&before, "b"), "10.244.3.3");
        before.release(&("b".into(), "eth0".into())).unwrap();
        drop(before);
        fs::write(directory.path().join("torn.eth0.new"), "{").unwrap();
        let after = ipam(directory.path(), "10.244.3.0/29");
        assert_eq!(after.records().len(), 1);
        assert_eq!(give(&after, "c"), "10.244.3.4", "an address given back is the last to be used again");
        assert_eq!(give(&after, "d"), "10.244.3.5");
        assert_eq!(give(&after, "e"), "10.244.3.6");
        assert_eq!(give(&after, "f"), "10.244.3.3", "7 is the broadcast address");
        let full = after.allocate(sandbox("g")).unwrap_err();
        assert!(full.to_string().starts_with("all 5 addresses of 10.244.3.0/29 are in use"), "{full}");
    }

    #[test]
    fn without_a_pod_cidr_the_error_says_who_assigns_it() {
        let directory = tempfile::tempdir().unwrap();
        let error = Ipam::open(directory.path()).unwrap().allocate(sandbox("a")).unwrap_err();
        assert!(error.to_string().contains("no pod CIDR yet"), "{error}");
    }

    #[test]
    fn a_damaged_record_is_named() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("a.eth0.json"), "{").unwrap();
        let error = Ipam::open(directory.path()).unwrap_err();
        assert!(error.to_string().contains("a.eth0.json is damaged"), "{error}");
    }

    #[test]
    fn a_vast_net_is_not_walked() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(give(&ipam(directory.path(), "fd00:1::/64"), "a"), "fd00:1::2");
    }
}
