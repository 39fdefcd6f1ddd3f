//! The API server as its clients see it: over a real store, in process and over TLS, with the real kubectl.
//!
//! [`support`] starts servers; the other modules are topics. One binary, because linking takes longer than testing.

#[cfg(test)]
mod cluster;
#[cfg(test)]
mod kubectl;
#[cfg(test)]
mod serving;
#[cfg(test)]
mod stores;
#[cfg(test)]
mod support;
#[cfg(test)]
mod verbs;
