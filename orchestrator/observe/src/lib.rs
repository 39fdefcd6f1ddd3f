//! Flows: their ring, their names, their stream to people.
