//! The rig: a cluster on one machine, nodes as network namespaces.
