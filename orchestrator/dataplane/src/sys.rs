//! The parts of `bpf(2)` that aya does not offer: batches over maps, and links made, replaced and pinned by file descriptor.
//!
//! Each command has an attribute block of its own below, laid out as `union bpf_attr` has it; the kernel takes its size and
//! treats what lies behind as zero.

use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    os::unix::ffi::OsStrExt,
    path::Path,
};

/// tcx at a device's ingress.
pub const TCX_INGRESS: u32 = 46;
/// tcx at a device's egress.
pub const TCX_EGRESS: u32 = 47;

const MAP_LOOKUP: u32 = 1;
const MAP_UPDATE: u32 = 2;
const MAP_DELETE: u32 = 3;
const PROG_LOAD: u32 = 5;
const OBJ_PIN: u32 = 6;
const OBJ_GET: u32 = 7;
const OBJ_INFO: u32 = 15;
const MAP_LOOKUP_BATCH: u32 = 24;
const MAP_UPDATE_BATCH: u32 = 26;
const MAP_DELETE_BATCH: u32 = 27;
const LINK_CREATE: u32 = 28;
const LINK_UPDATE: u32 = 29;

#[repr(C)]
#[derive(Default)]
struct Element {
    map: u32,
    reserved: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Default)]
struct Batch {
    from: u64,
    to: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Default)]
struct Object {
    path: u64,
    fd: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct ProgramLoad {
    kind: u32,
    instructions: u32,
    code: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
}

#[repr(C)]
#[derive(Default)]
struct InfoRequest {
    fd: u32,
    length: u32,
    info: u64,
}

#[repr(C)]
#[derive(Default)]
struct LinkCreate {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
    relative: u32,
    reserved: u32,
    expected_revision: u64,
}

#[repr(C)]
#[derive(Default)]
struct LinkUpdate {
    link: u32,
    program: u32,
    flags: u32,
    old: u32,
}

/// What the kernel says of a map.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MapInfo {
    /// Its kind.
    pub kind: u32,
    /// Its number.
    pub id: u32,
    /// Size of a key.
    pub key_size: u32,
    /// Size of a value.
    pub value_size: u32,
    /// Entries it has room for.
    pub max_entries: u32,
    /// Flags it was made with.
    pub flags: u32,
}

/// What the kernel says of a tcx link.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkInfo {
    /// Its kind.
    pub kind: u32,
    /// Its number.
    pub id: u32,
    /// The program behind it.
    pub program: u32,
    reserved: u32,
    /// The device, for tcx; 0 once it is gone.
    pub ifindex: u32,
    /// Where it is attached.
    pub attach_type: u32,
}

/// A step of a batched walk over a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Walk {
    /// So many elements were copied and there may be more.
    More(u32),
    /// So many elements were copied and there are no more.
    End(u32),
}

fn bpf<T>(command: u32, attribute: &mut T) -> io::Result<i64> {
    // SAFETY: every attribute type of this module is repr(C), fully initialised, and laid out as the kernel's for the command;
    // pointers inside it were taken from references that outlive this call.
    let done =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attribute), size_of::<T>()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(done) }
}

fn address<T>(reference: &T) -> u64 {
    std::ptr::from_ref(reference) as u64
}

fn fd_of(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd() as u32
}

