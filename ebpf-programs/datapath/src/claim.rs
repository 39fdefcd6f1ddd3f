//! Which port source NAT gives a flow: the search that ends with the tuple's entry in the table.
//!
//! The entry is the claim: of two CPUs that insert the same tuple one fails, and goes on searching. Ports are tried in
//! the order of a counter, so that the one taken is the one that was left alone for longest; a tuple whose connection is over
//! is taken over at once, long before the collector comes by.

use abi::{ConntrackEntry, ConntrackKey, Port, ct_flag, ct_protocol, protocol, tcp_state};

use crate::bits::{less, mask, same, select};
use crate::family::Family;
use crate::flow::{Flow, decided, shape};
use crate::get;
use crate::tables::{Claim, Inserted, Tables};
use crate::verdict::{Step, refuse};

/// Ports that are tried for one flow. With nine of ten of the 16,384 held by live connections to one destination and port,
/// all fail once in 900 flows.
pub const CLAIM_TRIES: u32 = 64;

/// Distance between tries: odd, so that all ports are reached, and far, so that neighbours in use are left behind.
const CLAIM_STRIDE: u32 = 4099;

/// For how long nothing was seen of a question, in the unit of `last_seen`, until its port may be taken: resolvers ask again
/// after 5 s.
const QUESTION_UNITS: u32 = 5;

/// A search under way.
pub struct Search<'a, A> {
    key: &'a mut ConntrackKey<A>,
    draft: &'a ConntrackEntry<A>,
    first: u32,
    ports: u32,
    start: u32,
    into_low: u32,
    into_high: u32,
    port: Port,
    inserted: Inserted,
}

/// Finds a source port whose tuple is free, by inserting it, and leaves it in the flow. `looked_up` is the tuple's key, but
/// for that port, and the draft says which end is which in it.
#[inline(always)]
pub fn claim<F: Family, T: Tables<F>>(
    tables: &T,
    flow: &mut Flow<F::Address>,
    draft: &ConntrackEntry<F::Address>,
) -> Step {
    let config = tables.config();
    // The two addresses differ, so their order alone decides the key's: only the port in it changes between tries.
    let low = draft.flags & ct_flag::ORIG_LOW;
    // An echo has one identifier, and both ends use it.
    let echo = mask((flow.shape / shape::ECHO) & 1);
    // A resolver's port must not be guessed.
    let is_tcp = same(flow.protocol, protocol::TCP as u32);
    let start = select(mask(is_tcp as u32), tables.random(), tables.turn());
    let mut search = Search {
        key: &mut flow.looked_up,
        draft,
        first: get!(config.snat_first) as u32,
        ports: get!(config.snat_mask) as u32,
        start,
        into_low: mask(low) | echo,
        into_high: mask(low ^ 1) | echo,
        port: Port(0),
        inserted: Inserted::Taken,
    };
    tables.search(&mut search);
    let (port, inserted) = (search.port, search.inserted);
    match inserted {
        Inserted::Done => {}
        Inserted::Full => refuse!(ConntrackFull),
        Inserted::Taken if flow.decided & decided::SOURCE == 0 => refuse!(ConntrackClash),
        Inserted::Taken => refuse!(SnatExhausted),
    }
    flow.from_port = port;
    if flow.is(shape::ECHO) {
        flow.to_port = port;
    }
    Ok(())
}

impl<A> Search<'_, A> {
    /// Tries one port, the `i`th; whether the search is over.
    #[inline(always)]
    pub fn step<F: Family<Address = A>, T: Tables<F>>(&mut self, tables: &T, i: u32) -> bool {
        let offset = self.start.wrapping_add(i.wrapping_mul(CLAIM_STRIDE));
        self.port = Port::new((self.first + (offset & self.ports)) as u16);
        let key = &mut *self.key;
        key.low_port = Port(select(self.into_low, key.low_port.0 as u32, self.port.0 as u32) as u16);
        key.high_port = Port(select(self.into_high, key.high_port.0 as u32, self.port.0 as u32) as u16);
        self.inserted = tables.conntrack_insert(key, self.draft, Claim::New);
        if self.inserted == Inserted::Taken && is_over::<F, T>(tables, key) {
            self.inserted = take_over::<F, T>(tables, key, self.draft);
        }
        self.inserted != Inserted::Taken
    }
}

/// Whether nobody waits for this connection any more.
#[inline(always)]
fn is_over<F: Family, T: Tables<F>>(tables: &T, key: &ConntrackKey<F::Address>) -> bool {
    let Some(entry) = tables.conntrack(key) else { return false };
    let closed = tcp_state::closed_bit(get!(entry.tcp));
    // A question with at most one answer.
    let idle = tables.now().wrapping_sub(get!(entry.last_seen));
    let answered = less(get!(entry.packets[1]) as u32, 2) & less(QUESTION_UNITS, idle);
    let is_tcp = same(key.protocol & 0xff, protocol::TCP as u32);
    select(mask(is_tcp as u32), answered as u32, closed) != 0
}

/// Replaces an entry that is over. The mark keeps others from it meanwhile: of two CPUs that both saw the old entry, the later
/// would replace the new one.
#[inline(always)]
fn take_over<F: Family, T: Tables<F>>(
    tables: &T,
    key: &mut ConntrackKey<F::Address>,
    draft: &ConntrackEntry<F::Address>,
) -> Inserted {
    key.protocol |= ct_protocol::TAKEN_OVER;
    let marked = tables.conntrack_insert(key, draft, Claim::New);
    key.protocol &= !ct_protocol::TAKEN_OVER;
    if marked != Inserted::Done {
        return marked;
    }
    let inserted = if is_over::<F, T>(tables, key) {
        tables.conntrack_insert(key, draft, Claim::Replace)
    } else {
        Inserted::Taken
    };
    key.protocol |= ct_protocol::TAKEN_OVER;
    tables.conntrack_remove(key);
    key.protocol &= !ct_protocol::TAKEN_OVER;
    inserted
}
