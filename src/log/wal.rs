//! The write-ahead log: a ring of batches, group commit.
