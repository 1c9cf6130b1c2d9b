//! A running guest: QEMU, the agent's serial port, QMP, and the power switch.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::ops::{Deref, DerefMut};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Error, Image, Result};
use crate::workload::Able;

/// How long a guest may take to boot, or to answer.
const PATIENCE: Duration = Duration::from_secs(120);

/// A disk of a guest whose writes QEMU logs.
#[derive(Debug, Clone)]
pub struct Disk {
    /// The raw image.
    pub image: PathBuf,
    /// Where QEMU's blklogwrites driver logs every write and flush.
    pub log: PathBuf,
}

/// What carries guests out.
#[derive(Debug, Clone, Default)]
pub struct Emulator {
    /// `kvm` or `tcg`; TCG when empty.
    pub accelerator: String,
    /// Another QEMU than the system's: the root of its unpacked packages.
    pub qemu: Option<PathBuf>,
}

impl Emulator {
    /// The program, and where its firmware is.
    #[must_use]
    pub fn command(&self) -> Command {
        let Some(root) = &self.qemu else {
            return Command::new("qemu-system-x86_64");
        };
        let mut command = Command::new(root.join("usr/bin/qemu-system-x86_64"));
        for firmware in ["usr/share/qemu", "usr/share/seabios"] {
            command.arg("-L").arg(root.join(firmware));
        }
        command
    }
}

/// What a guest is to have.
#[derive(Debug, Clone, Default)]
pub struct GuestOptions {
    /// Socket of a vhost-user-fs device, and its tag.
    pub virtiofs: Option<(PathBuf, String)>,
    /// A disk.
    pub disk: Option<Disk>,
    /// Processors, and as many request queues of the vhost-user-fs device; 1 when 0. The guest uses
    /// more than one queue from Linux 6.11 on.
    pub cpus: u32,
    /// Memory in MiB; 512 when 0.
    pub memory_mib: u32,
    /// What carries it out.
    pub emulator: Emulator,
    /// A third serial port, for the agent of a guest within the guest: see [`Guest::inner`].
    pub inner: bool,
    /// Wait at this UNIX socket for a guest that moves here, instead of starting one.
    pub incoming: Option<PathBuf>,
    /// Further arguments of QEMU.
    pub more: Vec<String>,
}

/// A guest's agent, at the other end of a serial port.
pub struct Agent {
    port: BufReader<UnixStream>,
}

/// A guest. Dropping it cuts its power.
pub struct Guest {
    qemu: Child,
    agent: Agent,
    inner: PathBuf,
    qmp: PathBuf,
    console: PathBuf,
}

impl Agent {
    /// Waits for the agent, after a start or a reset. What the one before a reset still said.
    ///
    /// # Errors
    /// When it does not come up in time.
    pub fn wait_ready(&mut self) -> Result<Vec<String>> {
        let mut before = Vec::new();
        loop {
            match self.line() {
                Ok(line) if line.ends_with("ready") => return Ok(before),
                Ok(line) => before.push(line),
                Err(error) => return Err(error),
            }
        }
    }

    /// The agent's next line.
    ///
    /// # Errors
    /// When the guest is gone or silent for too long.
    pub fn line(&mut self) -> Result<String> {
        let mut line = Vec::new();
        match self.port.read_until(b'\n', &mut line) {
            Ok(0) => Err(Error("the guest is gone".into())),
            Ok(_) => Ok(String::from_utf8_lossy(&line).trim_end().to_owned()),
            Err(error) => Err(Error::new("waiting for the guest", error)),
        }
    }

    /// All that a guest that is gone had still said.
    pub fn rest(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.line().ok()).collect()
    }

    /// Bytes that have arrived and were not read: what the guest had said by now.
    ///
    /// # Errors
    /// When the port is broken.
    pub fn unread_bytes(&self) -> Result<u64> {
        let waiting = rustix::io::ioctl_fionread(self.port.get_ref());
        let waiting = waiting.map_err(|error| Error::new("waiting for the guest", error))?;
        Ok(waiting + self.port.buffer().len() as u64)
    }

    /// What the guest's file system at `dir` can do; makes the directory.
    ///
    /// # Errors
    /// When the guest says something else.
    pub fn able(&mut self, dir: &str) -> Result<Able> {
        self.send(&format!("able {dir}"))?;
        let line = self.line()?;
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["able", words @ ..] => Ok(Able::parse(words)),
            _ => Err(Error(line)),
        }
    }

    /// Sends a command.
    ///
    /// # Errors
    /// When the guest is gone.
    pub fn send(&mut self, command: &str) -> Result<()> {
        let sent = writeln!(self.port.get_mut(), "{command}");
        sent.map_err(|error| Error::new("talking to the guest", error))
    }

    /// Sends a command that answers `ok`.
    ///
    /// # Errors
    /// What it answers instead.
    pub fn order(&mut self, command: &str) -> Result<()> {
        self.send(command)?;
        match self.line()?.as_str() {
            "ok" => Ok(()),
            other => Err(Error(format!("{command}: {other}"))),
        }
    }

    /// Runs a shell command in the guest; what it printed.
    ///
    /// # Errors
    /// When it fails, with its output.
    pub fn shell(&mut self, command: &str) -> Result<String> {
        self.send(&format!("sh {command}"))?;
        let mut output = String::new();
        loop {
            let line = self.line()?;
            match line.strip_prefix("exit ") {
                Some("0") => return Ok(output),
                Some(code) => return Err(Error(format!("{command}: exit {code}\n{output}"))),
                None => {
                    output.push_str(line.strip_prefix(' ').unwrap_or(&line));
                    output.push('\n');
                }
            }
        }
    }

    /// All lines up to a `.`.
    ///
    /// # Errors
    /// An `error` line, or a guest that is gone.
    pub fn lines(&mut self, command: &str) -> Result<Vec<String>> {
        self.send(command)?;
        let mut lines = Vec::new();
        loop {
            let line = self.line()?;
            if line == "." {
                return Ok(lines);
            }
            if line.starts_with("error") {
                return Err(Error(format!("{command}: {line}")));
            }
            lines.push(line);
        }
    }

    /// Sets how long [`Guest::line`] waits.
    pub fn set_patience(&mut self, patience: Duration) {
        let _ = self.port.get_ref().set_read_timeout(Some(patience));
    }
}

