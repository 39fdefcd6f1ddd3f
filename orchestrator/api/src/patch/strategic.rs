//! Strategic merge patch: a merge patch in which lists of known kinds merge by key instead of being replaced.
//!
//! Directives: `$patch: replace|delete` in an object or an element, `$retainKeys: [..]` in an object,
//! `$deleteFromPrimitiveList/FIELD: [..]` and `$setElementOrder/FIELD: [..]` beside a list. Which lists merge, and by
//! which key, the schema says. Results are ordered as Kubernetes orders them: the patch's order rules among what it
//! names, the old order among the rest.
use super::PatchError;
use crate::object::{Map, Value};
use crate::schema::{Field, Node};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_PREFIX: &str = "$deleteFromPrimitiveList/";
const ORDER_PREFIX: &str = "$setElementOrder/";

/// Merges `patch` into `target`, whose schema is `node`.
pub fn apply(target: &mut Value, patch: Value, node: Node<'_>) -> Result<(), PatchError> {
    let (Value::Object(target), Value::Object(patch)) = (target, patch) else {
        return Err(malformed("invalid JSON document"));
    };
    merge_map(target, patch, Some(node))
}

fn malformed(message: impl Into<String>) -> PatchError {
    PatchError::Malformed(message.into())
}

fn merge_map(target: &mut Map, mut patch: Map, node: Option<Node<'_>>) -> Result<(), PatchError> {
    if let Some(directive) = patch.shift_remove(PATCH) {
        return match directive.as_str() {
            Some("replace") => {
                *target = patch;
                Ok(())
            }
            Some("delete") => {
                target.clear();
                Ok(())
            }
            _ => Err(malformed(format!("unknown patch type: {directive}"))),
        };
    }
    if let Some(keys) = patch.shift_remove(RETAIN_KEYS) {
        retain_keys(target, &patch, &keys)?;
    }
    ordered_lists(target, &mut patch, node)?;
    for (name, value) in patch {
        merge_field(target, name, value, node)?;
    }
    Ok(())
}

/// Drops all fields but those listed; the patch itself may hold no other.
fn retain_keys(target: &mut Map, patch: &Map, keys: &Value) -> Result<(), PatchError> {
    let error = || malformed("invalid patch format of retainKeys");
    let keys: Vec<&str> = keys.as_array().ok_or_else(error)?.iter().filter_map(Value::as_str).collect();
    let listed = |name: &str, value: &Value| {
        value.is_null()
            || name.starts_with(DELETE_PREFIX)
            || name.starts_with(ORDER_PREFIX)
            || keys.contains(&name)
    };
    if !patch.iter().all(|(name, value)| listed(name, value)) {
        return Err(error());
    }
    target.retain(|name, _| keys.contains(&name.as_str()));
    Ok(())
}

fn merge_field(
    target: &mut Map,
    name: String,
    value: Value,
    node: Option<Node<'_>>,
) -> Result<(), PatchError> {
    if let Some(field) = name.strip_prefix(DELETE_PREFIX) {
        if let (Some(Value::Array(list)), Value::Array(gone)) = (target.get_mut(field), &value) {
            list.retain(|element| !gone.contains(element));
        }
        return Ok(());
    }
    if value.is_null() {
        target.shift_remove(&name);
        return Ok(());
    }
    let child = node.and_then(|node| node.child(&name));
    match (target.get_mut(&name), value) {
        (Some(Value::Object(old)), Value::Object(patch)) => merge_map(old, patch, child),
        (Some(Value::Array(old)), Value::Array(patch)) => {
            *old = merge_list(std::mem::take(old), patch, child, &name)?;
            Ok(())
        }
        (_, value) => {
            match without_directives(value) {
                Some(value) => target.insert(name, value),
                None => target.shift_remove(&name),
            };
            Ok(())
        }
    }
}

