//! Patches: from a body and the current object to the object that is asked for.
