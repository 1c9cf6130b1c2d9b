//! vm-tests: boots real guests on razorfs and cuts their power.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use vm_tests::campaign::{self, PROGRAMS, Plan};
use vm_tests::guest::image::run;
use vm_tests::guest::{Emulator, Error, Guest, GuestOptions, Image, Result};
use vm_tests::migration;
use vm_tests::requests;
use vm_tests::services;
use vm_tests::store::{Daemon, check, mkfs, programs};

/// Boots real guests on razorfs and cuts their power.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
    /// Where stores, sockets and logs go; removed and made anew.
    #[arg(long, global = true, default_value = "/var/tmp/razorfs-vm")]
    dir: PathBuf,
    /// Downloaded packages.
    #[arg(long, global = true, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/cache"))]
    cache: PathBuf,
    /// The static build of guest_agent.
    #[arg(long, global = true, default_value = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../target/guest/x86_64-unknown-linux-gnu/release/guest_agent"
    ))]
    agent: PathBuf,
    /// The root of the unpacked packages of another QEMU than the system's. Guests move between hosts with
    /// one only, of at least 8.2.
    #[arg(long, global = true)]
    qemu: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// A guest writes, loses power, and finds its data again.
    Quickstart,
    /// Guests see quotas, snapshots, clones, restored datasets, and what was sent to another store.
    Services,
    /// Guests go on while their daemon is updated, on another host, and after it was killed.
    Migration,
    /// A guest carries out everyday commands; how many requests each takes, by flags of razorfsd.
    Requests {
        /// Flags, as one word; once for each that are to be compared.
        #[arg(long, default_values = ["--cache=auto", ""], allow_hyphen_values = true)]
        flags: Vec<String>,
    },
    /// Rounds of work and power cuts, judged.
    Poweroff {
        /// Rounds.
        #[arg(long, default_value_t = 20)]
        rounds: u32,
        /// Decides everything; random by default.
        #[arg(long)]
        seed: Option<u64>,
        /// Cut the power of the daemon's host instead: an outer guest.
        #[arg(long)]
        host: bool,
        /// Crash images to judge, in all, with --host.
        #[arg(long, default_value_t = 200)]
        images: u32,
        /// With --host, let the last round's client be a guest within the outer guest.
        #[arg(long)]
        nested: bool,
    },
}

/// What carries guests out; says which QEMU and kernel that is.
fn emulator(args: &Args, image: &Image) -> Result<Emulator> {
    let emulator = |accelerator: &str| Emulator {
        accelerator: accelerator.into(),
        qemu: args.qemu.clone(),
    };
    let version = run(emulator("tcg").command().arg("--version"))?;
    let kernel = image.kernel.file_name().unwrap_or_default();
    println!(
        "{}, {}",
        version.lines().next().unwrap_or_default(),
        kernel.display()
    );
    // /dev/kvm alone does not tell: only a guest that comes up does.
    if Path::new("/dev/kvm").exists() {
        let options = GuestOptions {
            emulator: emulator("kvm"),
            ..GuestOptions::default()
        };
        let limit = std::time::Duration::from_secs(8);
        if let Ok(guest) = Guest::start_within(&args.dir, image, &options, limit) {
            drop(guest);
            return Ok(emulator("kvm"));
        }
    }
    Ok(emulator("tcg"))
}

fn prepare(args: &Args, inner: &[PathBuf]) -> Result<Image> {
    let _ = std::fs::remove_dir_all(&args.dir);
    std::fs::create_dir_all(&args.dir).map_err(|error| Error::new(args.dir.display(), error))?;
    Image::make(&args.dir, &args.cache, &args.agent, inner)
}

/// An image whose guest boots a guest.
fn nested_image(args: &Args, programs: &[PathBuf]) -> Result<Image> {
    let (inner, outer) = (args.dir.join("inner"), args.dir.join("outer"));
    let inner = Image::make(&inner, &args.cache, &args.agent, &[])?;
    Image::make_nested(&outer, &args.cache, &args.agent, programs, &inner)
}

