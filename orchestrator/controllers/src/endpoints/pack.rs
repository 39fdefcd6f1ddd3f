//! From the slices that are to the endpoints that should be, with few writes: pure.
use std::{collections::BTreeMap, sync::Arc};

use client::{Meta, objects::StringMap};

use super::{Endpoint, EndpointSlice, Group, slice::Port};

/// Endpoints in a slice. A change rewrites one slice, so a slice must not be large; Kubernetes' figure.
pub const ENDPOINTS_MAX: usize = 100;

/// One write.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// A new slice.
    Create(EndpointSlice),
    /// A slice with other contents.
    Replace(Meta, EndpointSlice),
    /// A slice that is no longer needed.
    Delete(Meta),
}

/// What to write so that the slices hold the groups, with these labels.
pub fn pack(groups: Vec<Group>, slices: &[Arc<EndpointSlice>], labels: &StringMap) -> Vec<Write> {
    let mut by_shape: BTreeMap<(&str, &[Port]), Vec<&Arc<EndpointSlice>>> = BTreeMap::new();
    for slice in slices.iter().filter(|slice| !slice.metadata.is_deleting()) {
        by_shape.entry((&slice.address_type, &slice.ports)).or_default().push(slice);
    }
    let mut with_own = Vec::new();
    for group in &groups {
        let own = by_shape.remove(&(&*group.address_type, &group.ports[..])).unwrap_or_default();
        with_own.push((own, group));
    }
    // Slices of shapes that nothing has any more serve where new ones would be made.
    let mut spare: Vec<_> = by_shape.into_values().flatten().collect();
    let mut writes = Vec::new();
    for (own, group) in with_own {
        pack_group(group, own, &mut spare, labels, &mut writes);
    }
    // The last thing to go, so that no endpoint is in no slice for a moment.
    writes.extend(spare.into_iter().map(|slice| Write::Delete(slice.metadata.clone())));
    writes
}

/// A slice in the making.
struct Bin<'a> {
    old: Option<&'a Arc<EndpointSlice>>,
    endpoints: Vec<Endpoint>,
}

fn pack_group<'a>(
    group: &Group,
    slices: Vec<&'a Arc<EndpointSlice>>,
    spare: &mut Vec<&'a Arc<EndpointSlice>>,
    labels: &StringMap,
    writes: &mut Vec<Write>,
) {
    let mut left: BTreeMap<&str, &Endpoint> =
        group.endpoints.iter().map(|endpoint| (uid(endpoint), endpoint)).collect();
    let stay = |slice: &'a Arc<EndpointSlice>| {
        // What stays keeps its slice and its place in it.
        let staying =
            slice.endpoints.iter().take(ENDPOINTS_MAX).filter_map(|old| left.remove(uid(old)).cloned());
        Bin { old: Some(slice), endpoints: staying.collect() }
    };
    let mut bins: Vec<Bin<'_>> = slices.into_iter().map(stay).collect();
    // Slices that are written anyway are filled first, of those the fullest.
    bins.sort_by_key(|bin| (!bin.is_changed(group, labels), std::cmp::Reverse(bin.endpoints.len())));
    let mut left = left.into_values().cloned();
    for bin in &mut bins {
        let room = ENDPOINTS_MAX.saturating_sub(bin.endpoints.len());
        bin.endpoints.extend(left.by_ref().take(room));
    }
    loop {
        let endpoints: Vec<Endpoint> = left.by_ref().take(ENDPOINTS_MAX).collect();
        if endpoints.is_empty() && !bins.is_empty() {
            break;
        }
        let fitting = spare.iter().position(|slice| slice.address_type == group.address_type);
        bins.push(Bin { old: fitting.map(|at| spare.swap_remove(at)), endpoints });
    }
    // One empty slice stays if there is nothing else.
    let filled = bins.iter().any(|bin| !bin.endpoints.is_empty());
    let mut kept = false;
    for bin in bins {
        let keep = !bin.endpoints.is_empty() || (!filled && !kept);
        kept |= keep;
        writes.extend(bin.write(group, labels, keep));
    }
}

impl Bin<'_> {
    fn is_changed(&self, group: &Group, labels: &StringMap) -> bool {
        self.old.is_none_or(|old| {
            old.ports != group.ports || old.endpoints != self.endpoints || old.metadata.labels != *labels
        })
    }

    fn write(self, group: &Group, labels: &StringMap, keep: bool) -> Option<Write> {
        let changed = self.is_changed(group, labels);
        let slice = EndpointSlice {
            metadata: Meta { labels: labels.clone(), ..Meta::default() },
            address_type: group.address_type.clone(),
            ports: group.ports.clone(),
            endpoints: self.endpoints,
        };
        match self.old {
            Some(old) if !keep => Some(Write::Delete(old.metadata.clone())),
            Some(old) => changed.then(|| Write::Replace(old.metadata.clone(), slice)),
            None => keep.then_some(Write::Create(slice)),
        }
    }
}

fn uid(endpoint: &Endpoint) -> &str {
    endpoint.target_ref.as_ref().map_or("", |target| &*target.uid)
}

#[cfg(test)]
mod tests;
