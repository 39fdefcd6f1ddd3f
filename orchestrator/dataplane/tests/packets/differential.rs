//! Random and damaged packets: the kernel decides each as the host's functions do, to the line and the byte.
