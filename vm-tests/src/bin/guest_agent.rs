//! The guest's init: makes the guest ready, then does what the host says over the second serial
//! port, one line a command, one line (or more, then `.`) an answer.
//!
//! | command | does |
//! | --- | --- |
//! | `sh COMMAND` | runs it by busybox; its output, then `exit N` |
//! | `mount KIND SOURCE DIR` | mounts |
//! | `able DIR` | makes it; the words for `run` that say what its file system has not, perhaps none |
//! | `run SEED COUNT DIR [no-sync] [no-unnamed]` | the workload: `S id` before, `D id` after each operation, `ok` at the end |
//! | `dump SEED DIR` | a line a path, then `.` |
//! | `off` | powers off |

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::Command;

use rustix::mount::MountFlags;
use rustix::system::RebootCommand;
use vm_tests::workload::Able;
use vm_tests::{execute, workload};

fn mount(kind: &str, source: &str, dir: &str) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let none: Option<&std::ffi::CStr> = None;
    Ok(rustix::mount::mount(
        source,
        dir,
        kind,
        MountFlags::empty(),
        none,
    )?)
}

/// Loads the modules that /modules/order lists.
fn load_modules() -> io::Result<()> {
    for name in fs::read_to_string("/modules/order")?.lines() {
        let file = File::open(Path::new("/modules").join(name))?;
        let parameters = CString::default();
        match rustix::system::finit_module(&file, &parameters, 0) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => eprintln!("agent: module {name}: {error}"),
        }
    }
    Ok(())
}

fn prepare() -> io::Result<File> {
    for (kind, dir) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        mount(kind, "none", dir)?;
    }
    mount("tmpfs", "none", "/tmp")?;
    load_modules()?;
    let port = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/ttyS1")?;
    let mut modes = rustix::termios::tcgetattr(&port)?;
    modes.make_raw();
    rustix::termios::tcsetattr(&port, rustix::termios::OptionalActions::Now, &modes)?;
    Ok(port)
}

fn able(dir: &Path, port: &mut File) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let able = Able {
        // Nothing tells: it returns in any case.
        sync: true,
        unnamed: execute::can_unnamed(dir),
    };
    writeln!(port, "able{}", able.words())
}

fn run(words: &[&str], port: &mut File) -> io::Result<()> {
    let [seed, count, dir, lacking @ ..] = words else {
        return writeln!(port, "error usage");
    };
    let (Ok(seed), Ok(count)) = (seed.parse(), count.parse()) else {
        return writeln!(port, "error usage");
    };
    fs::create_dir_all(dir)?;
    // The workload's own directory is not part of what is judged.
    let dir = Path::new(dir);
    for made in [Some(dir), dir.parent()].into_iter().flatten() {
        File::open(made)?.sync_all()?;
    }
    let ops = workload::plan(seed, count, Able::parse(lacking));
    for (id, op) in (1..).zip(&ops) {
        writeln!(port, "S {id}")?;
        if let Err(error) = execute::execute(dir, seed, id, op) {
            return writeln!(port, "error operation {id} {op:?}: {error}");
        }
        writeln!(port, "D {id}")?;
    }
    writeln!(port, "ok")
}

fn dump(words: &[&str], port: &mut File) -> io::Result<()> {
    let [seed, dir] = words else {
        return writeln!(port, "error usage");
    };
    match execute::dump(Path::new(dir), seed.parse().unwrap_or(0)) {
        Ok(tree) => {
            for (path, found) in &tree {
                writeln!(port, "{}", workload::dump_line(path, found))?;
            }
            writeln!(port, ".")
        }
        Err(error) => writeln!(port, "error {error}"),
    }
}

fn shell(command: &str, port: &mut File) -> io::Result<()> {
    let output = Command::new("/bin/busybox")
        .args(["sh", "-c", command])
        .output()?;
    for line in [output.stdout, output.stderr]
        .concat()
        .split(|byte| *byte == b'\n')
    {
        if !line.is_empty() {
            writeln!(port, " {}", String::from_utf8_lossy(line))?;
        }
    }
    writeln!(port, "exit {}", output.status.code().unwrap_or(-1))
}

fn serve(mut port: File) -> io::Result<()> {
    let mut lines = BufReader::new(port.try_clone()?);
    writeln!(port, "ready")?;
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let line = line.trim();
        let words: Vec<&str> = line.split_whitespace().collect();
        let result = match words.as_slice() {
            ["sh", ..] => shell(line.trim_start_matches("sh "), &mut port),
            ["mount", kind, source, dir] => match mount(kind, source, dir) {
                Ok(()) => writeln!(port, "ok"),
                Err(error) => writeln!(port, "error mounting {source}: {error}"),
            },
            ["run", words @ ..] => run(words, &mut port),
            ["able", dir] => able(Path::new(dir), &mut port),
            ["dump", words @ ..] => dump(words, &mut port),
            ["off"] => {
                rustix::fs::sync();
                return Ok(());
            }
            _ => writeln!(port, "error unknown command {line}"),
        };
        if let Err(error) = result {
            writeln!(port, "error {error}")?;
        }
    }
}

fn main() {
    if let Err(error) = prepare().and_then(serve) {
        eprintln!("agent: {error}");
    }
    let _ = rustix::system::reboot(RebootCommand::PowerOff);
}
