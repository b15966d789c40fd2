//! Which compiler and linker make the eBPF object.
//!
//! Compiled twice: into `steer-user/build.rs`, which uses what is there, and into xtask, whose
//! `setup` provides what is missing. Hence the standard library only.

use std::{
    env,
    ffi::OsString,
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Names a ready eBPF object: nothing is compiled.
pub(crate) const OBJECT_VAR: &str = "STEER_BPF_OBJECT";
/// Names the compiler; it must have its library source.
pub(crate) const RUSTC_VAR: &str = "STEER_BPF_RUSTC";
/// Names the linker; it must read the bitcode of the compiler's LLVM.
pub(crate) const LINKER_VAR: &str = "STEER_BPF_LINKER";

/// Oldest usable compiler, `rust-version` of the workspace.
const OLDEST_RUSTC: (u32, u32) = (1, 90);

/// Where Debian's packages put a compiler.
const DEBIAN: &str = "/usr";

/// A compiler and the linker that reads its bitcode.
pub(crate) struct Toolchain {
    pub(crate) compiler: Compiler,
    pub(crate) linker: PathBuf,
}

/// A Rust compiler that can build `core` for the eBPF target.
pub(crate) struct Compiler {
    pub(crate) rustc: PathBuf,
    /// The cargo that came with the compiler; Debian's comes without.
    cargo: Option<PathBuf>,
    /// Major version of the LLVM inside.
    pub(crate) llvm: u32,
}

/// Why no eBPF object can be built.
pub(crate) enum Missing {
    /// [`RUSTC_VAR`] names something that does not serve; the sentence says why.
    NamedCompiler(String),
    /// No compiler with library source.
    Compiler,
    /// This compiler would serve, but no linker reads its bitcode.
    Linker(Compiler),
}

/// Chooses compiler and linker for the workspace at `root`: the compiler named by the environment,
/// else the first rustup toolchain that has rust-src and a matching linker, else Debian's.
pub(crate) fn choose(root: &Path) -> Result<Toolchain, Missing> {
    let mut without_linker = None;
    for compiler in compilers()? {
        match linker_for(root, &compiler) {
            Some(linker) => return Ok(Toolchain { compiler, linker }),
            None => without_linker = without_linker.or(Some(compiler)),
        }
    }
    Err(without_linker.map_or(Missing::Compiler, Missing::Linker))
}

impl Toolchain {
    /// Starts a cargo command line for the package `steer-ebpf`, deaf to the settings of the cargo
    /// that runs us.
    ///
    /// `arch` is the machine the programs run on (`x86_64`), `endian` is `little` or `big`.
    pub(crate) fn cargo(
        &self,
        root: &Path,
        verb: &str,
        arch: &str,
        endian: &str,
        target_dir: &Path,
    ) -> Command {
        let cargo = self.compiler.cargo.clone().map(PathBuf::into_os_string);
        let mut command =
            Command::new(cargo.or_else(|| env::var_os("CARGO")).unwrap_or_else(|| "cargo".into()));
        command
            .current_dir(root)
            .args([
                verb,
                "--package",
                "steer-ebpf",
                "--bins",
                "--release",
                "--locked",
                "-Zbuild-std=core",
            ])
            .args(["--target", bpf_target(endian)])
            .arg("--target-dir")
            .arg(target_dir)
            .env("RUSTC", &self.compiler.rustc)
            .env("RUSTC_BOOTSTRAP", "1")
            // Empty rather than removed: a wrapper in the user's cargo configuration is for another
            // compiler.
            .env("RUSTC_WRAPPER", "")
            .env("RUSTC_WORKSPACE_WRAPPER", "")
            .env("CARGO_ENCODED_RUSTFLAGS", self.flags(arch));
        for name in
            ["RUSTFLAGS", "RUSTUP_TOOLCHAIN", "CARGO_TARGET_DIR", "CARGO_BUILD_TARGET", "RUSTDOC"]
        {
            command.env_remove(name);
        }
        command
    }

    fn flags(&self, arch: &str) -> OsString {
        let mut flags = OsString::from(format!("--cfg=bpf_target_arch=\"{arch}\""));
        for flag in [
            "-Cdebuginfo=2",
            "-Clink-arg=--btf",
            "-Clink-arg=--disable-expand-memcpy-in-order",
            "-Ctarget-cpu=v3",
        ] {
            flags.push("\x1f");
            flags.push(flag);
        }
        flags.push("\x1f-Clinker=");
        flags.push(&self.linker);
        flags
    }
}

/// The compiler's name for the eBPF machine of this byte order.
pub(crate) fn bpf_target(endian: &str) -> &'static str {
    if endian == "big" { "bpfeb-unknown-none" } else { "bpfel-unknown-none" }
}

/// Returns the usable compilers, best first; empty if there is none.
fn compilers() -> Result<Vec<Compiler>, Missing> {
    if let Some(named) = env::var_os(RUSTC_VAR) {
        let compiler = Compiler::named(Path::new(&named)).map_err(Missing::NamedCompiler)?;
        return Ok(vec![compiler]);
    }
    let sysroots = rustup_toolchains().into_iter().chain([PathBuf::from(DEBIAN)]);
    Ok(sysroots.filter_map(|sysroot| Compiler::at(&sysroot).ok()).collect())
}