/// What a patch's value is where there is nothing to merge it with; `None` if it is itself a directive.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) if map.contains_key(PATCH) => None,
        Value::Object(map) => {
            let fields = map.into_iter().filter(|(_, value)| !value.is_null());
            let fields = fields.filter(|(name, _)| {
                name != RETAIN_KEYS && !name.starts_with(ORDER_PREFIX) && !name.starts_with(DELETE_PREFIX)
            });
            Some(fields.filter_map(|(name, value)| Some((name, without_directives(value)?))).collect())
        }
        Value::Array(list) => Some(list.into_iter().filter_map(without_directives).collect()),
        value => Some(value),
    }
}

// === lists ===

/// How a list merges: by which key, if its elements are objects.
fn merge_key<'s>(node: Option<Node<'s>>) -> (bool, Option<&'s str>) {
    match node.and_then(|node| node.field_facts()) {
        Some(Field { merge, merge_key, .. }) => (*merge, merge_key.as_deref()),
        None => (false, None),
    }
}

fn merge_list(
    old: Vec<Value>,
    patch: Vec<Value>,
    node: Option<Node<'_>>,
    name: &str,
) -> Result<Vec<Value>, PatchError> {
    let (merge, key) = merge_key(node);
    if !merge {
        return Ok(patch.into_iter().filter_map(without_directives).collect());
    }
    let all_objects = |list: &[Value]| list.iter().all(Value::is_object);
    if old.iter().chain(&patch).any(Value::is_array) {
        return Err(malformed("lists of lists are not supported"));
    }
    match key {
        Some(key) if all_objects(&old) && all_objects(&patch) => merge_objects(old, patch, node, key),
        _ if old.iter().chain(&patch).any(Value::is_object) => {
            Err(malformed(format!("cannot merge lists without merge key for {name}")))
        }
        _ => Ok(merge_scalars(old, patch)),
    }
}

fn merge_scalars(old: Vec<Value>, patch: Vec<Value>) -> Vec<Value> {
    let mut merged: Vec<Value> = Vec::with_capacity(old.len() + patch.len());
    for value in old.iter().chain(&patch) {
        if !merged.contains(value) {
            merged.push(value.clone());
        }
    }
    in_order(merged, &patch, &old, None)
}

fn merge_objects(
    mut old: Vec<Value>,
    patch: Vec<Value>,
    node: Option<Node<'_>>,
    key: &str,
) -> Result<Vec<Value>, PatchError> {
    let mut plain = Vec::with_capacity(patch.len());
    let mut replace = false;
    for element in patch {
        match element.get(PATCH).map(|directive| directive.as_str().unwrap_or_default()) {
            None => plain.push(element),
            Some("replace") => replace = true,
            Some("delete") => {
                let gone = key_of(&element, key)?.clone();
                old.retain(|element| element.get(key) != Some(&gone));
            }
            Some("merge") => return Err(malformed("merging lists cannot yet be specified in the patch")),
            Some(other) => return Err(malformed(format!("unknown patch type: {other} in map: {element}"))),
        }
    }
    if replace {
        return Ok(plain.into_iter().filter_map(without_directives).collect());
    }
    let order = keys_only(&plain, key)?;
    let old_order = keys_only(&old, key)?;
    let element_node = node.and_then(|node| node.element());
    for element in plain {
        let wanted = key_of(&element, key)?.clone();
        let found = old.iter_mut().find(|old| old.get(key) == Some(&wanted));
        match (found, element) {
            (Some(Value::Object(old)), Value::Object(patch)) => merge_map(old, patch, element_node)?,
            (_, element) => old.extend(without_directives(element)),
        }
    }
    Ok(in_order(old, &order, &old_order, Some(key)))
}

fn key_of<'v>(element: &'v Value, key: &str) -> Result<&'v Value, PatchError> {
    element
        .get(key)
        .filter(|value| !value.is_null())
        .ok_or_else(|| malformed(format!("map: {element} does not contain declared merge key: {key}")))
}

/// The elements with nothing but their key: enough to order by.
fn keys_only(list: &[Value], key: &str) -> Result<Vec<Value>, PatchError> {
    list.iter().map(|element| key_of(element, key).cloned()).collect()
}

