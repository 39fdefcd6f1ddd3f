//! Connections on record: the first lookup of every packet, and for most the only one.

use abi::{ConntrackEntry, ConntrackKey, Hook, Mac, Port, ct_flag, ct_protocol, protocol, tcp_state, via};

use crate::address::Address;
use crate::bits::{choose, index, mask, same};
use crate::context::{Context, Place, note};
use crate::deliver::{deliver, fits};
use crate::event;
use crate::family::Family;
use crate::flow::{Flow, decided, key_of, tcp};
use crate::nat::rewrite;
use crate::observe::{Note, Observer};
use crate::packet::Packet;
use crate::peer::{End, is, locate};
use crate::policy::judge;
use crate::tables::{Shared, Tables};
use crate::verdict::{Kind, Step, Verdict, need, refuse};
use crate::{get, set};

/// An entry that matched, with what its key says about the packet.
pub struct Found<'t, A> {
    /// The entry.
    pub entry: Shared<'t, ConntrackEntry<A>>,
    /// Its `ct_flag` bits.
    pub flags: u32,
    /// 1 if the packet is from the responder, else 0.
    pub reply: u32,
}

/// What [`follow`] answers when the packet is not on record: it begins a flow.
pub const BEGINS: Verdict = Verdict::new(Kind::Begin, 0);

/// Looks the packet's tuple up.
///
/// The initiator's packets of a translated flow never have the main entry's tuple where they are looked up: what
/// matches it from that side is another flow of the same tuple, whose own entry has the clash bit in its key.
#[inline(always)]
pub fn find<'t, F: Family, T: Tables<F>>(
    tables: &'t T,
    flow: &mut Flow<F::Address>,
) -> Option<Found<'t, F::Address>> {
    let (key, low) = flow.key();
    flow.looked_up = key;
    flow.decided = 0;
    let entry = tables.conntrack(&flow.looked_up)?;
    let flags = get!(entry.flags);
    let reply = (flags & ct_flag::ORIG_LOW) ^ low;
    if reply == 0 && flags & (ct_flag::NAT | ct_flag::ALIAS) == ct_flag::NAT {
        flow.decided = decided::CLASH;
        flow.looked_up.protocol |= ct_protocol::CLASH;
        let entry = tables.conntrack(&flow.looked_up)?;
        let flags = get!(entry.flags);
        return Some(Found { entry, flags, reply: (flags & ct_flag::ORIG_LOW) ^ low });
    }
    Some(Found { entry, flags, reply })
}

/// Decides a packet of a connection on record; [`BEGINS`] if there is none, or a SYN makes it a new one.
#[inline(always)]
pub fn follow<F: Family, H: Place, P: Packet, T: Tables<F>, O: Observer>(
    cx: &mut Context<'_, F, P, T, O>,
    flow: &mut Flow<F::Address>,
) -> Verdict {
    let tables = cx.tables;
    let Some(found) = find::<F, T>(tables, flow) else { return BEGINS };
    let entry = found.entry;
    if flow.opens() {
        match reopens(&found) {
            Ok(true) => return BEGINS,
            Ok(false) => {}
            Err(code) => return Verdict::drop(code),
        }
    }
    note!(cx.observer, Note::Established { reply: found.reply != 0, flags: found.flags });
    match proceed::<F, H, P, T, O>(cx, flow, &found) {
        Ok(()) => {}
        Err(code) => return Verdict::drop(code),
    }
    let mut foreign = false;
    if found.translates() {
        other_tuple(flow, entry, found.reply);
        foreign = flow.from.same(&flow.source) == 0;
        if let Err(code) = rewrite::<F, P>(cx.packet, flow) {
            return Verdict::drop(code);
        }
    }
    let to = found.via(found.reply ^ 1);
    let mac = found.mac(found.reply ^ 1);
    deliver::<F, H, P, T, O>(cx, to, mac, foreign)
}

impl<A> Found<'_, A> {
    /// Where an end is: 0 the initiator, 1 the responder. An index instead of a choice: no branch.
    #[inline(always)]
    pub fn via(&self, end: u32) -> u32 {
        let entry = self.entry;
        get!(entry.via[index(end)])
    }

    /// MAC of an end.
    #[inline(always)]
    pub fn mac(&self, end: u32) -> Mac {
        let entry = self.entry;
        get!(entry.mac[index(end)])
    }

    /// Whether this packet is rewritten here.
    #[inline(always)]
    pub fn translates(&self) -> bool {
        let ours = if self.reply != 0 { ct_flag::NAT } else { ct_flag::ALIAS };
        self.flags & ours != 0 && (self.reply != 0 || self.flags & ct_flag::AT_UPLINK == 0)
    }
}

/// Whether a SYN begins a new connection on this tuple: one from the other end does, and one on an entry that ends.
#[inline(always)]
fn reopens<A: Address>(found: &Found<'_, A>) -> Result<bool, abi::DropCode> {
    let entry = found.entry;
    if get!(entry.tcp) & tcp_state::ENDING != 0 {
        return Ok(true);
    }
    if found.reply == 0 {
        return Ok(false);
    }
    if found.flags & (ct_flag::NAT | ct_flag::ALIAS) != 0 {
        // Replacing half of a live translated connection would cut it.
        refuse!(ConntrackClash)
    }
    Ok(true)
}

