//! The shop: the example application, probed pair by pair.
