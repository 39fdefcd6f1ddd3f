//! Internet checksums, whole and by difference (RFC 1071, RFC 1624).

/// A change to what a transport checksum covers, as ones' complement differences new - old.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ChecksumChange {
    /// Difference in the transport header or payload.
    pub content: u32,
    /// Difference in the pseudo-header: addresses, length.
    pub pseudo: u32,
    /// UDP: a checksum of 0 means that there is none, and stays so.
    pub udp: bool,
    /// The pseudo-header is IPv6's.
    pub v6: bool,
}

/// A sum of half-words in 16 bits.
#[inline(always)]
pub fn fold(sum: u32) -> u32 {
    let sum = (sum & 0xffff) + (sum >> 16);
    (sum & 0xffff) + (sum >> 16)
}

/// The ones' complement difference of two sums.
#[inline(always)]
pub fn difference(new: u32, old: u32) -> u32 {
    fold(fold(new) + (!fold(old) & 0xffff))
}

/// The checksum after a difference.
#[inline(always)]
pub fn update(checksum: u16, difference: u32) -> u16 {
    !(fold((!checksum) as u32 + fold(difference)) as u16)
}

/// Sum of the half-words of `words`.
#[inline(always)]
pub fn sum_words(words: &[u32]) -> u32 {
    let mut sum = 0u64;
    for word in words {
        sum += (*word & 0xffff) as u64 + (*word >> 16) as u64;
    }
    fold((sum as u32 & 0xffff) + (sum >> 16) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_gives_what_a_whole_sum_gives() {
        let old = [0x0102_0304u32, 0xfffe_fdfc, 0xc0a8_0001];
        let new = [0x0102_0304u32, 0xfffe_fdfc, 0x0a00_00ff];
        let before = !(sum_words(&old) as u16);
        let after = update(before, difference(sum_words(&new[2..]), sum_words(&old[2..])));
        assert_eq!(after, !(sum_words(&new) as u16));
    }
}
