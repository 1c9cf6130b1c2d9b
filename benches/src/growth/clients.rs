//! Queues of a guest, and guests of a daemon: what an operation takes of all together, with a
//! thread each that has one request in flight.

use std::path::PathBuf;
use std::sync::Barrier;
use std::time::Instant;

use vm_tests::frontend::fuse::request;
use vm_tests::frontend::fuse::wire::ROOT;

use super::{Curves, Growth, REPEATS, Series, making, resident_mib};
use crate::daemons::{Daemon, Kind, Places};
use crate::driver::{Driver, Message};
use crate::report::median;
use crate::{Error, program_dir, work_dir};

const COUNT: u64 = 2000;
const FILE_BLOCKS: u64 = 256;
const BLOCK: usize = 4096;
const QUEUES_MAX: usize = 4;
const GUESTS_MAX: usize = 8;

/// What one client does, ready to be done.
struct Client {
    driver: Driver,
    dir: u64,
    node: u64,
    fh: u64,
    round: usize,
}

impl Client {
    fn new(mut driver: Driver, number: usize) -> Result<Client, Error> {
        let made = request::mkdir(ROOT, format!("client{number}"), 0o755);
        let dir = driver.call(&made)?.nodeid;
        let (entry, open) = driver.call(&request::create(dir, "file", 0o644))?;
        Ok(Client {
            driver,
            dir,
            node: entry.nodeid,
            fh: open.fh,
            round: 0,
        })
    }

    fn messages(&self, work: &str) -> Vec<Message> {
        let place = |number: u64| number * 7 % FILE_BLOCKS * BLOCK as u64;
        let (node, fh) = (self.node, self.fh);
        let one = |number: u64| match work {
            "lookup" => Message::new(&request::lookup(self.dir, "file")),
            "read 4 KiB" => Message::new(&request::read(node, fh, place(number), 4096)),
            _ => {
                let write = request::write(node, fh, place(number), &[0; BLOCK]);
                Message::write(&write, BLOCK)
            }
        };
        match work {
            "create" => making(
                self.dir,
                (0..COUNT).map(|number| format!("new-{}-{number}", self.round)),
            ),
            _ => (0..COUNT).map(one).collect(),
        }
    }
}

/// Microseconds of an operation, all clients at once.
#[allow(clippy::cast_precision_loss)] // Far below 2^52.
fn together(clients: &mut [Client], work: &str) -> Result<f64, Error> {
    let barrier = Barrier::new(clients.len() + 1);
    let count = clients.len() as f64 * COUNT as f64;
    std::thread::scope(|scope| {
        let barrier = &barrier;
        let threads: Vec<_> = clients
            .iter_mut()
            .map(|client| {
                client.round += 1;
                let messages = client.messages(work);
                let driver = &mut client.driver;
                scope.spawn(move || {
                    barrier.wait();
                    driver.run(&messages, 1)
                })
            })
            .collect();
        barrier.wait();
        let began = Instant::now();
        for thread in threads {
            thread.join().map_err(|_| "a client's thread ended")??;
        }
        Ok(began.elapsed().as_secs_f64() * 1e6 / count)
    })
}

fn costs(curves: &mut Curves, drivers: Vec<Driver>) -> Result<(), Error> {
    let number = drivers.len() as u64;
    let mut clients = (0..)
        .zip(drivers)
        .map(|(number, driver)| Client::new(driver, number))
        .collect::<Result<Vec<_>, _>>()?;
    for work in ["write 4 KiB", "read 4 KiB", "lookup", "create"] {
        let times = (0..REPEATS).map(|_| together(&mut clients, work));
        curves.add(work, number, median(times.collect::<Result<_, _>>()?));
    }
    Ok(())
}

/// A daemon with a store of its own, listening at `guests` sockets.
fn daemon(run: &Growth, guests: usize) -> Result<(Daemon, Vec<PathBuf>, tempfile::TempDir), Error> {
    let dir = work_dir(&run.dir)?;
    let places = Places {
        programs: program_dir(run.programs.as_deref())?,
        virtiofsd: PathBuf::new(),
        dir: dir.path().to_owned(),
        tmpfs: PathBuf::new(),
        cpus: None,
        guest_cache: None,
    };
    let more: Vec<PathBuf> = (1..guests)
        .map(|number| dir.path().join(format!("guest{number}.sock")))
        .collect();
    let daemon = Daemon::start_with(Kind::Razorfs, &places, &more)?;
    let sockets = [daemon.socket.clone()].into_iter().chain(more).collect();
    Ok((daemon, sockets, dir))
}

/// 1 to 4 queues, 1 to 8 guests.
pub fn run(run: &Growth) -> Result<Vec<Series>, Error> {
    let mut queues = Curves::new(
        "An operation of one guest with several queues",
        "queues",
        "us",
    );
    for count in 1..=QUEUES_MAX {
        let (daemon, sockets, _dir) = daemon(run, 1)?;
        for socket in &sockets {
            costs(&mut queues, Driver::connect_queues(socket, count)?)?;
        }
        drop(daemon);
    }
    let mut guests = Curves::new("An operation of several guests of a daemon", "guests", "us");
    let mut memory = Curves::new("Memory of a daemon with several guests", "guests", "MiB");
    let mut count = 1;
    while count <= GUESTS_MAX {
        let (daemon, sockets, _dir) = daemon(run, count)?;
        let drivers = sockets.iter().map(|socket| Driver::connect(socket));
        costs(&mut guests, drivers.collect::<Result<_, _>>()?)?;
        let (own, _) = resident_mib(daemon.pid());
        memory.add("resident, its own", count as u64, own);
        count *= 2;
    }
    let all = [queues, guests, memory].into_iter();
    Ok(all.flat_map(|one| one.all).collect())
}