impl Deref for Guest {
    type Target = Agent;

    fn deref(&self) -> &Agent {
        &self.agent
    }
}

impl DerefMut for Guest {
    fn deref_mut(&mut self) -> &mut Agent {
        &mut self.agent
    }
}

impl Guest {
    /// Starts a guest, with its sockets and console log in `dir`, and waits until its agent
    /// answers.
    ///
    /// # Errors
    /// When QEMU cannot be started or the guest does not come up; with the end of its console.
    pub fn start(dir: &Path, image: &Image, options: &GuestOptions) -> Result<Guest> {
        Self::start_within(dir, image, options, PATIENCE)
    }

    /// As [`Guest::start`], with a limit on how long the agent may take to answer.
    ///
    /// # Errors
    /// As there.
    pub fn start_within(
        dir: &Path,
        image: &Image,
        options: &GuestOptions,
        patience: Duration,
    ) -> Result<Guest> {
        let path = |name: &str| dir.join(name);
        for socket in ["agent", "qmp", "inner-agent"] {
            let _ = std::fs::remove_file(path(socket));
        }
        let memory = if options.memory_mib == 0 {
            512
        } else {
            options.memory_mib
        };
        let cpus = options.cpus.max(1);
        let accelerator = match options.emulator.accelerator.as_str() {
            "" | "tcg" => "tcg,thread=multi",
            other => other,
        };
        let mut command = options.emulator.command();
        if let Some(socket) = &options.incoming {
            command.args(["-incoming", &format!("unix:{}", socket.display())]);
        }
        command
            .args([
                "-accel",
                accelerator,
                "-machine",
                "q35,memory-backend=mem",
                "-cpu",
                "max",
            ])
            .args(["-smp", &cpus.to_string(), "-m", &memory.to_string()])
            .args([
                "-object",
                &format!("memory-backend-memfd,id=mem,size={memory}M,share=on"),
            ])
            .args(["-nodefaults", "-no-user-config", "-display", "none"])
            .args(["-serial", &format!("file:{}", path("console").display())])
            .args([
                "-chardev",
                &format!(
                    "socket,id=agent,path={},server=on,wait=off",
                    path("agent").display()
                ),
            ])
            .args(["-serial", "chardev:agent"])
            .args([
                "-qmp",
                &format!("unix:{},server=on,wait=off", path("qmp").display()),
            ])
            .arg("-kernel")
            .arg(&image.kernel)
            .arg("-initrd")
            .arg(&image.initrd)
            .args([
                "-append",
                "console=ttyS0 quiet panic=-1 tsc=unstable mitigations=off nokaslr",
            ]);
        if options.inner {
            let inner = format!(
                "socket,id=inner,path={},server=on,wait=off",
                path("inner-agent").display()
            );
            command.args(["-chardev", &inner, "-serial", "chardev:inner"]);
        }
        if let Some((socket, tag)) = &options.virtiofs {
            command
                .args([
                    "-chardev",
                    &format!("socket,id=fs,path={}", socket.display()),
                ])
                .args([
                    "-device",
                    &format!(
                        "vhost-user-fs-pci,chardev=fs,tag={tag},queue-size=1024,\
                         num-request-queues={cpus}"
                    ),
                ]);
        }
        if let Some(disk) = &options.disk {
            command
                .args([
                    "-blockdev",
                    &format!(
                        "driver=file,filename={},node-name=image",
                        disk.image.display()
                    ),
                ])
                .args([
                    "-blockdev",
                    &format!("driver=file,filename={},node-name=log", disk.log.display()),
                ])
                .args([
                    "-blockdev",
                    "driver=blklogwrites,file=image,log=log,node-name=logged",
                ])
                .args(["-device", "virtio-blk-pci,drive=logged"]);
        }
        command.args(&options.more);
        let errors = File::create(path("qemu")).map_err(|error| Error::new("qemu log", error))?;
        let qemu = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
            .map_err(|error| {
                Error::new("qemu-system-x86_64 (run scripts/install_deps.sh)", error)
            })?;
        // From here on the guest's end is its drop.
        let mut pending = Pending(Some(qemu));
        let port = connect(&path("agent"), pending.0.as_mut(), &path("qemu"))?;
        let Some(qemu) = pending.0.take() else {
            return Err(Error("qemu is gone".into()));
        };
        let agent = Agent {
            port: BufReader::new(port),
        };
        let mut guest = Guest {
            qemu,
            agent,
            inner: path("inner-agent"),
            qmp: path("qmp"),
            console: path("console"),
        };
        guest.set_patience(patience);
        if options.incoming.is_some() {
            return Ok(guest);
        }
        if let Err(error) = guest.wait_ready() {
            return Err(Error(format!(
                "the guest did not come up: {error}\n{}",
                guest.console()
            )));
        }
        guest.set_patience(PATIENCE);
        Ok(guest)
    }

