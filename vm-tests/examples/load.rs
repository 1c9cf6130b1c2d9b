//! Asks a daemon for attributes it has in memory, so many requests at a time, and prints how long
//! one takes and how many events it took: `load SOCKET REQUESTS DEPTH [sleep|spin]`. With `spin`
//! the guest looks for answers itself and asks for no calls, as one does that has other things to do.

use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

use vm_tests::frontend::fuse::request;
use vm_tests::frontend::fuse::wire::ROOT;
use vm_tests::frontend::{Mount, Options, Result};

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let [socket, requests, depth, how] = args.as_slice() else {
        return Err("load SOCKET REQUESTS DEPTH sleep|spin".into());
    };
    let (requests, depth): (u32, usize) = (requests.parse()?, depth.parse()?);
    run(Path::new(socket), requests, depth, how == "spin")?;
    Ok(())
}

fn run(socket: &Path, requests: u32, depth: usize, spin: bool) -> Result<()> {
    let mut mount = Mount::new(socket, &Options::default())?;
    let client = mount.client(0);
    let before = (client.queue.counts.kicks, client.queue.counts.calls);
    let mut flying = VecDeque::new();
    let mut slowest = Duration::ZERO;
    let begun = Instant::now();
    for sent in 0..requests {
        flying.push_back((Instant::now(), client.submit(request::getattr(ROOT))?));
        let most = if sent + 1 == requests { 0 } else { depth - 1 };
        while flying.len() > most {
            let Some((since, ticket)) = flying.pop_front() else {
                break;
            };
            while spin && !client.is_done(&ticket)? {
                std::hint::spin_loop();
            }
            client.complete(ticket)?;
            slowest = slowest.max(since.elapsed());
        }
    }
    let each = begun.elapsed() / requests;
    let per_request = |count: u64| count as f64 / f64::from(requests);
    println!(
        "depth={depth} spin={spin} each={each:?} slowest={slowest:?} kicks={:.3} calls={:.3}",
        per_request(client.queue.counts.kicks - before.0),
        per_request(client.queue.counts.calls - before.1),
    );
    Ok(())
}
