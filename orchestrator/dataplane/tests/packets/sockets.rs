//! The socket hooks on a real cgroup.
