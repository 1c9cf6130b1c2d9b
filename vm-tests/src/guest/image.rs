//! What a guest boots: Debian's cloud kernel and an initial file system made here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Error, Result};

/// Modules a guest needs when its kernel does not have them built in, in the order of loading.
const MODULES: [&str; 8] = [
    "drivers/virtio/virtio_ring.ko",
    "drivers/virtio/virtio.ko",
    "drivers/virtio/virtio_pci_legacy_dev.ko",
    "drivers/virtio/virtio_pci_modern_dev.ko",
    "drivers/virtio/virtio_pci.ko",
    "drivers/block/virtio_blk.ko",
    "fs/fuse/fuse.ko",
    "fs/fuse/virtiofs.ko",
];

/// A kernel and an initial file system.
#[derive(Debug, Clone)]
pub struct Image {
    /// The kernel.
    pub kernel: PathBuf,
    /// The initial file system.
    pub initrd: PathBuf,
}

/// Runs a command; its output.
///
/// # Errors
/// When it cannot be started or fails, with what it printed.
pub fn run(command: &mut Command) -> Result<String> {
    let name = format!("{command:?}");
    let output = command.output().map_err(|error| Error::new(&name, error))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let text = [output.stdout, output.stderr].concat();
    Err(Error::new(name, String::from_utf8_lossy(&text)))
}

fn io(doing: impl std::fmt::Display) -> impl FnOnce(std::io::Error) -> Error {
    move |error| Error::new(doing, error)
}

impl Image {
    /// Makes an image in `dir`, from Debian's packages (kept in `cache`) and the static program
    /// `agent`; `programs` are put into /bin with the libraries they need.
    ///
    /// # Errors
    /// When a package cannot be had or a tool is missing: run scripts/install_deps.sh.
    pub fn make(dir: &Path, cache: &Path, agent: &Path, programs: &[PathBuf]) -> Result<Image> {
        Self::make_with(dir, cache, agent, programs, &[])
    }

    /// An image whose guest can boot `inner` in a guest of its own: with QEMU in /bin, its firmware
    /// in /qemu, and /inner/kernel and /inner/initrd.
    ///
    /// # Errors
    /// As [`Image::make`].
    pub fn make_nested(
        dir: &Path,
        cache: &Path,
        agent: &Path,
        programs: &[PathBuf],
        inner: &Image,
    ) -> Result<Image> {
        let mut programs = programs.to_vec();
        programs.push("/usr/bin/qemu-system-x86_64".into());
        let mut files = vec![
            (inner.kernel.clone(), "inner/kernel".into()),
            (inner.initrd.clone(), "inner/initrd".into()),
        ];
        for firmware in ["bios-256k.bin", "kvmvapic.bin", "linuxboot_dma.bin"] {
            let found = ["/usr/share/qemu", "/usr/share/seabios"]
                .map(|dir| Path::new(dir).join(firmware))
                .into_iter()
                .find(|path| path.exists());
            files.extend(found.map(|path| (path, format!("qemu/{firmware}"))));
        }
        // QEMU loads its emulator from here, where Debian has it apart; looked for beside /bin,
        // where QEMU lies in the image.
        let emulator = "lib/x86_64-linux-gnu/qemu/accel-tcg-x86_64.so";
        let path = Path::new("/usr").join(emulator);
        if path.exists() {
            files.push((path, emulator.into()));
        }
        Self::make_with(dir, cache, agent, &programs, &files)
    }

