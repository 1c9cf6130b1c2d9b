//! The state of a guest's mount as another host sends it: decoding ends in a state or an error, behind
//! the checksum too, and what was decoded is encoded to the same bytes. A server that takes any of it
//! is one that answers.
//!
//! The first byte says whether length and hash are made right.

use std::cell::RefCell;
use std::sync::Arc;

use razorfs::engine::Volume;
use razorfs::fs::{FileSystem, Options};
use razorfs::server::Server;
use razorfs::server::state::{decodes_to_itself, sealed};

use super::store;

/// Bytes of its hash.
const HASH_BYTES: usize = 32;

thread_local! {
    static VOLUME: RefCell<Option<Arc<Volume>>> = const { RefCell::new(None) };
}

fn volume() -> Arc<Volume> {
    let open = || {
        let media = store::closed().media();
        Volume::open_media(media, store::options(), store::clock()).unwrap()
    };
    VOLUME.with_borrow_mut(|volume| volume.get_or_insert_with(open).clone())
}

pub fn run(data: &[u8]) {
    let Some((sealing, state)) = data.split_first() else {
        return;
    };
    let state = match sealing % 8 {
        0 => state.to_vec(),
        _ => sealed(state.to_vec()),
    };
    assert_ne!(decodes_to_itself(&state), Some(false), "another encoding");
    let server = Server::new(FileSystem::new(volume(), Options::default()));
    if server.restore(&state).is_ok() {
        // All but the largest write, which may be smaller in what was sent.
        let (saved, behind) = (server.save().unwrap(), 52..state.len() - HASH_BYTES);
        assert_eq!(saved[behind.clone()], state[behind], "another state");
    }
    // What it was told that the kernel knows is forgotten, and harms nobody.
    server.reset();
}

/// The state of a server that knows nothing, and one that claims to know a few inodes.
pub fn seeds() -> Vec<Vec<u8>> {
    let server = Server::new(FileSystem::new(volume(), Options::default()));
    let mut state = server.save().unwrap_or_default();
    state.truncate(state.len().saturating_sub(HASH_BYTES));
    let nothing = [&[1], state.as_slice()].concat();
    let mut some = nothing.clone();
    // Behind the first byte: a session, and one inode that was looked up twice.
    some[1 + 47] = 0x80;
    some[1 + 56] = 1;
    some.extend([1, 2]);
    vec![nothing, some]
}
