//! Types that cross the kernel boundary.
