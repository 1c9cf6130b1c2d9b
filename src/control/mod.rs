//! The control socket: how a store that a daemon serves is listed and changed, and how commands
//! reach a store whether one serves it or not.
//!
//! ```text
//! api         what requests and answers are made of: both sides have these types
//! activity    what happens, as numbers; prometheus, the same as Prometheus wants it
//! operations  what each request does to an open store
//! server      HTTP and JSON over a UNIX socket: handlers, OpenAPI document, connections
//! socket      where the daemon listens, and how a client finds it
//! tcp         where it listens for other machines; with secret (token, private key) and tls
//! client      one request, one answer; pieces, a body that a thread makes
//! session     a store for commands: its daemon's socket, or opened by the command itself
//! ```
//!
//! Invariants. What a request means stands in `operations` alone: server and session both call it,
//! so that an answer does not depend on who gives it. Names are checked and taken by the engine's
//! transactions, never by a look before them, so requests that race end as if one came first. The
//! threads of guests never wait for this one.
//!
//! Imports exports, stream, the engine and what is below it. Of transport and server only exports know, but for the
//! protocol's numbers.

pub mod activity;
pub mod api;
mod client;
pub mod operations;
mod pieces;
mod prometheus;
mod secret;
pub mod server;
mod session;
pub mod socket;
pub mod tcp;
mod tls;

pub use client::Client;
pub use session::{
    Archived, ControlPlace, ExtractTo, ImportFrom, Input, Remote, SendWhat, Session, SessionError,
    StorePlace, daemon, named, served,
};
