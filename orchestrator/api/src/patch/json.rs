//! JSON patch (RFC 6902), with the error messages that Kubernetes gives.
//!
//! Own rather than the `json-patch` crate's for these messages, and for the bound on what copies may add.
use super::PatchError;
use crate::object::{Map, Value};

/// Operations a patch may have, as in Kubernetes.
const OPERATIONS_MAX: usize = 10_000;
/// Bytes that all `copy` operations of a patch may add: a few nested copies could otherwise grow without bound.
const COPIED_BYTES_MAX: usize = 3 * 1024 * 1024;

/// Carries out `patch`, a list of operations, on `document`. On an error the document may be half changed.
pub fn apply(document: &mut Value, patch: &Value) -> Result<(), PatchError> {
    let Some(operations) = patch.as_array() else {
        return Err(PatchError::Malformed("a JSON patch must be a list of operations".to_owned()));
    };
    if operations.len() > OPERATIONS_MAX {
        return Err(PatchError::TooLarge(format!(
            "The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {}",
            operations.len()
        )));
    }
    let mut copied = 0;
    operations.iter().try_for_each(|operation| carry_out(document, operation, &mut copied))
}

fn carry_out(document: &mut Value, operation: &Value, copied: &mut usize) -> Result<(), PatchError> {
    let text = |name: &str| operation.get(name).and_then(Value::as_str);
    let name = text("op").unwrap_or_default();
    let path = text("path").ok_or_else(|| malformed(format!("{name} operation has no path")))?;
    let value =
        || operation.get("value").cloned().ok_or_else(|| malformed(format!("{name} operation has no value")));
    let from = || text("from").ok_or_else(|| malformed(format!("{name} operation has no from")));
    match name {
        "add" => add(document, path, value()?, name),
        "remove" => remove(document, path, name).map(drop),
        "replace" => replace(document, path, value()?),
        "test" => test(document, path, operation.get("value").unwrap_or(&Value::Null)),
        "move" => {
            let from = from()?;
            if path.starts_with(&format!("{from}/")) {
                return Err(does_not_apply(format!(
                    "error in move for path: '{path}': it lies below its source"
                )));
            }
            let value = remove(document, from, name)?;
            add(document, path, value, name)
        }
        "copy" => {
            let value = get(document, from()?, name)?.clone();
            *copied += value.to_string().len();
            if *copied > COPIED_BYTES_MAX {
                return Err(PatchError::TooLarge(format!(
                    "the copies of a JSON patch may add {COPIED_BYTES_MAX} bytes at most"
                )));
            }
            add(document, path, value, name)
        }
        _ => Err(malformed(format!("Unexpected kind: {name}"))),
    }
}

fn malformed(message: String) -> PatchError {
    PatchError::Malformed(message)
}

fn does_not_apply(message: String) -> PatchError {
    PatchError::DoesNotApply(message)
}

/// The path's parent and its last step, unescaped.
fn split(path: &str, operation: &str) -> Result<(String, String), PatchError> {
    match path.rsplit_once('/') {
        Some((parent, last)) if path.starts_with('/') => Ok((parent.to_owned(), unescape(last))),
        _ => Err(does_not_apply(format!(
            "{operation} operation does not apply: doc is missing path: \"{path}\": missing value"
        ))),
    }
}

fn unescape(step: &str) -> String {
    step.replace("~1", "/").replace("~0", "~")
}

fn missing_path(operation: &str, path: &str) -> PatchError {
    does_not_apply(format!(
        "{operation} operation does not apply: doc is missing path: \"{path}\": missing value"
    ))
}

fn get<'d>(document: &'d Value, path: &str, operation: &str) -> Result<&'d Value, PatchError> {
    document.pointer(path).ok_or_else(|| missing_path(operation, path))
}

fn parent_of<'d>(
    document: &'d mut Value,
    parent: &str,
    path: &str,
    operation: &str,
) -> Result<&'d mut Value, PatchError> {
    document.pointer_mut(parent).ok_or_else(|| missing_path(operation, path))
}

fn index(text: &str, length: usize) -> Option<usize> {
    let canonical = text == "0" || !text.starts_with(['0', '+']);
    text.parse().ok().filter(|index| canonical && *index < length)
}

fn bad_index(operation: &str, path: &str, step: &str) -> PatchError {
    does_not_apply(format!(
        "error in {operation} for path: '{path}': Unable to access invalid index: {step}: invalid index referenced"
    ))
}

fn add(document: &mut Value, path: &str, value: Value, operation: &str) -> Result<(), PatchError> {
    if path.is_empty() {
        *document = value;
        return Ok(());
    }
    let (parent, last) = split(path, operation)?;
    match parent_of(document, &parent, path, operation)? {
        Value::Object(map) => {
            map.insert(last, value);
        }
        Value::Array(list) if last == "-" => list.push(value),
        Value::Array(list) => {
            let at = index(&last, list.len() + 1).ok_or_else(|| bad_index(operation, path, &last))?;
            list.insert(at, value);
        }
        _ => return Err(missing_path(operation, path)),
    }
    Ok(())
}