/// Checks where the packet came from and whether the verdict is still that of the policy, then counts it.
#[inline(always)]
fn proceed<F: Family, H: Place, P: Packet, T: Tables<F>, O: Observer>(
    cx: &mut Context<'_, F, P, T, O>,
    flow: &mut Flow<F::Address>,
    found: &Found<'_, F::Address>,
) -> Step {
    let entry = found.entry;
    if found.reply != 0 && found.flags & ct_flag::ALIAS != 0 {
        refuse!(WrongPath)
    }
    let from = found.via(found.reply);
    came_from::<F, H, P, T, O>(cx, from)?;
    let state = need!(cx.tables.state(), Internal);
    let epoch = get!(state.epoch);
    if get!(entry.epoch) != epoch {
        cx.tables.reconsider(cx.observer)?;
    }
    let to = found.via(found.reply ^ 1);
    fits::<F, P, T, O>(cx, flow, to)?;
    account::<F, P, T, O>(cx, flow, found);
    Ok(())
}

/// Whether the packet came by the way that its end of the connection has.
#[inline(always)]
fn came_from<F: Family, H: Place, P: Packet, T: Tables<F>, O>(
    cx: &Context<'_, F, P, T, O>,
    from: u32,
) -> Step {
    match H::HOOK {
        Hook::PodEgress => {
            if from != via::POD | cx.packet.ifindex() & via::ARGUMENT {
                refuse!(Spoofed)
            }
        }
        Hook::NodeEgress => {
            // What the host routes to pods from devices without a program comes this way too.
            if !is(from, via::HOST) && !is(from, via::OUTSIDE) {
                refuse!(WrongPath)
            }
        }
        Hook::UplinkIngress => {
            if !is(from, via::OUTSIDE) && (cx.tunnels() || !is(from, via::NODE)) {
                refuse!(WrongPath)
            }
        }
        _ => {
            if !is(from, via::NODE) {
                refuse!(WrongPath)
            }
            let node = need!(cx.tables.node(from & via::ARGUMENT), TunnelSource);
            if !cx.packet.tunnelled_from(node) {
                refuse!(TunnelSource)
            }
        }
    }
    Ok(())
}

/// Asks the policy again about the connection's own direction; a connection that it now forbids is removed.
#[inline(always)]
pub fn reconsider<F: Family, T: Tables<F>, O: Observer>(tables: &T, observer: &mut O) -> Step {
    let flow = need!(tables.flow(), Internal);
    let state = need!(tables.state(), Internal);
    let found = need!(find::<F, T>(tables, flow), Internal);
    let entry = found.entry;
    let alias = mask((found.flags & ct_flag::ALIAS != 0) as u32);
    let reply = mask(found.reply);
    // The initiator by the name it has for itself, the responder by the name the policy knows.
    let initiator = F::Address::select(reply, flow.source, flow.destination);
    let responder = F::Address::select(reply, flow.destination, flow.source);
    flow.from = F::Address::select(alias, get!(entry.other_initiator), initiator);
    flow.to = F::Address::select(alias, responder, get!(entry.other_responder));
    let own_port = if found.reply != 0 { flow.source_port } else { flow.destination_port };
    flow.to_port = if alias != 0 { get!(entry.other_responder_port) } else { own_port };
    flow.epoch = get!(state.epoch);
    flow.decided |= if flow.from.same(&flow.to) != 0 { decided::HAIRPIN } else { 0 };
    locate::<F, T, O>(tables, observer, flow, End::Source);
    locate::<F, T, O>(tables, observer, flow, End::Destination);
    let epoch = flow.epoch;
    if judge::<F, T, O>(tables, observer).is_ok() {
        set!(entry.epoch = epoch);
        return Ok(());
    }
    let flow = need!(tables.flow(), Internal);
    tables.conntrack_remove(&flow.looked_up);
    refuse!(PolicyRevoked)
}

/// Counts the packet, and follows the states of TCP.
#[inline(always)]
pub fn account<F: Family, P: Packet, T: Tables<F>, O>(
    cx: &Context<'_, F, P, T, O>,
    flow: &Flow<F::Address>,
    found: &Found<'_, F::Address>,
) {
    let entry = found.entry;
    count(entry, found.reply, flow.length);
    let now = cx.tables.now();
    if get!(entry.last_seen) != now {
        set!(entry.last_seen = now);
    }
    let before = get!(entry.tcp);
    let after = before | tcp_bits(flow, found.reply);
    if after == before {
        return;
    }
    set!(entry.tcp = after);
    if (after ^ before) & tcp_state::ENDING != 0 {
        // It cannot fail in a way that matters to this packet.
        let _ = cx.tables.ending();
    }
}

