//! Certificates and tokens: make, sign, rotate, verify.
