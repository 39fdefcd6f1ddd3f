//! One module a controller.
