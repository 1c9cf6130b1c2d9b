//! The guest's init: makes the guest ready, then does what the host says over the second serial
//! port, one line a command, one line (or more, then `.`) an answer.
//!
//! | command | does |
//! | --- | --- |
//! | `sh COMMAND` | runs it by busybox; its output, then `exit N` |
//! | `mount KIND SOURCE DIR [OPTIONS]` | mounts |
//! | `measure WORK DIR COUNT` | a workload of the benchmark: nanoseconds and operations |
//! | `able DIR` | makes it; the words for `run` that say what its file system has not, perhaps none |
//! | `run SEED COUNT DIR [no-sync] [no-unnamed]` | the workload: `S id` before, `D id` after each operation, `ok` at the end |
//! | `dump SEED DIR` | a line a path, then `.` |
//! | `found SEED DIR APP...` | checks applications below DIR: for each `APP STEP`, or `APP` and what is wrong; then `.` |
//! | `apps SEED DIR APP...` | lets those that are sound go on, in the background: `A APP STEP` when a step is durable, `E APP` and an error |
//! | `off` | powers off |

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::mount::MountFlags;
use rustix::system::RebootCommand;
use vm_tests::apps::Work;
use vm_tests::workload::Able;
use vm_tests::{apps, execute, measure, workload};

fn mount(kind: &str, source: &str, dir: &str, options: &str) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let options = CString::new(options)?;
    let flags = MountFlags::empty();
    Ok(rustix::mount::mount(
        source,
        dir,
        kind,
        flags,
        options.as_c_str(),
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
        mount(kind, "none", dir, "")?;
    }
    mount("tmpfs", "none", "/tmp", "")?;
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

fn measured(work: &str, dir: &Path, count: &str, port: &mut File) -> io::Result<()> {
    let Ok(count) = count.parse() else {
        return writeln!(port, "error usage");
    };
    match measure::run(work, dir, count) {
        Ok(took) => writeln!(port, "took {} {}", took.time.as_nanos(), took.operations),
        Err(error) => writeln!(port, "error {work}: {error}"),
    }
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

/// Applications as this guest found them.
#[derive(Default)]
struct Apps {
    found: HashMap<String, u64>,
}

/// The words of `found` and `apps`: seed, directory, names.
fn app_words<'a>(words: &'a [&'a str]) -> Option<(u64, PathBuf, &'a [&'a str])> {
    let [seed, dir, names @ ..] = words else {
        return None;
    };
    Some((seed.parse().ok()?, PathBuf::from(dir), names))
}

impl Apps {
    fn check(&mut self, words: &[&str], port: &mut File) -> io::Result<()> {
        let Some((seed, dir, names)) = app_words(words) else {
            return writeln!(port, "error usage");
        };
        for app in apps::all().iter().filter(|app| names.contains(&app.name())) {
            let dir = dir.join(app.name());
            fs::create_dir_all(&dir)?;
            let work = Work { dir: &dir, seed };
            match app.check(&work) {
                Ok(step) => {
                    self.found.insert(app.name().into(), step);
                    writeln!(port, "{} {step}", app.name())?;
                }
                Err(reason) => {
                    writeln!(port, "{} {}", app.name(), reason.replace('\n', " | "))?;
                }
            }
        }
        writeln!(port, ".")
    }

    fn start(&self, words: &[&str], port: &mut File) -> io::Result<()> {
        let Some((seed, dir, names)) = app_words(words) else {
            return writeln!(port, "error usage");
        };
        // The directories are not what is judged.
        rustix::fs::syncfs(File::open(&dir)?)?;
        writeln!(port, "ok")?;
        for app in apps::all()
            .into_iter()
            .filter(|app| names.contains(&app.name()))
        {
            let Some(from) = self.found.get(app.name()).copied() else {
                continue;
            };
            let (dir, mut port) = (dir.join(app.name()), port.try_clone()?);
            std::thread::spawn(move || {
                let name = app.name();
                let mut said = port.try_clone();
                // One write a line: lines of several threads do not mix.
                let mut done = |step| match &mut said {
                    Ok(port) => match port.write_all(format!("A {name} {step}\n").as_bytes()) {
                        Ok(()) => ControlFlow::Continue(()),
                        Err(_) => ControlFlow::Break(()),
                    },
                    Err(_) => ControlFlow::Break(()),
                };
                if let Err(error) = app.run(&Work { dir: &dir, seed }, from, &mut done) {
                    let error = error.to_string().replace('\n', " | ");
                    let _ = port.write_all(format!("E {name} {error}\n").as_bytes());
                }
            });
        }
        Ok(())
    }
}

fn serve(mut port: File) -> io::Result<()> {
    let mut apps = Apps::default();
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
            ["mount", kind, source, dir, options @ ..] => {
                match mount(kind, source, dir, &options.join(",")) {
                    Ok(()) => writeln!(port, "ok"),
                    Err(error) => writeln!(port, "error mounting {source}: {error}"),
                }
            }
            ["measure", work, dir, count] => measured(work, Path::new(dir), count, &mut port),
            ["run", words @ ..] => run(words, &mut port),
            ["able", dir] => able(Path::new(dir), &mut port),
            ["dump", words @ ..] => dump(words, &mut port),
            ["found", words @ ..] => apps.check(words, &mut port),
            ["apps", words @ ..] => apps.start(words, &mut port),
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