/// Lists the directories of rustup's toolchains, the active one first.
fn rustup_toolchains() -> Vec<PathBuf> {
    let home = env::var_os("RUSTUP_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".rustup")));
    let Some(entries) = home.and_then(|home| fs::read_dir(home.join("toolchains")).ok()) else {
        return Vec::new();
    };
    let mut toolchains: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    let active = env::var_os("RUSTUP_TOOLCHAIN");
    toolchains.sort_by_key(|path| (path.file_name() != active.as_deref(), path.clone()));
    toolchains
}

impl Compiler {
    fn named(rustc: &Path) -> Result<Self, String> {
        let sysroot =
            output(Command::new(rustc).args(["--print", "sysroot"])).ok_or_else(|| {
                format!("cannot run the compiler {} that {RUSTC_VAR} names", rustc.display())
            })?;
        Self::at(Path::new(sysroot.trim())).map_err(|why| {
            format!("the compiler {} that {RUSTC_VAR} names does not serve: {why}", rustc.display())
        })
    }

    fn at(sysroot: &Path) -> Result<Self, String> {
        if !sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml").is_file() {
            return Err(format!("{} has no library source (rust-src)", sysroot.display()));
        }
        let rustc = sysroot.join("bin/rustc");
        let version = output(Command::new(&rustc).arg("-vV"))
            .ok_or_else(|| format!("cannot run {}", rustc.display()))?;
        let release =
            major_minor(field(&version, "release:")).ok_or("its version is not understood")?;
        if release < OLDEST_RUSTC {
            let (major, minor) = OLDEST_RUSTC;
            return Err(format!("it is older than {major}.{minor}"));
        }
        let (llvm, _) = major_minor(field(&version, "LLVM version:"))
            .ok_or("it does not tell its LLVM version")?;
        let cargo = Some(sysroot.join("bin/cargo"))
            .filter(|cargo| sysroot != Path::new(DEBIAN) && cargo.is_file());
        Ok(Self { rustc, cargo, llvm })
    }

    /// Tells whether packages brought it.
    pub(crate) fn is_debian(&self) -> bool {
        self.rustc.starts_with(DEBIAN)
    }

    /// The clippy beside it: they must be of one version.
    pub(crate) fn linter(&self) -> Option<PathBuf> {
        Some(self.rustc.with_file_name("clippy-driver")).filter(|linter| linter.is_file())
    }
}

fn field<'a>(text: &'a str, name: &str) -> &'a str {
    text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim()
}

fn major_minor(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// Where `cargo xtask setup` puts the tools that it builds.
pub(crate) fn tools_dir(root: &Path) -> PathBuf {
    root.join("target/tools")
}

/// Where `cargo xtask setup` puts the linker.
pub(crate) fn own_linker(root: &Path) -> PathBuf {
    tools_dir(root).join("bin/bpf-linker")
}

/// Finds a linker for the compiler's bitcode: the one named by the environment, ours, or one in
/// PATH.
///
/// A named linker is trusted unless it shows another LLVM; one in PATH must show that it has the
/// same.
fn linker_for(root: &Path, compiler: &Compiler) -> Option<PathBuf> {
    if let Some(named) = env::var_os(LINKER_VAR).map(PathBuf::from) {
        let fits = llvm_of(&named).is_none_or(|llvm| llvm.major == compiler.llvm);
        return Some(named).filter(|_| fits);
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let in_path = env::split_paths(&path).map(|directory| directory.join("bpf-linker"));
    [own_linker(root)]
        .into_iter()
        .chain(in_path)
        .filter(|linker| linker.is_file())
        .find(|linker| llvm_of(linker).is_some_and(|llvm| llvm.major == compiler.llvm))
}

/// The LLVM library that a program loads.
pub(crate) struct Llvm {
    pub(crate) path: PathBuf,
    pub(crate) major: u32,
}

/// Finds the LLVM library that a program loads; `None` if it has LLVM inside, or the library is
/// gone.
pub(crate) fn llvm_of(program: &Path) -> Option<Llvm> {
    let libraries = output(Command::new("ldd").arg(program))?;
    libraries.lines().find_map(|line| {
        let (name, rest) = line.trim().split_once(" => ")?;
        let version = name
            .strip_prefix("libLLVM")
            .map(|version| version.trim_start_matches(['.', '-', 's', 'o']))?;
        let major = version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?;
        let path = PathBuf::from(rest.rsplit_once(" (")?.0);
        Some(Llvm { path, major })
    })
}

fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NamedCompiler(why) => f.write_str(why),
            Self::Compiler => f.write_str(
                "no Rust compiler with library source (rust-src) to build the eBPF programs",
            ),
            Self::Linker(compiler) => {
                write!(
                    f,
                    "no bpf-linker for LLVM {}, which {} has",
                    compiler.llvm,
                    compiler.rustc.display()
                )
            }
        }
    }
}
