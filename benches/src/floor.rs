//! The floor: our transport with nothing behind it. Each request is read, and answered from
//! constants; what it costs is what a ring, a wake-up and a reply cost.

use std::path::Path;
use std::sync::Arc;

use razorfs::server::consts::opcode;
use razorfs::server::{Error, Input, Output};
use razorfs::transport::vhost_user::{
    Answer, DeviceOptions, Readable, Socket, Stop, Writable, serve,
};
use zerocopy::FromBytes;

const HEADER: usize = 16;
/// Bytes of a request that are read: its header, and what follows in most.
const READ: usize = 104;
/// FUSE 7.39, as razorfsd says it: features are of no interest here.
const INIT_OUT: [u32; 16] = [
    7,
    39,
    1 << 17,
    0,
    0,
    1 << 20,
    0,
    256,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
];

struct Constants {
    page: Vec<u8>,
}

/// Serves one front-end after the other, until the process is ended.
///
/// # Errors
/// When the socket cannot be had.
pub fn run(socket: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let socket = Socket::bind(socket, None)?;
    let options = DeviceOptions {
        request_queues: 1,
        pool_threads_max: 16,
        tag: None,
        exit_on_disconnect: false,
        strict: false,
        ..DeviceOptions::default()
    };
    let constants: Arc<dyn Answer> = Arc::new(Constants {
        page: vec![7; 1 << 20],
    });
    serve(&constants, socket, &options, &Stop::new()?)?;
    Ok(())
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..)
        .and_then(|rest| u32::read_from_prefix(rest).ok())
        .map_or(0, |(word, _)| word)
}

impl Answer for Constants {
    fn handle(&self, mut request: Readable<'_>, mut reply: Writable<'_>) -> Result<usize, Error> {
        let mut head = [0; READ];
        let count = request.available_bytes().min(READ);
        let (head, _) = head.split_at_mut(count);
        request.read_exact(head).map_err(Error::Request)?;
        let room = reply.available_bytes();
        if room < HEADER {
            return Ok(0);
        }
        let init = INIT_OUT.map(u32::to_ne_bytes);
        let body = match word(head, 4) {
            opcode::INIT => init.as_flattened(),
            // As many bytes as there is room for.
            _ => &self.page,
        };
        let body = body
            .get(..body.len().min(room - HEADER))
            .unwrap_or_default();
        let len = u32::try_from(HEADER + body.len()).unwrap_or(0);
        let mut header = [0; HEADER];
        let (len_at, rest) = header.split_at_mut(4);
        len_at.copy_from_slice(&len.to_ne_bytes());
        let (_, unique) = rest.split_at_mut(4);
        unique.copy_from_slice(head.get(8..16).unwrap_or(&[0; 8]));
        reply.write_all(&header).map_err(Error::Reply)?;
        reply.write_all(body).map_err(Error::Reply)?;
        Ok(HEADER + body.len())
    }

    fn begin(&self, request: Readable<'_>, reply: Writable<'_>) -> Result<usize, Error> {
        self.handle(request, reply)
    }

    fn reset(&self) {}
}
