//! `razorfs mount STORE DIR`: the store on this host, without a guest.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use razorfs::engine::{Durability, OpenOptions};
use razorfs::fs::{CacheMode, FileSystem, Options};
use razorfs::server::Server;
use razorfs::transport::fusedev::{Mount, MountOptions};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

type Error = Box<dyn std::error::Error>;

/// Mounts a store on a directory of this host and serves it until it is unmounted.
///
/// Stays in the foreground. Ends after `umount DIR`, or after SIGINT or SIGTERM, which unmount; a
/// second signal does not wait for files that are still open. Needs root. The kernel passes fsync
/// on here, but not sync and syncfs, which it does for virtiofs only: what is not fsynced is
/// durable after the commit interval, or after unmounting.
#[derive(Debug, Args)]
pub struct MountArgs {
    /// The store's directory.
    store: PathBuf,
    /// Where to mount it.
    dir: PathBuf,
    /// The dataset or snapshot.
    #[arg(long, value_name = "NAME", default_value = "main")]
    dataset: String,
    /// Mount options as mount(8) has them: ro, rw, allow_other, suid, dev, noexec, and others that
    /// change nothing here.
    #[arg(short = 'o', value_delimiter = ',')]
    options: Vec<String>,
    /// Let other users than root use the mount.
    #[arg(long)]
    allow_other: bool,
    /// Mount read-only and write nothing to the store.
    #[arg(long)]
    readonly: bool,
    /// When what was acknowledged is durable.
    #[arg(long, value_enum, default_value = "fsync")]
    durability: DurabilityArg,
    /// Seconds that an acknowledged change stays off the disk at most.
    #[arg(long, default_value_t = 5.0, value_name = "SECONDS")]
    commit_interval: f64,
    /// What the kernel may keep of names, attributes and data.
    #[arg(long, value_enum, default_value = "always")]
    cache: CacheArg,
    /// Let the kernel hold written data back.
    #[arg(long)]
    writeback: bool,
    /// Do not show the dataset's snapshots in it, below .snapshots in its root directory.
    #[arg(long)]
    no_snapshots: bool,
    /// Threads that serve requests: as many fsyncs can wait for one flush together.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: u16,
    /// Accept a store on a file system that does not survive a power cut.
    #[arg(long)]
    allow_volatile: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum DurabilityArg {
    /// Every change, when it is acknowledged.
    Strict,
    /// What fsync or sync returned for.
    Fsync,
    /// At most a commit interval later; fsync does not wait.
    Relaxed,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum CacheArg {
    /// Names and attributes for a second.
    Auto,
    /// Everything for a day.
    Always,
    /// Names and attributes for a day, no data.
    Metadata,
    /// Nothing.
    Never,
}

/// What `-o` said.
struct Flags {
    read_only: bool,
    allow_other: bool,
    suid: bool,
    dev: bool,
    exec: bool,
}

impl MountArgs {
    fn flags(&self) -> Result<Flags, Error> {
        let mut flags = Flags {
            read_only: self.readonly,
            allow_other: self.allow_other,
            suid: false,
            dev: false,
            exec: true,
        };
        for option in &self.options {
            match option.as_str() {
                "ro" => flags.read_only = true,
                "rw" => flags.read_only = false,
                "allow_other" => flags.allow_other = true,
                "suid" => flags.suid = true,
                "nosuid" => flags.suid = false,
                "dev" => flags.dev = true,
                "nodev" => flags.dev = false,
                "exec" => flags.exec = true,
                "noexec" => flags.exec = false,
                "default_permissions" | "defaults" | "noatime" | "relatime" | "async" => {}
                other => return Err(format!("unknown mount option '{other}'").into()),
            }
        }
        Ok(flags)
    }

    fn open_options(&self, read_only: bool) -> Result<OpenOptions, Error> {
        Ok(OpenOptions {
            read_only,
            durability: match self.durability {
                DurabilityArg::Strict => Durability::Strict,
                DurabilityArg::Fsync => Durability::Fsync,
                DurabilityArg::Relaxed => Durability::Relaxed,
            },
            commit_interval: Duration::try_from_secs_f64(self.commit_interval)
                .map_err(|error| format!("--commit-interval: {error}"))?,
            allow_volatile: self.allow_volatile,
            ..OpenOptions::default()
        })
    }

    fn fs_options(&self, read_only: bool) -> Options {
        Options {
            cache: match self.cache {
                CacheArg::Auto => CacheMode::Auto,
                CacheArg::Always => CacheMode::Always,
                CacheArg::Metadata => CacheMode::Metadata,
                CacheArg::Never => CacheMode::Never,
            },
            read_only,
            writeback: self.writeback,
            snapshots: !self.no_snapshots,
            ..Options::default()
        }
    }
}

/// Mounts, serves until unmounted, closes the store.
///
/// # Errors
/// When the store cannot be opened or closed, or the directory cannot be mounted on.
pub fn run(args: &MountArgs) -> Result<(), Error> {
    let flags = args.flags()?;
    let store = crate::open(&args.store, args.open_options(flags.read_only)?)?;
    let volume = store.volume(&args.dataset)?;
    let read_only = flags.read_only || !volume.is_writable();
    let fs = FileSystem::new(Arc::new(volume), args.fs_options(read_only));
    let server = Arc::new(Server::new(fs));
    // Before mounting: from then on a signal must unmount.
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let mount = Arc::new(Mount::new(
        &args.dir,
        &MountOptions {
            source: args.store.display().to_string(),
            allow_other: flags.allow_other,
            read_only: flags.read_only,
            suid: flags.suid,
            dev: flags.dev,
            exec: flags.exec,
            threads: args.threads.into(),
        },
    )?);
    let serving = mount.serve(&server)?;
    log::info!(
        "{} is mounted on {}",
        args.store.display(),
        mount.point().display()
    );

    let (over, is_over) = mpsc::channel();
    let unmounted = over.clone();
    std::thread::spawn(move || {
        serving.wait();
        // Nobody is left to tell when the program ends already.
        let _ = unmounted.send(());
    });
    let signalled = Arc::clone(&mount);
    std::thread::spawn(move || {
        for (count, _) in signals.forever().enumerate() {
            if count > 0 {
                log::warn!("ending with files still open");
                let _ = over.send(());
                return;
            }
            match signalled.unmount() {
                Ok(false) => {}
                Ok(true) => {
                    log::warn!("waiting until all open files are closed; signal again to end now")
                }
                Err(error) => log::error!("unmounting: {error}"),
            }
        }
    });
    is_over.recv()?;
    server.reset();
    store.close()?;
    Ok(())
}
