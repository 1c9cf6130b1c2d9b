//! What a guest boots: a kernel of Debian's and an initial file system made here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Error, Result};

/// One of Debian's kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flavour {
    /// Quick to boot.
    Cloud,
    /// With all that there is: 9p is not in the other.
    Full,
}

impl Flavour {
    /// The package that names the newest.
    fn package(self) -> &'static str {
        match self {
            Flavour::Cloud => "linux-image-cloud-amd64",
            Flavour::Full => "linux-image-amd64",
        }
    }

    /// Where it is kept in the cache.
    fn dir(self) -> &'static str {
        match self {
            Flavour::Cloud => "kernel",
            Flavour::Full => "kernel-full",
        }
    }

    fn modules(self) -> impl Iterator<Item = &'static str> {
        let more: &[&str] = match self {
            Flavour::Cloud => &[],
            Flavour::Full => &MORE_MODULES,
        };
        MODULES.iter().chain(more).copied()
    }
}

/// For file systems that the cloud kernel has built in or not at all.
const MORE_MODULES: [&str; 10] = [
    "lib/crc16.ko",
    "crypto/crc32c_generic.ko",
    "fs/mbcache.ko",
    "fs/jbd2/jbd2.ko",
    "fs/ext4/ext4.ko",
    "fs/netfs/netfs.ko",
    "fs/fscache/fscache.ko",
    "net/9p/9pnet.ko",
    "net/9p/9pnet_virtio.ko",
    "fs/9p/9p.ko",
];

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
        let kernel = unpacked_kernel(cache, Flavour::Cloud)?;
        Self::make_with(dir, kernel, agent, programs, &[])
    }

    /// The same with a kernel that has other file systems to compare with: ext4 and 9p.
    ///
    /// # Errors
    /// As [`Image::make`].
    pub fn make_full(
        dir: &Path,
        cache: &Path,
        agent: &Path,
        programs: &[PathBuf],
    ) -> Result<Image> {
        let kernel = unpacked_kernel(cache, Flavour::Full)?;
        Self::make_with(dir, kernel, agent, programs, &[])
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
        let kernel = unpacked_kernel(cache, Flavour::Cloud)?;
        Self::make_with(dir, kernel, agent, &programs, &files)
    }

    fn make_with(
        dir: &Path,
        kernel: Kernel,
        agent: &Path,
        programs: &[PathBuf],
        files: &[(PathBuf, String)],
    ) -> Result<Image> {
        let root = dir.join("root");
        fs::create_dir_all(dir).map_err(io(dir.display()))?;
        let _ = fs::remove_dir_all(&root);
        for sub in ["bin", "modules", "proc", "sys", "dev", "tmp", "mnt"] {
            fs::create_dir_all(root.join(sub)).map_err(io(sub))?;
        }
        copy(agent, &root.join("init"))?;
        copy(Path::new("/bin/busybox"), &root.join("bin/busybox"))?;
        let mut order = String::new();
        for module in kernel.flavour.modules() {
            let path = kernel.modules.join(module);
            let Some(name) = path.file_name() else {
                continue;
            };
            if unpack_module(&path, &root.join("modules").join(name))? {
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

/// A module that is there, as it is or compressed as newer kernels have it; otherwise false.
fn unpack_module(from: &Path, to: &Path) -> Result<bool> {
    let packed = from.with_extension("ko.xz");
    if from.exists() {
        copy(from, to)?;
    } else if packed.exists() {
        let file = fs::File::create(to).map_err(io(to.display()))?;
        let mut unpack = Command::new("xz");
        let unpack = unpack.args(["--decompress", "--stdout"]).arg(packed);
        run(unpack.stdout(file))?;
    } else {
        return Ok(false);
    }
    Ok(true)
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
    flavour: Flavour,
    image: PathBuf,
    modules: PathBuf,
}

/// The package of the newest kernel.
fn kernel_package(flavour: Flavour) -> Result<String> {
    let newest = flavour.package();
    let depends = run(Command::new("apt-cache").args(["depends", newest]))?;
    let suffix = newest.trim_start_matches("linux-image");
    let found = depends
        .split_whitespace()
        .filter(|word| word.starts_with("linux-image-") && *word != newest)
        .max_by_key(|word| word.ends_with(suffix));
    let none = || Error(format!("apt does not know {newest}: run apt-get update"));
    Ok(found.ok_or_else(none)?.to_owned())
}

/// Debian's newest kernel, downloaded and unpacked once.
fn unpacked_kernel(cache: &Path, flavour: Flavour) -> Result<Kernel> {
    let root = cache.join(flavour.dir());
    if !root.join("boot").exists() {
        fs::create_dir_all(cache).map_err(io(cache.display()))?;
        let package = kernel_package(flavour)?;
        run(Command::new("apt-get")
            .args(["download", "-qq", &package])
            .current_dir(cache))?;
        let deb = fs::read_dir(cache)
            .map_err(io(cache.display()))?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                name.starts_with(&format!("{package}_")) && name.ends_with(".deb")
            })
            .ok_or_else(|| Error(format!("{package} was not downloaded")))?;
        let unpacked = cache.join(format!("{}.new", flavour.dir()));
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
        flavour,
        image: only(root.join("boot"), "vmlinuz")?,
        modules: only(root.join("lib/modules"), "")?.join("kernel"),
    })
}
