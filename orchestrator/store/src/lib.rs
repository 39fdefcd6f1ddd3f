//! The etcd-shaped store: one trait, an etcd engine, an embedded engine, and the suite that both pass.