fn remove(document: &mut Value, path: &str, operation: &str) -> Result<Value, PatchError> {
    if path.is_empty() {
        return Ok(std::mem::replace(document, Value::Object(Map::new())));
    }
    let (parent, last) = split(path, operation)?;
    match parent_of(document, &parent, path, operation)? {
        Value::Object(map) => map.shift_remove(&last).ok_or_else(|| {
            does_not_apply(format!(
                "error in {operation} for path: '{path}': Unable to remove nonexistent key: {last}: missing value"
            ))
        }),
        Value::Array(list) => match index(&last, list.len()) {
            Some(at) => Ok(list.remove(at)),
            None => Err(bad_index(operation, path, &last)),
        },
        _ => Err(missing_path(operation, path)),
    }
}

fn replace(document: &mut Value, path: &str, value: Value) -> Result<(), PatchError> {
    match document.pointer_mut(path) {
        Some(found) => {
            *found = value;
            Ok(())
        }
        None => Err(does_not_apply(format!(
            "replace operation does not apply: doc is missing key: {path}: missing value"
        ))),
    }
}

/// A missing value equals null, as in Kubernetes.
fn test(document: &Value, path: &str, expected: &Value) -> Result<(), PatchError> {
    if document.pointer(path).unwrap_or(&Value::Null) == expected {
        return Ok(());
    }
    Err(does_not_apply(format!("testing value {path} failed: test failed")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(document: Value, patch: Value, expected: Value) {
        let mut changed = document;
        apply(&mut changed, &patch).unwrap();
        assert_eq!(changed, expected);
    }

    fn error(document: Value, patch: Value) -> String {
        let mut changed = document;
        apply(&mut changed, &patch).unwrap_err().to_string()
    }

    #[test]
    fn operations() {
        check(json!({"a": 1}), json!([{"op": "add", "path": "/b", "value": 2}]), json!({"a": 1, "b": 2}));
        check(
            json!({"a": [1, 3]}),
            json!([{"op": "add", "path": "/a/1", "value": 2}]),
            json!({"a": [1, 2, 3]}),
        );
        check(json!({"a": [1]}), json!([{"op": "add", "path": "/a/-", "value": 2}]), json!({"a": [1, 2]}));
        check(json!({"a": 1, "b": 2}), json!([{"op": "remove", "path": "/a"}]), json!({"b": 2}));
        check(json!({"a": [1, 2]}), json!([{"op": "remove", "path": "/a/0"}]), json!({"a": [2]}));
        check(json!({"a": 1}), json!([{"op": "replace", "path": "/a", "value": [1]}]), json!({"a": [1]}));
        check(json!({"a": 1}), json!([{"op": "move", "from": "/a", "path": "/b"}]), json!({"b": 1}));
        check(
            json!({"a": [1]}),
            json!([{"op": "copy", "from": "/a", "path": "/b"}]),
            json!({"a": [1], "b": [1]}),
        );
        check(json!({"a/b": {"~": 1}}), json!([{"op": "remove", "path": "/a~1b/~0"}]), json!({"a/b": {}}));
        check(json!({}), json!([{"op": "test", "path": "/x", "value": null}]), json!({}));
        check(json!({}), json!([]), json!({}));
    }

    #[test]
    fn errors_say_what_does_not_fit() {
        let test = json!([{"op": "test", "path": "/a", "value": 2}]);
        assert_eq!(error(json!({"a": 1}), test), "testing value /a failed: test failed");
        assert_eq!(
            error(json!({}), json!([{"op": "remove", "path": "/a"}])),
            "error in remove for path: '/a': Unable to remove nonexistent key: a: missing value"
        );
        assert_eq!(
            error(json!({}), json!([{"op": "replace", "path": "/a", "value": 1}])),
            "replace operation does not apply: doc is missing key: /a: missing value"
        );
        assert_eq!(
            error(json!({}), json!([{"op": "add", "path": "/a/b", "value": 1}])),
            "add operation does not apply: doc is missing path: \"/a/b\": missing value"
        );
        assert!(
            error(json!({"a": []}), json!([{"op": "add", "path": "/a/2", "value": 1}]))
                .contains("invalid index")
        );
        assert_eq!(error(json!({}), json!([{"op": "grow", "path": "/a"}])), "Unexpected kind: grow");
        assert!(
            error(json!({"a": {}}), json!([{"op": "move", "from": "/a", "path": "/a/b"}])).contains("below")
        );
        assert!(error(json!({}), json!({})).contains("list of operations"));
    }

    #[test]
    fn copies_are_bounded() {
        let copies: Vec<_> = (0..30).map(|_| json!({"op": "copy", "from": "", "path": "/a"})).collect();
        let document = json!({"a": 1, "b": "x".repeat(100_000)});
        assert!(error(document, Value::Array(copies)).contains("at most"));
    }
}
