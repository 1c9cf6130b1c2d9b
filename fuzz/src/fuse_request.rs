//! Requests of a kernel that means harm, down to the disk: no panic; a reply is one, and fits; and
//! what is on the disk afterwards is a sound store.

use arbitrary::{Arbitrary, Unstructured};
use razorfs::disk::sim::SimMedia;
use razorfs::engine::Volume;
use razorfs::fs::{CacheMode, FileSystem, Options};
use razorfs::fsck;
use razorfs::server::Server;
use vm_tests::frontend::fuse::request;
use vm_tests::frontend::hostile::fields::Told;
use vm_tests::frontend::hostile::{Message, fault, learn};

use super::guest::Guest;
use super::store;

/// Requests in one execution at most.
const MESSAGES_MAX: usize = 24;
/// One execution in so many is checked by fsck.
const CHECKED: u8 = 8;

thread_local! {
    static GUEST: Guest = Guest::new();
}

fn options(bits: u8) -> Options {
    Options {
        cache: [CacheMode::Auto, CacheMode::Never][usize::from(bits & 1)],
        read_only: bits & 0x0e == 0x0e,
        writeback: bits & 0x10 != 0,
        xattr: bits & 0x60 != 0x60,
        posix_acl: bits & 0x80 == 0,
        readdirplus: true,
        shared: bits & 0x11 == 0x11,
        without_open: false,
        allow_mmap: false,
        snapshots: true,
    }
}

/// Asserts that a checker finds nothing wrong.
fn check(sim: &SimMedia) {
    let errors = fsck::errors(&sim.media()).unwrap();
    assert!(errors.is_empty(), "{errors:#?}");
}

pub fn run(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let (bits, checked) = (u.arbitrary().unwrap_or(0), u.arbitrary().unwrap_or(1u8));
    let sim = store::closed();
    let volume = Volume::open_media(sim.media(), store::options(), store::clock()).unwrap();
    let server = Server::new(FileSystem::new(volume, options(bits)));
    let mut told = Told::default();
    GUEST.with(|guest| {
        let init = request::init(u64::MAX).message(2, 0, 0, 1);
        let reply = guest.carry_out(&server, &init, 80, usize::MAX);
        assert_eq!(reply.len(), 80);
        for _ in 0..MESSAGES_MAX {
            if u.is_empty() {
                break;
            }
            let Ok(message) = Message::arbitrary(&mut u) else {
                break;
            };
            let bytes = message.bytes(&told);
            let cut = [usize::MAX, 64, 7][usize::try_from(message.unique % 3).unwrap()];
            let reply = guest.carry_out(&server, &bytes, message.room.0, cut);
            if let Some(fault) = fault(&bytes, &reply) {
                panic!("{fault}: {message:?}");
            }
            learn(&mut told, &bytes, &reply);
        }
    });
    if checked % CHECKED == 0 {
        server.reset();
        server.fs().volume().store().close().unwrap();
        drop(server);
        check(&sim);
    }
}
