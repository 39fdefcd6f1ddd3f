//! NetworkPolicy and what is told of drops.
