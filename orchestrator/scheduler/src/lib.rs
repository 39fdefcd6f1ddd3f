//! Queue, snapshot, filters, scores, binding.
