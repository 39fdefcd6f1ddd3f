//! Arithmetic without branches.
//!
//! BPF has no "set if less": a `bool` becomes a jump, and each one that stays alive doubles the states that the
//! verifier walks. What decides the order of a connection's key is therefore computed as 0 or 1, and chosen by mask.
//! `opaque` keeps LLVM from turning the subtraction back into a comparison.

/// The same number, of which LLVM does not know where it came from. In a register: `core::hint::black_box` would take it
/// through the stack.
#[cfg(target_arch = "bpf")]
#[inline(always)]
fn opaque(number: u64) -> u64 {
    let mut number = number;
    // SAFETY: a register is copied onto itself. No instruction at all would leave two source lines to one address, which
    // the kernel refuses.
    unsafe {
        core::arch::asm!("{0} = {0}", inout(reg) number, options(pure, nomem, nostack, preserves_flags))
    };
    number
}

#[cfg(not(target_arch = "bpf"))]
#[inline(always)]
fn opaque(number: u64) -> u64 {
    number
}

/// 1 if `a < b`, else 0.
#[inline(always)]
pub fn less(a: u32, b: u32) -> u64 {
    opaque((a as u64).wrapping_sub(b as u64)) >> 63
}

/// 1 if `a == b`, else 0.
#[inline(always)]
pub fn same(a: u32, b: u32) -> u64 {
    opaque(((a ^ b) as u64).wrapping_sub(1)) >> 63
}

/// All ones for 1, zero for 0.
#[inline(always)]
pub fn mask(bit: u32) -> u32 {
    0u32.wrapping_sub(bit)
}

/// `zero` where the mask is 0, `one` where it is all ones.
#[inline(always)]
pub fn select(mask: u32, zero: u32, one: u32) -> u32 {
    zero ^ ((zero ^ one) & mask)
}

/// Element `bit` of a pair, chosen without an index the verifier would have to bound.
#[inline(always)]
pub fn choose(bit: u32, pair: [u32; 2]) -> u32 {
    select(mask(bit), pair[0], pair[1])
}

/// An index of a pair. LLVM knows that such a number is 0 or 1 and would leave the mask out; verifiers before 6.7 do not
/// know it and ask for it.
#[inline(always)]
pub fn index(bit: u32) -> usize {
    (opaque(bit as u64) & 1) as usize
}

/// Passes a number through memory that the verifier does not follow (a map's), so that it forgets what it knew about it.
///
/// A loop whose cursor it knew exactly would be walked once for every value that the cursor can have.
#[inline(always)]
pub fn forget(scratch: &mut u32, value: u32) -> u32 {
    let pointer: *mut u32 = scratch;
    // SAFETY: a valid, exclusive reference.
    unsafe {
        pointer.write_volatile(value);
        pointer.read_volatile()
    }
}
