//! Transactions, the write-ahead log, group commit, checkpoint and recovery.
