//! Pure: a snapshot of pods, Services, policies and nodes -> the contents of the eBPF maps.
