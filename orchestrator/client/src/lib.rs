//! How every part reaches an API server: a client over any tower service, and informers.
