//! Numbers for the source files that take decisions, so that a drop names its file and line in 24 bits.

/// Files of `ebpf-programs/` that may decide about a packet. Append; a number is never reused within an ABI version.
pub const SOURCES: &[&str] = &[
    "unknown",
    "datapath/src/parse.rs",
    "datapath/src/family.rs",
    "datapath/src/fragment.rs",
    "datapath/src/conntrack.rs",
    "datapath/src/begin.rs",
    "datapath/src/establish.rs",
    "datapath/src/nat.rs",
    "datapath/src/service.rs",
    "datapath/src/policy.rs",
    "datapath/src/deliver.rs",
    "datapath/src/answer.rs",
    "datapath/src/hooks.rs",
    "datapath/src/related.rs",
    "datapath/src/leave.rs",
    "datapath/src/socket.rs",
    "programs/src/output.rs",
    "datapath/src/claim.rs",
];

/// The number of a file; for `file!()` in a constant, where a file that is not listed fails the build.
pub const fn source_id(file: &str) -> u8 {
    let mut id = 1;
    while id < SOURCES.len() {
        if ends_with(file.as_bytes(), SOURCES[id].as_bytes()) {
            return id as u8;
        }
        id += 1;
    }
    panic!("add the file to abi::SOURCES")
}

/// Whether `text` ends with `end`: paths differ in front, by the workspace that compiles the file.
const fn ends_with(text: &[u8], end: &[u8]) -> bool {
    if text.len() < end.len() {
        return false;
    }
    let mut i = 0;
    while i < end.len() {
        if text[text.len() - end.len() + i] != end[i] {
            return false;
        }
        i += 1;
    }
    true
}