fn owned(fd: i64) -> OwnedFd {
    // SAFETY: the kernel just returned this descriptor to us, nothing else owns it.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

/// Writes one element.
pub fn map_update<K, V>(map: BorrowedFd<'_>, key: &K, value: &V) -> io::Result<()> {
    let mut element =
        Element { map: fd_of(map), key: address(key), value: address(value), ..Element::default() };
    bpf(MAP_UPDATE, &mut element).map(drop)
}

/// Removes one element.
pub fn map_delete<K>(map: BorrowedFd<'_>, key: &K) -> io::Result<()> {
    let mut element = Element { map: fd_of(map), key: address(key), ..Element::default() };
    bpf(MAP_DELETE, &mut element).map(drop)
}

/// Reads one element into `value`, which must have the map's value size (times the CPUs for a per-CPU map).
pub fn map_lookup<K, V: ?Sized>(map: BorrowedFd<'_>, key: &K, value: &mut V) -> io::Result<()> {
    let value = std::ptr::from_mut(value).cast::<u8>() as u64;
    let mut element = Element { map: fd_of(map), key: address(key), value, ..Element::default() };
    bpf(MAP_LOOKUP, &mut element).map(drop)
}

/// Copies the elements behind `token` into `keys` and `values`; an empty token begins. The token is opaque.
pub fn map_lookup_batch<K, V>(
    map: BorrowedFd<'_>,
    token: &mut Vec<u8>,
    keys: &mut [K],
    values: &mut [V],
) -> io::Result<Walk> {
    // Hash maps use four bytes, others a key.
    let mut next = vec![0u8; size_of::<K>().max(8)];
    let mut batch = Batch {
        from: if token.is_empty() { 0 } else { token.as_ptr() as u64 },
        to: next.as_mut_ptr() as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: keys.len().min(values.len()) as u32,
        map: fd_of(map),
        ..Batch::default()
    };
    let done = bpf(MAP_LOOKUP_BATCH, &mut batch);
    *token = next;
    match done {
        Ok(_) => Ok(Walk::More(batch.count)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(Walk::End(batch.count)),
        Err(error) => Err(error),
    }
}

/// Writes elements; the number written before the first failure comes with the error.
pub fn map_update_batch<K, V>(map: BorrowedFd<'_>, keys: &[K], values: &[V]) -> Result<(), (u32, io::Error)> {
    let mut batch = Batch {
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: keys.len().min(values.len()) as u32,
        map: fd_of(map),
        ..Batch::default()
    };
    bpf(MAP_UPDATE_BATCH, &mut batch).map(drop).map_err(|error| (batch.count, error))
}

/// Removes elements; the number removed before the first failure comes with the error.
pub fn map_delete_batch<K>(map: BorrowedFd<'_>, keys: &[K]) -> Result<(), (u32, io::Error)> {
    let mut batch =
        Batch { keys: keys.as_ptr() as u64, count: keys.len() as u32, map: fd_of(map), ..Batch::default() };
    bpf(MAP_DELETE_BATCH, &mut batch).map(drop).map_err(|error| (batch.count, error))
}

/// Pins an object on a bpffs.
pub fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attribute = Object { path: path.as_ptr() as u64, fd: fd_of(object), flags: 0 };
    bpf(OBJ_PIN, &mut attribute).map(drop)
}

/// Opens a pinned object.
pub fn open_pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attribute = Object { path: path.as_ptr() as u64, fd: 0, flags: 0 };
    bpf(OBJ_GET, &mut attribute).map(owned)
}

/// What a map is.
pub fn map_info(map: BorrowedFd<'_>) -> io::Result<MapInfo> {
    let mut info = MapInfo::default();
    object_info(map, &mut info)?;
    Ok(info)
}

/// What a link is.
pub fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    let mut info = LinkInfo::default();
    object_info(link, &mut info)?;
    Ok(info)
}

fn object_info<T>(object: BorrowedFd<'_>, info: &mut T) -> io::Result<()> {
    let mut request = InfoRequest {
        fd: fd_of(object),
        length: size_of::<T>() as u32,
        info: std::ptr::from_mut(info) as u64,
    };
    bpf(OBJ_INFO, &mut request).map(drop)
}

/// Attaches a program to a device (by index, in the calling thread's namespace) or a cgroup (by descriptor).
pub fn link_create(program: BorrowedFd<'_>, target: u32, attach_type: u32) -> io::Result<OwnedFd> {
    let mut attribute = LinkCreate { program: fd_of(program), target, attach_type, ..LinkCreate::default() };
    bpf(LINK_CREATE, &mut attribute).map(owned)
}

/// A classifier that lets every packet go on to whoever is next.
pub fn load_empty_classifier() -> io::Result<OwnedFd> {
    const SCHED_CLS: u32 = 3;
    // r0 = -1 (TCX_NEXT); exit.
    const CODE: [u64; 2] = [0xffff_ffff_0000_00b7, 0x95];
    let mut attribute = ProgramLoad {
        kind: SCHED_CLS,
        instructions: CODE.len() as u32,
        code: CODE.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        ..ProgramLoad::default()
    };
    bpf(PROG_LOAD, &mut attribute).map(owned)
}

/// Puts another program behind a link: packets meet the old one or the new one, never none.
pub fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attribute = LinkUpdate { link: fd_of(link), program: fd_of(program), ..LinkUpdate::default() };
    bpf(LINK_UPDATE, &mut attribute).map(drop)
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}
