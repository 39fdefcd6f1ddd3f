//! The kinds that every server has: their data and strategies, one file a group of kinds.
use crate::kind::Kind;

/// All built-in kinds.
pub fn builtin() -> Vec<Kind> {
    Vec::new()
}
