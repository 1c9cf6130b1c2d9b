//! How requests reach the server: over /dev/fuse on this host, or from a guest's virtqueues.
//!
//! A transport moves messages and knows nothing of inodes. May import `server`.

pub mod fusedev;
pub mod vhost_user;