/// `$setElementOrder/FIELD` says how the merged list is to be ordered, also when the patch does not change it.
fn ordered_lists(target: &mut Map, patch: &mut Map, node: Option<Node<'_>>) -> Result<(), PatchError> {
    let directives: Vec<String> =
        patch.keys().filter(|name| name.starts_with(ORDER_PREFIX)).cloned().collect();
    for directive in directives {
        let field = directive.strip_prefix(ORDER_PREFIX).unwrap_or_default();
        let error = || malformed("invalid patch format of setElementOrder list");
        let Some(Value::Array(order)) = patch.shift_remove(&directive) else { return Err(error()) };
        let child = node.and_then(|node| node.child(field));
        let (_, key) = merge_key(child);
        let order = match key {
            Some(key) => keys_only(&order, key)?,
            None => order,
        };
        let change = match patch.shift_remove(field) {
            Some(Value::Array(list)) => Some(list),
            None => None,
            Some(_) => return Err(error()),
        };
        if let Some(change) = &change {
            check_order(change, &order, key)?;
        }
        let old = match target.get_mut(field) {
            Some(Value::Array(old)) => Some(std::mem::take(old)),
            None => None,
            Some(_) => return Err(error()),
        };
        let old_order = match (&old, key) {
            (Some(old), Some(key)) => keys_only(old, key)?,
            (Some(old), None) => old.clone(),
            (None, _) => Vec::new(),
        };
        let merged = match (old, change) {
            (None, None) => continue,
            (Some(old), None) => old,
            (None, Some(change)) => change.into_iter().filter_map(without_directives).collect(),
            (Some(old), Some(change)) => merge_list(old, change, child, field)?,
        };
        target.insert(field.to_owned(), Value::Array(in_order(merged, &order, &old_order, key)));
    }
    Ok(())
}

/// What the patch changes must come in the order that it asks for.
fn check_order(change: &[Value], order: &[Value], key: Option<&str>) -> Result<(), PatchError> {
    if order.is_empty() {
        return Ok(());
    }
    let mut rest = order.iter();
    for element in change.iter().filter(|element| element.get(PATCH).is_none()) {
        let id = match key {
            Some(key) => key_of(element, key)?,
            None => element,
        };
        if !rest.any(|listed| listed == id) {
            return Err(malformed(format!(
                "The order in patch list:\n{}\n doesn't match $setElementOrder list:\n{}\n",
                Value::Array(change.to_vec()),
                Value::Array(order.to_vec())
            )));
        }
    }
    Ok(())
}

/// Orders `merged`: what `order` names in that order, the rest as in `old_order`, and the two woven together so that an
/// element of the rest comes before a named one only if it did so before.
fn in_order(merged: Vec<Value>, order: &[Value], old_order: &[Value], key: Option<&str>) -> Vec<Value> {
    let id = |element: &Value| {
        key.map_or_else(|| element.clone(), |key| element.get(key).cloned().unwrap_or_default())
    };
    let place = |element: &Value, list: &[Value]| {
        let id = id(element);
        list.iter().position(|listed| *listed == id)
    };
    let (mut named, mut rest): (Vec<_>, Vec<_>) =
        merged.into_iter().partition(|element| place(element, order).is_some());
    named.sort_by_key(|element| place(element, order));
    rest.sort_by_key(|element| place(element, old_order).unwrap_or(usize::MAX));
    let before = |rest: &Value, named: &Value| match (place(rest, old_order), place(named, old_order)) {
        (Some(rest), Some(named)) => rest < named,
        _ => false,
    };
    let mut out = Vec::with_capacity(named.len() + rest.len());
    let (mut named, mut rest) = (named.into_iter().peekable(), rest.into_iter().peekable());
    while let (Some(next_named), Some(next_rest)) = (named.peek(), rest.peek()) {
        let next = if before(next_rest, next_named) { rest.next() } else { named.next() };
        out.extend(next);
    }
    out.extend(named);
    out.extend(rest);
    out
}

#[cfg(test)]
mod tests;
