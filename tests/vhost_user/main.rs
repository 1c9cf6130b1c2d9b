//! razorfsd under a front-end: good ones, those that come and go, and hostile guests.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_sign_loss,
    clippy::cast_possible_truncation
)]

mod control;
mod control_kill;
mod control_killed;
mod control_remote;
mod daemon;
mod exports;
mod full_disk;
#[path = "../host/mod.rs"]
mod host;
mod hostile_campaign;
mod hostile_fuse;
mod hostile_ring;
mod hostile_setup;
mod imported;
mod kill;
mod live;
mod memory;
mod metrics;
mod moving;
mod needs_reset;
mod opcodes;
mod pipeline;
mod polling;
mod received;
mod restored;
mod session;
mod several;
mod take_over;
mod take_over_exports;
mod take_over_listening;
mod without_open;
