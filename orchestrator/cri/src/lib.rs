//! Generated CRI and containerd event stubs.