/// Plain additions, not atomic ones: one CPU handles a direction at a time, nearly always, and these are statistics.
#[inline(always)]
fn count<A>(entry: Shared<'_, ConntrackEntry<A>>, reply: u32, length: u32) {
    let pointer = entry.pointer();
    let i = index(reply);
    // SAFETY: the entry is valid, and `i` is below 2; the fields are read and written as words like everywhere else.
    unsafe {
        let packets = core::ptr::addr_of_mut!((*pointer).packets).cast::<u64>().add(i);
        packets.write_volatile(packets.read_volatile().wrapping_add(1));
        let bytes = core::ptr::addr_of_mut!((*pointer).bytes).cast::<u64>().add(i);
        bytes.write_volatile(bytes.read_volatile().wrapping_add(length as u64));
    }
}

/// `tcp_state` bits that a packet adds. A repeated SYN of the initiator adds none.
#[inline(always)]
pub fn tcp_bits<A: Address>(flow: &Flow<A>, reply: u32) -> u32 {
    let is_tcp = mask(same(flow.protocol, protocol::TCP as u32) as u32);
    let flags = flow.tcp & is_tcp;
    let syn = same(flags & (tcp::SYN | tcp::ACK), tcp::SYN) as u32;
    let seen = (1 ^ syn & (1 ^ reply)) * (tcp_state::SEEN_INITIATOR << reply);
    seen | (flags & tcp::FIN) << reply | flags & tcp::RST
}

/// Tells the other entry of a translated connection that it ends, and reports the end once.
#[inline(always)]
pub fn ending<F: Family, T: Tables<F>>(tables: &T) -> Step {
    let flow = need!(tables.flow(), Internal);
    let found = need!(find::<F, T>(tables, flow), Internal);
    let entry = found.entry;
    let mut flags = found.flags;
    let mut state = get!(entry.tcp);
    let other = if flags & (ct_flag::NAT | ct_flag::ALIAS) != 0 {
        let other = tables.conntrack(&other_key::<F>(entry, flow.protocol, flags));
        other.filter(|other| is_half(*other, flow, found.reply))
    } else {
        None
    };
    if let Some(other) = other {
        state |= get!(other.tcp) & tcp_state::ENDING;
        set!(entry.tcp = state);
        set!(other.tcp = get!(other.tcp) | state & tcp_state::ENDING);
        flags |= get!(other.flags) & ct_flag::CLOSE_REPORTED;
    }
    if !tcp_state::closed(state) || flags & ct_flag::CLOSE_REPORTED != 0 {
        return Ok(());
    }
    set!(entry.flags = flags | ct_flag::CLOSE_REPORTED);
    if let Some(other) = other {
        set!(other.flags = get!(other.flags) | ct_flag::CLOSE_REPORTED);
    }
    event::closed::<F, T>(tables, flow, &found, other);
    Ok(())
}

/// Whether the flow's tuple is the entry's other one. It is not when a client has taken its tuple again: then a late
/// packet of the old connection would end the new one. Word by word, without a key: no stack is left for one.
#[inline(always)]
fn is_half<A: Address>(entry: Shared<'_, ConntrackEntry<A>>, flow: &Flow<A>, reply: u32) -> bool {
    let chosen = mask(reply);
    let ports = [flow.source_port.0 as u32, flow.destination_port.0 as u32];
    let initiator = A::select(chosen, flow.source, flow.destination);
    let responder = A::select(chosen, flow.destination, flow.source);
    let ports = same(get!(entry.other_initiator_port).0 as u32, choose(reply, ports))
        & same(get!(entry.other_responder_port).0 as u32, choose(reply ^ 1, ports));
    initiator.same(&get!(entry.other_initiator)) & responder.same(&get!(entry.other_responder)) & ports != 0
}

/// Key of the other entry of a translated connection.
#[inline(always)]
pub fn other_key<F: Family>(
    entry: Shared<'_, ConntrackEntry<F::Address>>,
    protocol: u32,
    flags: u32,
) -> ConntrackKey<F::Address> {
    let (initiator, responder) = (get!(entry.other_initiator), get!(entry.other_responder));
    let (from, to) = (get!(entry.other_initiator_port), get!(entry.other_responder_port));
    let (mut key, _) = key_of(&initiator, &responder, from, to, protocol);
    if flags & ct_flag::CLASHED != 0 {
        key.protocol |= ct_protocol::CLASH;
    }
    key
}

/// Makes the other entry's tuple, in the direction of the packet, the flow's tuple after translation.
#[inline(always)]
pub fn other_tuple<A: Address>(flow: &mut Flow<A>, entry: Shared<'_, ConntrackEntry<A>>, reply: u32) {
    let (initiator, responder) = (get!(entry.other_initiator), get!(entry.other_responder));
    let ports = [get!(entry.other_initiator_port).0 as u32, get!(entry.other_responder_port).0 as u32];
    let chosen = mask(reply);
    flow.from = A::select(chosen, initiator, responder);
    flow.to = A::select(chosen, responder, initiator);
    flow.from_port = Port(choose(reply, ports) as u16);
    flow.to_port = Port(choose(reply ^ 1, ports) as u16);
}
