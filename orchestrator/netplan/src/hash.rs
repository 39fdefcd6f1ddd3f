//! A hash that is the same in every process and release: numbers in the kernel are derived from it.
//!
//! An agent that restarts computes the same class, policy and service numbers from the same objects, so that nothing it finds
//! pinned has to be rewritten, and no state of its own needs to be kept on disk. FNV-1a, finished with a mixing step because its
//! high bits alone spread badly over short inputs.

use std::hash::{Hash, Hasher};

const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

/// A `Hasher` whose result depends on nothing but the bytes.
pub(crate) struct Stable(u64);

impl Default for Stable {
    fn default() -> Self {
        Stable(OFFSET)
    }
}

impl Hasher for Stable {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(PRIME);
        }
    }

    fn finish(&self) -> u64 {
        // splitmix64's finaliser.
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
}

/// The stable hash of one value.
pub(crate) fn stable<T: Hash + ?Sized>(value: &T) -> u64 {
    let mut hasher = Stable::default();
    value.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_does_not_change_between_builds() {
        let mut hasher = Stable::default();
        hasher.write(b"bowsprit");
        assert_eq!(hasher.finish(), 0xabba_5d72_5ca0_6b8d, "numbers in running kernels depend on this");
    }
}
