//! The eBPF object, built by this crate's build script and carried in the binary.

/// The ELF file.
pub(crate) static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("BOWSPRIT_BPF"));
