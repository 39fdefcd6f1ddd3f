//! Network policy: one lookup for each direction of a new connection, precedence settled by the compiler.

use abi::{
    DropCode, POLICY_INLINE_RANGES, POLICY_RANGES_PER_ENTRY, PolicyEntry, PolicyKey, class, direction,
    policy_id, state_flag, verdict, via,
};

use crate::bits::{less, mask, same, select};
use crate::context::note;
use crate::family::Family;
use crate::flow::decided;
use crate::get;
use crate::observe::{Note, Observer};
use crate::peer::is;
use crate::tables::{Shared, Tables};
use crate::verdict::{Step, drop_code, need, refuse};

/// What a policy says: 0 in the low word allows, else it is the word of a drop; the rule is in the high word.
pub type Ruling = u64;

/// Asks the policy of the sender, then that of the receiver. Both ends have been located.
///
/// A pod may always speak to itself, and its own node may always speak to it.
#[inline(always)]
pub fn judge<F: Family, T: Tables<F>, O: Observer>(tables: &T, observer: &mut O) -> Step {
    let flow = need!(tables.flow(), Internal);
    if flow.decided & decided::HAIRPIN != 0 {
        return Ok(());
    }
    if flow.policy[0] != policy_id::ALLOW {
        ask::<F, T, O>(tables, observer, direction::EGRESS)?;
    }
    let flow = need!(tables.flow(), Internal);
    if flow.policy[1] != policy_id::ALLOW && !is(flow.via[0], via::HOST) {
        ask::<F, T, O>(tables, observer, direction::INGRESS)?;
    }
    Ok(())
}

/// One direction.
#[inline(always)]
fn ask<F: Family, T: Tables<F>, O: Observer>(tables: &T, observer: &mut O, way: u8) -> Step {
    let flow = need!(tables.flow(), Internal);
    let (subject, peer) = if way == direction::EGRESS { (0, 1) } else { (1, 0) };
    let (policy, class) = (flow.policy[subject], flow.class[peer]);
    flow.judged_by = policy;
    flow.judged = way as u32;
    let ruling = tables.rule(policy, class, flow.protocol, flow.to_port.get() as u32);
    let flow = need!(tables.flow(), Internal);
    flow.rule = (ruling >> 32) as u32;
    let allowed = ruling as u32 == 0;
    note!(observer, Note::Policy { id: policy, class, rule: flow.rule, allowed });
    match DropCode::from_word(ruling as u32) {
        None => Ok(()),
        Some(_) if ruling as u32 == FORBIDDEN.word() => forbidden(way),
        Some(code) => Err(code),
    }
}

/// The drop that [`forbidden`] names by its direction.
const FORBIDDEN: DropCode = drop_code!(PolicyEgress);

/// A policy forbids it: whose.
#[inline(always)]
fn forbidden(way: u8) -> Step {
    if way == direction::EGRESS {
        refuse!(PolicyEgress)
    }
    refuse!(PolicyIngress)
}

/// Looks a policy up for a class of peers, a protocol and a port.
#[inline(always)]
pub fn rule<F: Family, T: Tables<F>>(
    tables: &T,
    policy: u32,
    class: u32,
    protocol: u32,
    port: u32,
) -> Ruling {
    if policy == policy_id::UNSET {
        return drop_code!(PolicyUnset).word() as Ruling;
    }
    let any = PolicyKey { policy, class: class::ANY };
    let own = PolicyKey { policy, class };
    let Some(entry) = tables.policy(&own).or_else(|| tables.policy(&any)) else {
        return missing::<F, T>(tables, class).word() as Ruling;
    };
    let count = get!(entry.count);
    // In one word, verdict above the rule: two numbers would have to live apart through the search.
    let word = if count > POLICY_INLINE_RANGES as u32 {
        search::<F, T>(tables, (get!(entry.ranges_base), count), protocol << 16 | port, fallback(entry))
    } else {
        inline(entry, protocol, port)
    };
    let number = ((get!(entry.rule_base) + (word & 0xffff)) as Ruling) << 32;
    if word >> 16 == verdict::ALLOW as u32 {
        return number;
    }
    number | denied(class).word() as Ruling
}

/// Nothing is known about the pair: no, and whether that is because the table could not hold it.
#[inline(always)]
fn missing<F: Family, T: Tables<F>>(tables: &T, class: u32) -> DropCode {
    if let Some(state) = tables.state()
        && get!(state.flags) & state_flag::POLICY_FULL != 0
    {
        return drop_code!(PolicyTableFull);
    }
    denied(class)
}

/// The reason of a denial.
#[inline(always)]
fn denied(class: u32) -> DropCode {
    if class == class::UNKNOWN_POD { drop_code!(UnknownPod) } else { FORBIDDEN }
}

/// `verdict << 16 | rule offset` where no range matches.
#[inline(always)]
fn fallback(entry: Shared<'_, PolicyEntry>) -> u32 {
    (get!(entry.default_verdict) as u32) << 16
}

/// `verdict << 16 | rule offset` from the ranges in the entry.
#[inline(always)]
fn inline(entry: Shared<'_, PolicyEntry>, protocol: u32, port: u32) -> u32 {
    let mut word = fallback(entry);
    let mut i = 0;
    while i < POLICY_INLINE_RANGES {
        // Ranges that are not in use have protocol 0, which no packet here has.
        let (first, last) = (get!(entry.ranges[i].first) as u32, get!(entry.ranges[i].last) as u32);
        let outside = less(port, first) | less(last, port);
        let hit = same(get!(entry.ranges[i].protocol) as u32, protocol) as u32 & !(outside as u32);
        let says = (get!(entry.ranges[i].verdict) as u32) << 16 | get!(entry.ranges[i].rule) as u32;
        word = select(mask(hit & 1), word, says);
        i += 1;
    }
    word
}

/// The greatest step of the search below.
const SEARCH_FROM: u32 = POLICY_RANGES_PER_ENTRY / 2;

/// Searches a sorted slice (base, count) of `POLICY_RANGES` for the range with `wanted` (protocol << 16 | port).
#[inline(always)]
fn search<F: Family, T: Tables<F>>(tables: &T, (base, count): (u32, u32), wanted: u32, fallback: u32) -> u32 {
    let mut at = 0;
    let mut step = SEARCH_FROM;
    while step > 0 {
        let Some(range) = tables.policy_range(base + at + step) else { return fallback };
        let first = (get!(range.protocol) as u32) << 16 | get!(range.first) as u32;
        // What lies behind the slice belongs to others and is no guide.
        let inside = less(at + step, count) as u32;
        at += step & mask(inside & !less(wanted, first) as u32);
        step /= 2;
    }
    let Some(range) = tables.policy_range(base + at) else { return fallback };
    let number = (get!(range.protocol) as u32) << 16;
    if wanted < number | get!(range.first) as u32 || wanted > number | get!(range.last) as u32 {
        return fallback;
    }
    (get!(range.verdict) as u32) << 16 | get!(range.rule) as u32
}
