//! The object model, pure, no IO.
