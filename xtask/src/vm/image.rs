//! The initramfs: busybox, programs with their libraries, modules, and an init that runs one
//! command.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use super::{BEGIN, EXIT, Guest, modules};
use crate::{command, setup::kernels::Kernel};

/// Merged, as on Debian, so that a program is found by either name.
const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];
const DIRECTORIES: [&str; 12] = [
    "proc",
    "sys",
    "dev",
    "tmp",
    "run",
    "root",
    "etc",
    "var/log/nginx",
    "var/tmp",
    "var/lib/nginx",
    "modules",
    "busybox",
];

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n\
                      www-data:x:33:33:www-data:/:/bin/false\n";
const GROUP: &str = "root:x:0:\nnogroup:x:65534:\nnobody:x:65533:\nwww-data:x:33:\n";

/// Packs the guest into `directory` and returns the archive.
pub(super) fn pack(guest: &Guest, kernel: &Kernel, directory: &Path) -> Result<PathBuf> {
    let root = directory.join("root");
    make_skeleton(&root)?;
    for (host, inside) in &guest.programs {
        copy(host, &root, inside)?;
        strip(&root.join(inside.strip_prefix("/").unwrap_or(inside)));
        for library in libraries(host)? {
            copy(&library, &root, &library)?;
        }
    }
    for (host, inside) in &guest.files {
        copy_tree(host, &root, inside)?;
    }
    for (index, module) in
        modules::with_dependencies(&kernel.modules, &guest.modules)?.iter().enumerate()
    {
        let file = root.join(format!("modules/{index:03}.ko"));
        fs::write(&file, module).with_context(|| format!("write {}", file.display()))?;
    }
    write_program(&root.join("command"), &guest.command)?;
    write_program(&root.join("init"), &init())?;

    let archive = directory.join("initramfs");
    let pack = "cd \"$1\" && find . | cpio --quiet -o -H newc > \"$2\"";
    command::run_aside(Command::new("sh").args(["-c", pack, "pack"]).arg(&root).arg(&archive))?;
    Ok(archive)
}

/// The first process. The kernel's console is its stdin, stdout and stderr.
fn init() -> String {
    format!(
        "#!/busybox/busybox sh
export PATH=/bin:/sbin:/busybox HOME=/root
/busybox/busybox --install -s /busybox
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm /run/netns
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
mount -t bpf bpf /sys/fs/bpf
mount -t tracefs tracefs /sys/kernel/tracing
ln -sf /proc/self/fd /dev/fd
for module in /modules/*.ko; do
    [ -e \"$module\" ] && {{ insmod \"$module\" || echo \"cannot load $module\"; }}
done
ifconfig lo up
echo '{BEGIN}'
/bin/sh /command
echo \"{EXIT}$?\"
reboot -f
"
    )
}

fn make_skeleton(root: &Path) -> Result<()> {
    for name in MERGED {
        let real = root.join("usr").join(name);
        fs::create_dir_all(&real).with_context(|| format!("make {}", real.display()))?;
        symlink(format!("usr/{name}"), root.join(name)).with_context(|| format!("link {name}"))?;
    }
    for name in DIRECTORIES {
        fs::create_dir_all(root.join(name)).with_context(|| format!("make {name}"))?;
    }
    fs::write(root.join("etc/passwd"), PASSWD).context("write passwd")?;
    fs::write(root.join("etc/group"), GROUP).context("write group")?;
    fs::write(root.join("etc/hosts"), "127.0.0.1 localhost\n").context("write hosts")
}

/// Takes debug information out of a copied program: nine tenths of it, which the emulated processor
/// would unpack. Without `strip`, or where it refuses, the program serves as it is.
fn strip(program: &Path) {
    let mut strip = Command::new("strip");
    let _ = strip
        .arg("--strip-debug")
        .arg(program)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
}

/// Lists the shared libraries and the loader of a program; none if it is static.
fn libraries(program: &Path) -> Result<BTreeSet<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("run ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        !text.contains("=> not found"),
        "{} lacks a shared library:\n{text}",
        program.display()
    );
    // `NAME => PATH (ADDRESS)`, or `PATH (ADDRESS)` for the loader.
    let paths = text.lines().filter_map(|line| {
        let (place, _) = line.rsplit_once(" (")?;
        let path = place.rsplit("=> ").next()?.trim();
        path.starts_with('/').then(|| PathBuf::from(path))
    });
    Ok(paths.collect())
}

fn copy_tree(host: &Path, root: &Path, inside: &Path) -> Result<()> {
    if !host.is_dir() {
        return copy(host, root, inside);
    }
    let entries = fs::read_dir(host).with_context(|| format!("list {}", host.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("list {}", host.display()))?;
        copy_tree(&entry.path(), root, &inside.join(entry.file_name()))?;
    }
    Ok(())
}

fn copy(host: &Path, root: &Path, inside: &Path) -> Result<()> {
    let target = root.join(inside.strip_prefix("/").unwrap_or(inside));
    if let Some(directory) = target.parent() {
        fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    }
    fs::copy(host, &target)
        .with_context(|| format!("copy {} for the virtual machine", host.display()))?;
    Ok(())
}

fn write_program(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    fs::set_permissions(path, PermissionsExt::from_mode(0o755))
        .with_context(|| format!("mark {}", path.display()))
}
