//! The one eBPF object: loaded and verified once, its maps and links pinned so that they outlive this process.
//!
//! ```text
//! <bpffs>/v1/CONNTRACK4 ...           maps, adopted by a successor of the same ABI version
//! <bpffs>/v1/links/uplink_ingress ... links, whose program a successor replaces in place
//! <bpffs>/v1/links/bw0123456789ab ... one for each pod
//! ```

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use abi::names::{self, program};
use aya::{
    EbpfLoader,
    programs::{Program, ProgramError},
};
use parking_lot::Mutex;

use crate::{
    config::Config,
    devices::NodeDevices,
    error::{Error, Result},
    object::OBJECT,
    sys,
};

/// Programs in the kernel and the directory of what is pinned.
#[derive(Debug)]
pub struct Loader {
    root: PathBuf,
    directory: PathBuf,
    programs: HashMap<&'static str, OwnedFd>,
    #[cfg(feature = "log")]
    _logs: crate::reader::Reader,
    /// Pins are made one at a time: a retried ADD must not race its predecessor.
    pinning: Mutex<()>,
}

/// What a link is attached to.
#[derive(Clone, Copy, Debug)]
enum Target<'a> {
    Device(u32),
    Cgroup(BorrowedFd<'a>),
}

/// Attach types of the socket hooks, as the kernel numbers them.
const SOCKET_HOOKS: &[(&str, u32)] = &[
    (program::SOCK_CONNECT4, 10),
    (program::SOCK_CONNECT6, 11),
    (program::SOCK_SENDMSG4, 14),
    (program::SOCK_SENDMSG6, 15),
    (program::SOCK_RECVMSG4, 19),
    (program::SOCK_RECVMSG6, 20),
    (program::SOCK_GETPEERNAME4, 29),
    (program::SOCK_GETPEERNAME6, 30),
    (program::SOCK_RELEASE, 34),
];

/// The directory of pins of this ABI version.
pub fn pin_directory(bpffs: &Path) -> PathBuf {
    bpffs.join(format!("{}{}", names::PIN_DIRECTORY_PREFIX, abi::ABI_VERSION))
}

impl Loader {
    /// Loads the object into the maps that are pinned already, or into new ones.
    pub fn load(config: &Config, devices: &NodeDevices) -> Result<Self> {
        let directory = pin_directory(&config.bpffs);
        let links = directory.join("links");
        fs::create_dir_all(&links).map_err(Error::file("making", &links))?;
        let constants = constants(config, devices);
        let mut loader = EbpfLoader::new();
        loader.override_global(names::CONFIG, &constants, true);
        for spec in names::MAPS {
            loader.map_pin_path(spec.name, directory.join(spec.name));
            loader.map_max_entries(spec.name, config.map_size(spec));
        }
        let mut ebpf = loader.load(OBJECT).map_err(|error| Error::Load(Box::new(error)))?;
        let wanted = program::TCX.iter().chain(SOCKET_HOOKS.iter().map(|(name, _)| name));
        let mut programs = HashMap::new();
        for name in wanted {
            let program = ebpf.program_mut(name);
            let program = program.ok_or_else(|| Error::Missing { kind: "program", name: (*name).into() })?;
            programs.insert(*name, load(name, program)?);
        }
        #[cfg(feature = "log")]
        let _logs = crate::logs::start(&mut ebpf)?;
        tracing::info!(programs = programs.len(), pins = %directory.display(), "eBPF programs are loaded");
        Ok(Loader {
            root: config.bpffs.clone(),
            directory,
            programs,
            #[cfg(feature = "log")]
            _logs,
            pinning: Mutex::new(()),
        })
    }

    /// Where maps are pinned.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Attaches what the node itself needs. Links of a predecessor get the new programs in place, the pods' too.
    pub fn attach_node(&self, devices: &NodeDevices, cgroup: &Path) -> Result<()> {
        let uplink = Target::Device(devices.uplink.index);
        self.attach(
            program::NODE_EGRESS,
            program::NODE_EGRESS,
            Target::Device(devices.net.index),
            sys::TCX_INGRESS,
        )?;
        self.attach(program::UPLINK_INGRESS, program::UPLINK_INGRESS, uplink, sys::TCX_INGRESS)?;
        self.attach(program::UPLINK_EGRESS, program::UPLINK_EGRESS, uplink, sys::TCX_EGRESS)?;
        if let Some(overlay) = &devices.overlay {
            let target = Target::Device(overlay.index);
            self.attach(program::OVERLAY_INGRESS, program::OVERLAY_INGRESS, target, sys::TCX_INGRESS)?;
        }
        let cgroup = File::open(cgroup).map_err(Error::file("opening", cgroup))?;
        for (name, attach_type) in SOCKET_HOOKS {
            self.attach(name, name, Target::Cgroup(cgroup.as_fd()), *attach_type)?;
        }
        self.renew_pods()
    }

    /// Attaches `pod_egress` to a pod's link.
    pub fn attach_pod(&self, device: &str, ifindex: u32) -> Result<()> {
        self.attach(device, program::POD_EGRESS, Target::Device(ifindex), sys::TCX_INGRESS)
    }

    /// Forgets a pod's link; the kernel has removed it with the device.
    pub fn detach_pod(&self, device: &str) -> Result<()> {
        let _pinning = self.pinning.lock();
        unpin(&self.link_path(device))
    }

    fn renew_pods(&self) -> Result<()> {
        for name in link_names(&self.directory)? {
            if self.is_node_link(&name) {
                continue;
            }
            let path = self.link_path(&name);
            let link = sys::open_pinned(&path).map_err(failed("open", &name))?;
            if let Err(error) = sys::link_update(link.as_fd(), self.program(program::POD_EGRESS)?) {
                // Its device is gone, and with it what the link was for.
                tracing::debug!(link = name, %error, "an orphaned link is unpinned");
                unpin(&path)?;
            }
        }
        Ok(())
    }

