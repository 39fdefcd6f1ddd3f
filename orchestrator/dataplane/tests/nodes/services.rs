//! Services by sockets and by packets, from pods, nodes and outside.