    fn make_with(
        dir: &Path,
        cache: &Path,
        agent: &Path,
        programs: &[PathBuf],
        files: &[(PathBuf, String)],
    ) -> Result<Image> {
        let kernel = unpacked_kernel(cache)?;
        let root = dir.join("root");
        fs::create_dir_all(dir).map_err(io(dir.display()))?;
        let _ = fs::remove_dir_all(&root);
        for sub in ["bin", "modules", "proc", "sys", "dev", "tmp", "mnt"] {
            fs::create_dir_all(root.join(sub)).map_err(io(sub))?;
        }
        copy(agent, &root.join("init"))?;
        copy(Path::new("/bin/busybox"), &root.join("bin/busybox"))?;
        let mut order = String::new();
        for module in MODULES {
            let path = kernel.modules.join(module);
            let Some(name) = path.file_name() else {
                continue;
            };
            if path.exists() {
                copy(&path, &root.join("modules").join(name))?;
                order.push_str(&format!("{}\n", name.to_string_lossy()));
            }
        }
        fs::write(root.join("modules/order"), order).map_err(io("modules/order"))?;
        for program in programs {
            add_program(&root, program)?;
        }
        for (file, target) in files {
            let target = root.join(target);
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent).map_err(io(parent.display()))?;
            }
            copy(file, &target)?;
        }
        let initrd = dir.join("initrd.cpio");
        let pack = "find . | cpio --quiet -o -H newc -R 0:0";
        let output = fs::File::create(&initrd).map_err(io("initrd.cpio"))?;
        let status = Command::new("sh")
            .args(["-c", pack])
            .current_dir(&root)
            .stdout(output)
            .status()
            .map_err(io("packing the initial file system"))?;
        if !status.success() {
            return Err(Error("cpio failed: run scripts/install_deps.sh".into()));
        }
        Ok(Image {
            kernel: kernel.image,
            initrd,
        })
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let copied = fs::copy(from, to);
    copied
        .map(|_| ())
        .map_err(|error| Error::new(from.display(), error))
}

/// Adds a program with the shared libraries it needs, at the same paths.
fn add_program(root: &Path, program: &Path) -> Result<()> {
    let name = program.file_name().unwrap_or_default();
    copy(program, &root.join("bin").join(name))?;
    let libraries = run(Command::new("ldd").arg(program))?;
    for word in libraries
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
    {
        let target = root.join(word.trim_start_matches('/'));
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).map_err(io(word))?;
        }
        copy(Path::new(word), &target)?;
    }
    Ok(())
}

struct Kernel {
    image: PathBuf,
    modules: PathBuf,
}

/// Debian's newest cloud kernel, downloaded and unpacked once.
fn unpacked_kernel(cache: &Path) -> Result<Kernel> {
    let root = cache.join("kernel");
    if !root.join("boot").exists() {
        fs::create_dir_all(cache).map_err(io(cache.display()))?;
        let depends = run(Command::new("apt-cache").args(["depends", "linux-image-cloud-amd64"]))?;
        let package = depends
            .split_whitespace()
            .find(|word| word.starts_with("linux-image-") && word.ends_with("-cloud-amd64"))
            .filter(|word| *word != "linux-image-cloud-amd64")
            .or_else(|| {
                depends
                    .split_whitespace()
                    .find(|word| word.starts_with("linux-image-6"))
            })
            .ok_or_else(|| Error("apt knows no cloud kernel: run apt-get update".into()))?
            .to_owned();
        run(Command::new("apt-get")
            .args(["download", "-qq", &package])
            .current_dir(cache))?;
        let deb = fs::read_dir(cache)
            .map_err(io(cache.display()))?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                name.starts_with(&package) && name.ends_with(".deb")
            })
            .ok_or_else(|| Error(format!("{package} was not downloaded")))?;
        let unpacked = cache.join("kernel.new");
        let _ = fs::remove_dir_all(&unpacked);
        run(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&unpacked))?;
        fs::rename(&unpacked, &root).map_err(io(root.display()))?;
    }
    let only = |dir: PathBuf, prefix: &str| -> Result<PathBuf> {
        fs::read_dir(&dir)
            .map_err(|error| Error::new(dir.display(), error))?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| {
                path.file_name()
                    .is_some_and(|name| name.to_string_lossy().starts_with(prefix))
            })
            .ok_or_else(|| Error(format!("nothing like {prefix} in {}", dir.display())))
    };
    Ok(Kernel {
        image: only(root.join("boot"), "vmlinuz")?,
        modules: only(root.join("lib/modules"), "")?.join("kernel"),
    })
}
