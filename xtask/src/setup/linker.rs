//! bpf-linker, built against the LLVM library that the eBPF compiler itself loads.

use std::{
    env,
    ffi::OsString,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use anyhow::{Context, Result, ensure};

use crate::{
    command,
    toolchain::{self, Compiler, Llvm, Toolchain},
    tree::Tree,
};

/// Version that is built.
pub(crate) const VERSION: &str = "0.13.0";

/// LLVM major versions that this version knows.
const KNOWN_LLVM: std::ops::RangeInclusive<u32> = 21..=23;

/// Tells whether our linker was built against another LLVM library than the compiler loads now.
pub(crate) fn is_stale(tree: &Tree, toolchain: &Toolchain) -> Result<bool> {
    if toolchain.linker != toolchain::own_linker(tree.root()) {
        return Ok(false);
    }
    let Some(llvm) = toolchain::llvm_of(&toolchain.compiler.rustc) else { return Ok(false) };
    let stamp = fs::read_to_string(stamp_file(tree)).unwrap_or_default();
    Ok(stamp != stamp_of(&llvm)?)
}

/// Builds the linker into target/tools.
pub(crate) fn build(tree: &Tree, compiler: &Compiler) -> Result<()> {
    ensure!(
        KNOWN_LLVM.contains(&compiler.llvm),
        "bpf-linker {VERSION} knows LLVM {} to {}, but {} has LLVM {}: name another compiler by {}",
        KNOWN_LLVM.start(),
        KNOWN_LLVM.end(),
        compiler.rustc.display(),
        compiler.llvm,
        toolchain::RUSTC_VAR
    );
    let llvm = toolchain::llvm_of(&compiler.rustc).with_context(|| {
        format!(
            "find the LLVM library of {}: name a linker that reads its bitcode by {}",
            compiler.rustc.display(),
            toolchain::LINKER_VAR
        )
    })?;
    let tools = tree.tools();
    let prefix = tools.join("llvm");
    link_library(&prefix, &llvm.path)?;

    let scratch = tools.join("build");
    let mut cargo =
        tree.cargo(&["install", "bpf-linker", "--version", VERSION, "--locked", "--force"]);
    cargo
        .args(["--no-default-features", "--features", &format!("llvm-{}", compiler.llvm)])
        .arg("--root")
        .arg(&tools)
        .arg("--target-dir")
        .arg(&scratch)
        .env("LLVM_PREFIX", &prefix)
        // Else cargo warns that the linker is not in PATH, where nobody needs it.
        .env("PATH", path_with(&tools.join("bin"))?)
        // A rustup toolchain's library lies where the loader does not look.
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            format!("-Clink-arg=-Wl,-rpath,{}", directory(&llvm.path)?.display()),
        )
        .env_remove("RUSTFLAGS");
    command::run_aside(&mut cargo).context("build bpf-linker")?;
    fs::write(stamp_file(tree), stamp_of(&llvm)?).context("write the linker's stamp")?;
    fs::remove_dir_all(&scratch).context("remove what the linker's build left")
}

fn path_with(directory: &Path) -> Result<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = env::split_paths(&path).chain([directory.to_owned()]);
    env::join_paths(directories).context("add the tools to PATH")
}

/// Makes `prefix/lib/libLLVM.so`, all of an LLVM installation that the linker's build looks for.
fn link_library(prefix: &Path, library: &Path) -> Result<()> {
    let directory = prefix.join("lib");
    fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
    let link = directory.join("libLLVM.so");
    if link.is_symlink() {
        fs::remove_file(&link).with_context(|| format!("remove {}", link.display()))?;
    }
    symlink(library, &link).with_context(|| format!("link {}", link.display()))
}

fn directory(file: &Path) -> Result<&Path> {
    file.parent().with_context(|| format!("find the directory of {}", file.display()))
}

fn stamp_file(tree: &Tree) -> PathBuf {
    tree.tools().join("bpf-linker.stamp")
}

fn stamp_of(llvm: &Llvm) -> Result<String> {
    let path = llvm.path.display();
    let metadata = fs::metadata(&llvm.path).with_context(|| format!("look at {path}"))?;
    let modified = metadata.modified().with_context(|| format!("read the age of {path}"))?;
    let seconds = modified
        .duration_since(UNIX_EPOCH)
        .with_context(|| format!("read the age of {path}"))?
        .as_secs();
    Ok(format!("bpf-linker {VERSION}\nllvm {path} {} bytes, modified {seconds}\n", metadata.len()))
}
