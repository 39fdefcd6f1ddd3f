//! Every packet decision: no_std, no aya; the same code in the kernel, in tests and in trace.