fn quickstart(args: &Args) -> Result<bool> {
    println!("== a store, a daemon, a guest");
    let image = prepare(args, &[])?;
    let emulator = emulator(args, &image)?;
    let store = args.dir.join("store");
    mkfs(&store)?;
    let socket = args.dir.join("fs");
    let log = args.dir.join("razorfsd.log");
    let options = GuestOptions {
        virtiofs: Some((socket.clone(), "razorfs".into())),
        emulator,
        ..GuestOptions::default()
    };
    let mut daemon = Daemon::start(&store, std::slice::from_ref(&socket), "razorfs", &log)?;
    let mut guest = Guest::start(&args.dir, &image, &options)?;
    guest.order("mount virtiofs razorfs /mnt")?;
    let show = |guest: &mut Guest, command: &str| -> Result<String> {
        println!("guest# {command}");
        let output = guest.shell(command)?;
        print!("{output}");
        Ok(output)
    };
    show(
        &mut guest,
        "busybox uname -sr; busybox grep razorfs /proc/mounts",
    )?;
    show(
        &mut guest,
        "busybox mkdir /mnt/letters; echo 'what was synced is there' > /mnt/letters/first; busybox dd if=/dev/urandom of=/mnt/letters/big bs=1M count=8 2>/dev/null; busybox sync",
    )?;
    let before = show(
        &mut guest,
        "busybox sha256sum /mnt/letters/first /mnt/letters/big",
    )?;
    println!("== power cut: SIGKILL for the guest and the daemon");
    guest.cut();
    daemon.kill();
    println!("== back again");
    let mut daemon = Daemon::start(&store, std::slice::from_ref(&socket), "razorfs", &log)?;
    let mut guest = Guest::start(&args.dir, &image, &options)?;
    guest.order("mount virtiofs razorfs /mnt")?;
    show(&mut guest, "busybox cat /mnt/letters/first")?;
    let after = show(
        &mut guest,
        "busybox sha256sum /mnt/letters/first /mnt/letters/big",
    )?;
    guest.power_off()?;
    let _ = &mut daemon;
    daemon.stop()?;
    check(&store)?;
    println!("== razorfsck finds nothing wrong");
    println!(
        "{}",
        if before == after {
            "PASS: the data survived the power cut"
        } else {
            "FAIL"
        }
    );
    Ok(before == after)
}

fn real_main(args: &Args) -> Result<bool> {
    match &args.command {
        Command::Quickstart => quickstart(args),
        Command::Services => {
            let image = prepare(args, &[])?;
            let emulator = emulator(args, &image)?;
            let dir = args.dir.clone();
            services::go(&services::Plan {
                dir,
                image,
                emulator,
            })?;
            println!("PASS");
            Ok(true)
        }
        Command::Migration => {
            let image = prepare(args, &[])?;
            let emulator = emulator(args, &image)?;
            migration::go(&migration::Plan {
                dir: args.dir.clone(),
                image,
                emulator,
            })?;
            println!("PASS");
            Ok(true)
        }
        Command::Requests { flags } => {
            let image = prepare(args, &[])?;
            let emulator = emulator(args, &image)?;
            for flags in flags {
                println!("razorfsd {flags}");
                let flags: Vec<_> = flags.split_whitespace().collect();
                for row in requests::count(&args.dir, &image, &emulator, &flags)? {
                    println!("{row}");
                }
            }
            Ok(true)
        }
        Command::Poweroff {
            rounds,
            seed,
            host,
            images,
            nested,
        } => {
            let seed = seed.unwrap_or_else(rand::random);
            println!("seed {seed}");
            let summary = if *host {
                let inner = ["razorfs", "razorfsd"].map(|name| programs().join(name));
                let image = prepare(args, &inner)?;
                let nested = nested.then(|| nested_image(args, &inner)).transpose()?;
                vm_tests::host::run(&vm_tests::host::Plan {
                    dir: args.dir.clone(),
                    image,
                    nested,
                    rounds: *rounds,
                    images: *images,
                    seed,
                })?
            } else {
                let image = prepare(args, &PROGRAMS.map(PathBuf::from))?;
                let emulator = emulator(args, &image)?;
                let dir = args.dir.clone();
                campaign::run(&Plan {
                    rounds: *rounds,
                    seed,
                    dir,
                    image,
                    emulator,
                })?
            };
            println!("{summary}");
            Ok(summary.is_good())
        }
    }
}

fn main() -> ExitCode {
    match real_main(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}