    /// The end of what the guest's kernel printed.
    fn console(&self) -> String {
        let console = std::fs::read(&self.console).unwrap_or_default();
        let text = String::from_utf8_lossy(&console).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        lines
            .get(lines.len().saturating_sub(20)..)
            .unwrap_or_default()
            .join("\n")
    }

    /// The agent of the guest within this guest, whose QEMU has /dev/ttyS2 as its second serial
    /// port.
    ///
    /// # Errors
    /// When this guest was started without [`GuestOptions::inner`].
    pub fn inner(&self) -> Result<Agent> {
        let port = connect(&self.inner, None, &self.console)?;
        Ok(Agent {
            port: BufReader::new(port),
        })
    }

    /// Cuts the power: the guest ends between two instructions.
    pub fn cut(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }

    /// Gives QEMU a command; what it returns.
    ///
    /// # Errors
    /// When QEMU does not answer, or says that it cannot.
    pub fn qmp(&self, execute: &str, arguments: &Value) -> Result<Value> {
        let failed = |error| Error::new("QMP", error);
        let mut stream = UnixStream::connect(&self.qmp).map_err(failed)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        let mut lines = BufReader::new(stream.try_clone().map_err(failed)?);
        let mut returned = Value::Null;
        for (command, arguments) in [("qmp_capabilities", &json!({})), (execute, arguments)] {
            let ask = json!({ "execute": command, "arguments": arguments });
            writeln!(stream, "{ask}").map_err(failed)?;
            returned = loop {
                let mut line = String::new();
                if lines.read_line(&mut line).map_err(failed)? == 0 {
                    return Err(Error(format!("QMP {command}: the guest is gone")));
                }
                let said: Value = serde_json::from_str(&line).unwrap_or_default();
                match (said.get("return"), said.get("error")) {
                    (Some(returned), _) => break returned.clone(),
                    (_, Some(error)) => return Err(Error(format!("QMP {command}: {error}"))),
                    _ => {}
                }
            };
        }
        Ok(returned)
    }

    /// Presses the reset button, by QMP.
    ///
    /// # Errors
    /// When QEMU does not answer.
    pub fn reset(&mut self) -> Result<()> {
        self.qmp("system_reset", &json!({})).map(drop)
    }

    /// Waits for the end of QEMU.
    ///
    /// # Errors
    /// When it does not end.
    pub fn ends(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            match self.qemu.try_wait() {
                Ok(Some(_)) => return Ok(()),
                Ok(None) => std::thread::sleep(Duration::from_millis(50)),
                Err(error) => return Err(Error::new("waiting for QEMU", error)),
            }
        }
        Err(Error("QEMU does not end".into()))
    }

    /// Powers off in order and waits for the end.
    ///
    /// # Errors
    /// When the guest does not end.
    pub fn power_off(mut self) -> Result<()> {
        self.send("off")?;
        self.ends()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.cut();
    }
}

struct Pending(Option<Child>);

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn connect(path: &Path, qemu: Option<&mut Child>, errors: &Path) -> Result<UnixStream> {
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut qemu = qemu;
    loop {
        if let Ok(stream) = UnixStream::connect(path) {
            let set = stream.set_read_timeout(Some(PATIENCE));
            set.map_err(|error| Error::new("agent's socket", error))?;
            return Ok(stream);
        }
        let ended = qemu
            .as_mut()
            .is_some_and(|qemu| matches!(qemu.try_wait(), Ok(Some(_))));
        if ended || Instant::now() > deadline {
            let text = std::fs::read_to_string(errors).unwrap_or_default();
            return Err(Error(format!("QEMU did not start: {text}")));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