    fn is_node_link(&self, name: &str) -> bool {
        self.programs.contains_key(name)
    }

    /// Puts `program` behind the pinned link `name`, or makes and pins it.
    fn attach(&self, name: &str, program: &'static str, target: Target<'_>, attach_type: u32) -> Result<()> {
        let _pinning = self.pinning.lock();
        let program = self.program(program)?;
        let path = self.link_path(name);
        if let Some(link) = self.predecessor(name, target)? {
            match sys::link_update(link.as_fd(), program) {
                Ok(()) => return self.keep(&link, name, &path),
                Err(error) => tracing::debug!(link = name, %error, "a pinned link is defunct and made again"),
            }
        }
        unpin(&path)?;
        let number = match target {
            Target::Device(index) => index,
            Target::Cgroup(cgroup) => cgroup.as_raw_fd() as u32,
        };
        let link = sys::link_create(program, number, attach_type).map_err(failed("attach", name))?;
        sys::pin(link.as_fd(), &path).map_err(failed("pin", name))
    }

    /// The link of that name, of this or another ABI version, if it is attached to the target.
    fn predecessor(&self, name: &str, target: Target<'_>) -> Result<Option<OwnedFd>> {
        for directory in version_directories(&self.root)? {
            let Ok(link) = sys::open_pinned(&directory.join("links").join(name)) else { continue };
            let info = sys::link_info(link.as_fd()).map_err(failed("info", name))?;
            match target {
                Target::Device(index) if info.ifindex != index => continue,
                _ => return Ok(Some(link)),
            }
        }
        Ok(None)
    }

    /// Pins a link that came from another version's directory here, and nowhere else.
    fn keep(&self, link: &OwnedFd, name: &str, path: &Path) -> Result<()> {
        if !path.exists() {
            sys::pin(link.as_fd(), path).map_err(failed("pin", name))?;
        }
        for directory in version_directories(&self.root)?.iter().filter(|other| **other != self.directory) {
            unpin(&directory.join("links").join(name))?;
        }
        Ok(())
    }

    fn program(&self, name: &'static str) -> Result<BorrowedFd<'_>> {
        let program = self.programs.get(name);
        Ok(program.ok_or_else(|| Error::Missing { kind: "program", name: name.into() })?.as_fd())
    }

    fn link_path(&self, name: &str) -> PathBuf {
        self.directory.join("links").join(name)
    }
}

fn constants(config: &Config, devices: &NodeDevices) -> abi::Config {
    use abi::feature;
    let bit = |on: bool, bit: u32| if on { bit } else { 0 };
    abi::Config {
        features: bit(devices.overlay.is_some(), feature::VXLAN)
            | bit(config.masquerade, feature::MASQUERADE)
            | bit(config.flow_events, feature::FLOW_EVENTS),
        uplink_ifindex: devices.uplink.index,
        overlay_ifindex: devices.overlay.as_ref().map_or(0, |device| device.index),
        vni: config.vni,
        overlay_mtu: devices.pod_mtu,
        vxlan_port: abi::Port::new(config.vxlan_port),
        ..abi::Config::DEFAULT
    }
}

/// How often a program is offered to the kernel; libbpf's number.
const LOAD_TRIES: usize = 5;

/// Loads a program, again when the verifier was interrupted: it gives up with EAGAIN as soon as its thread has a signal or
/// other work pending.
pub fn patiently(mut load: impl FnMut() -> Result<(), ProgramError>) -> Result<(), ProgramError> {
    for _ in 1..LOAD_TRIES {
        match load() {
            Err(ProgramError::LoadError { io_error, .. }) if io_error.kind() == io::ErrorKind::WouldBlock => {
            }
            result => return result,
        }
    }
    load()
}

fn load(name: &str, program: &mut Program) -> Result<OwnedFd> {
    let refused = |source| Error::Program { program: name.into(), source: Box::new(source) };
    let fd = match program {
        Program::SchedClassifier(program) => patiently(|| program.load()).and_then(|()| program.fd()),
        Program::CgroupSockAddr(program) => patiently(|| program.load()).and_then(|()| program.fd()),
        Program::CgroupSock(program) => patiently(|| program.load()).and_then(|()| program.fd()),
        _ => return Err(Error::Missing { kind: "program of the expected type", name: name.into() }),
    };
    let fd = fd.map_err(refused)?;
    fd.as_fd().try_clone_to_owned().map_err(failed("duplicate", name))
}

/// The version directories below a node's bpffs directory, this version's first.
pub(crate) fn version_directories(root: &Path) -> Result<Vec<PathBuf>> {
    let mut directories: Vec<PathBuf> = match fs::read_dir(root) {
        Ok(entries) => {
            entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_dir()).collect()
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(Error::file("reading", root)(error)),
    };
    let own = pin_directory(root);
    directories.sort_by_key(|directory| (*directory != own, directory.clone()));
    Ok(directories)
}

/// Names of the pinned links in a version directory.
pub(crate) fn link_names(directory: &Path) -> Result<Vec<String>> {
    let links = directory.join("links");
    match fs::read_dir(&links) {
        Ok(entries) => Ok(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Error::file("reading", links)(error)),
    }
}

/// Removes a pin; it may be gone already.
pub(crate) fn unpin(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::file("unpinning", path)(error)),
        _ => Ok(()),
    }
}

fn failed(call: &'static str, subject: &str) -> impl FnOnce(io::Error) -> Error {
    let subject = subject.to_owned();
    move |source| Error::Bpf { call, subject, source }
}
