//! What can go wrong between a plan and the kernel. Every message names its subject and says what to do about it.

use std::{io, path::PathBuf};

/// An error of the loader, the devices, or the maps.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel lacks something that the dataplane cannot do without.
    #[error("the kernel lacks {feature}, which needs Linux {since} or newer: {remedy}")]
    Feature {
        /// The missing feature.
        feature: &'static str,
        /// The first kernel that has it.
        since: &'static str,
        /// What to do about it.
        remedy: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// This process may not do what the dataplane does.
    #[error(
        "this process may not {action}: run it as root, in a container with CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN"
    )]
    Privileges {
        /// What was refused.
        action: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A system call on a bpf object failed.
    #[error("bpf {call} for {subject} failed")]
    Bpf {
        /// The operation.
        call: &'static str,
        /// The map, link or program.
        subject: String,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// The eBPF object could not be parsed or its maps not made.
    #[error("loading the eBPF object failed")]
    Load(#[source] Box<aya::EbpfError>),
    /// The verifier or the kernel refused a program.
    #[error("the kernel refused the eBPF program {program}")]
    Program {
        /// The program.
        program: String,
        /// aya's error; for a verifier error it carries the log.
        #[source]
        source: Box<aya::programs::ProgramError>,
    },
    /// The object does not contain what this binary expects.
    #[error(
        "the eBPF object has no {kind} {name}: the binary and the object are of different builds, rebuild both"
    )]
    Missing {
        /// map or program.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// A pinned map is not what this ABI version says.
    #[error(
        "the pinned map {path} has {found} where this version expects {expected}: \
         run `bowsprit dataplane detach` and start again"
    )]
    PinnedMap {
        /// Where it is pinned.
        path: PathBuf,
        /// What it is.
        found: String,
        /// What it should be.
        expected: String,
    },
    /// A netlink request was refused.
    #[error("{operation} failed")]
    Netlink {
        /// What was asked for, with the device's name.
        operation: String,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// A device that should be there is not.
    #[error("there is no network device {name}: {remedy}")]
    NoDevice {
        /// Its name or description.
        name: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// A network namespace could not be entered.
    #[error("the network namespace {path} cannot be entered")]
    Namespace {
        /// Its path.
        path: PathBuf,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// A file could not be read or written.
    #[error("{operation} {path} failed")]
    File {
        /// read, write...
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
}

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of a file operation.
    pub(crate) fn file(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Error::File { operation, path, source }
    }

    /// Whether the kernel said that the subject is not there.
    pub fn is_gone(&self) -> bool {
        match self {
            Error::Netlink { source, .. } | Error::Namespace { source, .. } | Error::Bpf { source, .. } => {
                matches!(source.raw_os_error(), Some(libc::ENODEV | libc::ENOENT | libc::ESRCH | libc::ENXIO))
            }
            Error::NoDevice { .. } => true,
            Error::File { source, .. } => source.kind() == io::ErrorKind::NotFound,
            _ => false,
        }
    }
}
