//! A pool: which of a range are taken, as the feed has seen it.

use std::collections::HashMap;
use std::fmt::{Debug, Display};
use std::hash::Hash;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use bytes::Bytes;
use parking_lot::Mutex;
use store::{Event, KeyValue, Revision};

use super::prefix;
use crate::cache::feed::Sink;

/// Random choices before the range is searched in order: with half of it taken, one in a million searches.
const GUESSES: usize = 20;
/// The first addresses of a range are left to those who ask for one by name, as in Kubernetes: a sixteenth of the
/// range, but between these.
const RESERVED: RangeInclusive<u64> = 16..=256;

/// What a pool hands out.
pub trait PoolKey: Copy + Eq + Hash + Ord + Display + FromStr + Debug + Send + Sync + 'static {}

impl PoolKey for IpAddr {}
impl PoolKey for u16 {}

/// What of a range is taken, and by which revision of its claim.
pub struct Pool<T> {
    prefix: String,
    range: Range<T>,
    taken: Mutex<HashMap<T, Revision>>,
}

/// The values of a pool by number.
pub struct Range<T> {
    /// How many there are.
    size: u64,
    /// From here on they are handed out; those before only by name.
    first_free_choice: u64,
    nth: Box<dyn Fn(u64) -> T + Send + Sync>,
    contains: Box<dyn Fn(&T) -> bool + Send + Sync>,
}

/// The usable addresses of a network: neither its own address nor its last.
pub fn addresses(cidr: &ipnet::IpNet) -> Range<IpAddr> {
    let (cidr, bits) = (cidr.trunc(), u32::from(cidr.max_prefix_len() - cidr.prefix_len()));
    let size = (1_u64 << bits.min(32)).saturating_sub(2);
    let first = cidr.network();
    let nth = move |index: u64| match first {
        IpAddr::V4(first) => IpAddr::from((u32::from(first) + 1 + index as u32).to_be_bytes()),
        IpAddr::V6(first) => IpAddr::from((u128::from(first) + 1 + u128::from(index)).to_be_bytes()),
    };
    let last = nth(size.saturating_sub(1));
    Range {
        size,
        first_free_choice: (size / 16).clamp(*RESERVED.start(), *RESERVED.end()).min(size / 2),
        nth: Box::new(nth),
        contains: Box::new(move |address| cidr.contains(address) && *address > first && *address <= last),
    }
}

/// The node ports.
pub fn ports(range: &RangeInclusive<u16>) -> Range<u16> {
    let (first, last) = (*range.start(), *range.end());
    Range {
        size: u64::from(last.saturating_sub(first)) + 1,
        first_free_choice: 0,
        nth: Box::new(move |index| first + index as u16),
        contains: Box::new(move |port| (first..=last).contains(port)),
    }
}

// === impl Pool ===

impl<T: PoolKey> Pool<T> {
    /// A pool whose claims are at a place of the registry.
    pub fn new(place: &str, range: Range<T>) -> Self {
        Self { prefix: prefix(place), range, taken: Mutex::default() }
    }

    /// The key of a claim.
    pub fn key(&self, value: &T) -> Bytes {
        format!("{}{value}", self.prefix).into()
    }

    /// Whether the value is of this pool.
    pub fn offers(&self, value: &T) -> bool {
        (self.range.contains)(value)
    }

    /// Whether the value is taken.
    pub fn is_taken(&self, value: &T) -> bool {
        self.taken.lock().contains_key(value)
    }

    /// First and last value.
    pub fn describe(&self) -> String {
        format!("{}-{}", (self.range.nth)(0), (self.range.nth)(self.range.size.saturating_sub(1)))
    }

    /// A free value, at random so that servers do not meet, and none of those that `other` names.
    pub fn choose(&self, other: impl Fn(&T) -> bool) -> Option<T> {
        let taken = self.taken.lock();
        let free = |value: &T| !taken.contains_key(value) && !other(value);
        let Range { size, first_free_choice, nth, .. } = &self.range;
        let guess = |_| nth(rand::random_range(*first_free_choice..*size));
        let mut guesses = (0..GUESSES).filter(|_| first_free_choice < size).map(guess);
        let in_order =
            || (*first_free_choice..*size).chain(0..*first_free_choice).map(nth).find(|value| free(value));
        guesses.find(|value| free(value)).or_else(in_order)
    }

    /// All claims, with the revisions that made them.
    pub fn claims(&self) -> HashMap<T, Revision> {
        self.taken.lock().clone()
    }

    fn value(&self, key: &[u8]) -> Option<T> {
        std::str::from_utf8(key).ok()?.strip_prefix(&self.prefix)?.parse().ok()
    }
}

impl<T: PoolKey> Sink for Pool<T> {
    fn replace(&self, keys: Vec<KeyValue>) {
        let read = |kv: &KeyValue| Some((self.value(&kv.key)?, kv.mod_revision));
        *self.taken.lock() = keys.iter().filter_map(read).collect();
    }

    fn apply(&self, event: &Event) {
        let Some(value) = self.value(event.key()) else { return };
        match event {
            Event::Put { kv, .. } => self.taken.lock().insert(value, kv.mod_revision),
            Event::Delete { .. } => self.taken.lock().remove(&value),
        };
    }
}

impl<T> Debug for Pool<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({}, {} of {} taken)", self.prefix, self.taken.lock().len(), self.range.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken<T: PoolKey>(pool: &Pool<T>, value: &T) {
        pool.taken.lock().insert(*value, 1);
    }

    #[test]
    fn addresses_are_chosen_above_the_reserved_ones() {
        let pool = Pool::new("x", addresses(&"10.96.0.0/24".parse().unwrap()));
        assert_eq!(pool.describe(), "10.96.0.1-10.96.0.254");
        assert!(!pool.offers(&"10.96.0.0".parse().unwrap()) && !pool.offers(&"10.96.0.255".parse().unwrap()));
        for _ in 0..238 {
            let address = pool.choose(|_| false).unwrap();
            assert!(address > "10.96.0.16".parse::<IpAddr>().unwrap(), "{address}");
            taken(&pool, &address);
        }
        // Only when all others are gone does the reserved part serve everybody.
        assert_eq!(pool.choose(|_| false), Some("10.96.0.1".parse().unwrap()));
    }

    #[test]
    fn a_full_pool_says_so() {
        let pool = Pool::new("x", ports(&(30000..=30001)));
        taken(&pool, &30000);
        assert_eq!(pool.choose(|_| false), Some(30001));
        assert_eq!(pool.choose(|port| *port == 30001), None);
        assert!(pool.offers(&30001) && !pool.offers(&30002));
    }
}
