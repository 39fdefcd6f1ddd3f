//! The kernel half: load, pin, attach, apply a plan, IPAM, CNI server, conntrack GC, event reader.
