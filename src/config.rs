//! Flags to one validated configuration.
