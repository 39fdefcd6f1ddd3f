//! The agent's death and return with traffic running.
