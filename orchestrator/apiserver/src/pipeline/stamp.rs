//! What the server alone writes into `metadata`: names it generates, uid, times, generation.

use api::{ApiError, Generation, Object, time};

use super::Write;

/// What a generated name may end in: no vowels and nothing easily misread, so that no words come about.
const SUFFIX_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// Letters of a generated suffix: 27^5 is 14 million.
const SUFFIX_LENGTH: usize = 5;
/// Longest prefix of a generated name, so that name and suffix make a DNS label.
const PREFIX_MAX: usize = 63 - SUFFIX_LENGTH;

/// Metadata that an update takes from the object as it is.
const KEPT: &[&str] =
    &["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation"];

/// A name from `generateName`.
pub fn generate_name(prefix: &str) -> String {
    let mut end = prefix.len().min(PREFIX_MAX);
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    prefix[..end].to_owned() + &suffix()
}

/// Random letters that make a name unique.
pub fn suffix() -> String {
    let letter = |_| char::from(SUFFIX_ALPHABET[rand::random_range(0..SUFFIX_ALPHABET.len())]);
    (0..SUFFIX_LENGTH).map(letter).collect()
}

// === impl Write ===

impl Write<'_> {
    /// Checks name and namespace against the path.
    pub fn check_place(&self, object: &mut Object) -> Result<(), ApiError> {
        let info = self.info;
        if self.resource.kind.is_namespaced() {
            let namespace = object.meta().namespace();
            if namespace.is_empty() {
                object.meta_mut().set_namespace(&info.namespace);
            } else if namespace != info.namespace {
                return Err(ApiError::bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request",
                ));
            }
        }
        let name = object.meta().name();
        if !info.name.is_empty() && name.is_empty() {
            object.meta_mut().set_name(&info.name);
        } else if !info.name.is_empty() && name != info.name {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                info.name
            )));
        }
        Ok(())
    }

    /// The metadata of a new object.
    pub fn stamp_new(&self, object: &mut Object) {
        let generation = i64::from(self.resource.kind.generation == Generation::Counted);
        let mut meta = object.meta_mut();
        for own in ["resourceVersion", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds"] {
            meta.remove(own);
        }
        // Version 7 begins with the time in milliseconds: what `creationTimestamp` is too coarse for, `bowsprit why` reads there.
        meta.set_uid(&uuid::Uuid::now_v7().to_string());
        meta.set_creation_timestamp(&time::format(self.now));
        meta.set_generation(generation);
    }
}

/// Takes over what clients may leave out of an update but not change. What they do change is refused by validation.
pub fn carry_over(new: &mut Object, old: &Object) {
    let (mut meta, old) = (new.meta_mut(), old.meta());
    meta.remove("selfLink");
    for field in KEPT {
        let settled = matches!(*field, "generation" | "deletionTimestamp" | "deletionGracePeriodSeconds");
        match old.get(field) {
            Some(value) if settled || meta.view().get(field).is_none() => _ = meta.set(field, value.clone()),
            None if settled => _ = meta.remove(field),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn generated_names_are_labels() {
        let name = generate_name(&"x".repeat(80));
        assert_eq!(name.len(), 63);
        assert!(generate_name("web-").starts_with("web-"));
        assert_ne!(generate_name("a"), generate_name("a"));
    }

    #[test]
    fn updates_keep_what_the_server_wrote() {
        let old =
            Object::from_value(json!({"metadata": {"uid": "u", "generation": 2, "creationTimestamp": "t"}}))
                .unwrap();
        let mut new =
            Object::from_value(json!({"metadata": {"generation": 9, "deletionTimestamp": "x"}})).unwrap();
        carry_over(&mut new, &old);
        assert_eq!(
            new.value(),
            &json!({"metadata": {"generation": 2, "uid": "u", "creationTimestamp": "t"}})
        );
    }
}
