//! Real guests, power cuts, and a user-space vhost-user front-end that needs no guest.

pub mod apps;
pub mod campaign;
pub mod execute;
#[cfg(feature = "frontend")]
pub mod frontend;
pub mod guest;
pub mod host;
pub mod measure;
pub mod migration;
pub mod poweroff;
pub mod requests;
pub mod services;
pub mod store;
pub mod workload;
