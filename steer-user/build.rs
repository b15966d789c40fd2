//! Builds the eBPF object that the binary embeds and tells its path as `STEER_BPF_OBJECT_PATH`.
//!
//! A cargo run of its own, because the object needs another compiler and target. In this order: the
//! object that `STEER_BPF_OBJECT` names; the compiler that `STEER_BPF_RUSTC` names; a rustup
//! toolchain with rust-src and a matching linker; Debian's compiler. The linker is what
//! `STEER_BPF_LINKER` names, what `cargo xtask setup` built, or one in PATH.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

#[expect(dead_code, reason = "xtask uses the rest of it to install what is missing")]
#[path = "../xtask/src/toolchain.rs"]
mod toolchain;

/// `e_machine` of an eBPF object (ELF header bytes 18 and 19, in the object's byte order).
const EM_BPF: u16 = 247;

fn main() -> ExitCode {
    match object() {
        Ok(object) => {
            println!("cargo:rustc-env=STEER_BPF_OBJECT_PATH={}", object.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("\nerror: {error}");
            ExitCode::FAILURE
        }
    }
}

fn object() -> Result<PathBuf, String> {
    for name in [toolchain::OBJECT_VAR, toolchain::RUSTC_VAR, toolchain::LINKER_VAR] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    match env::var_os(toolchain::OBJECT_VAR) {
        Some(named) => ready_object(Path::new(&named)),
        None => built_object(),
    }
}

fn ready_object(named: &Path) -> Result<PathBuf, String> {
    println!("cargo:rerun-if-changed={}", named.display());
    let object = named.canonicalize().map_err(|error| {
        format!("cannot find the object {} that STEER_BPF_OBJECT names: {error}", named.display())
    })?;
    check_object(&object)?;
    Ok(object)
}

fn built_object() -> Result<PathBuf, String> {
    let manifest_dir = PathBuf::from(var("CARGO_MANIFEST_DIR")?);
    let root = manifest_dir.parent().ok_or("steer-user is not inside its workspace")?;
    for input in
        ["steer-ebpf", "steer-common", "Cargo.toml", "Cargo.lock", "xtask/src/toolchain.rs"]
    {
        println!("cargo:rerun-if-changed={}", root.join(input).display());
    }

    let toolchain = toolchain::choose(root).map_err(|missing| {
        format!(
            "cannot build the eBPF programs: {missing}. `cargo xtask setup` installs what is needed"
        )
    })?;
    println!("cargo:rerun-if-changed={}", toolchain.compiler.rustc.display());
    println!("cargo:rerun-if-changed={}", toolchain.linker.display());

    let endian = var("CARGO_CFG_TARGET_ENDIAN")?;
    let out_dir = PathBuf::from(var("OUT_DIR")?);
    let target_dir = shared_target_dir(&out_dir);
    let mut cargo =
        toolchain.cargo(root, "build", &var("CARGO_CFG_TARGET_ARCH")?, &endian, &target_dir);
    let status =
        cargo.status().map_err(|error| format!("cannot run {:?}: {error}", cargo.get_program()))?;
    if !status.success() {
        return Err(format!(
            "the eBPF programs did not compile, see above (compiler {}, linker {})",
            toolchain.compiler.rustc.display(),
            toolchain.linker.display()
        ));
    }
    let built = target_dir.join(toolchain::bpf_target(&endian)).join("release/steer");
    check_object(&built)?;
    let object = out_dir.join("steer.bpf.o");
    fs::copy(&built, &object)
        .map_err(|error| format!("cannot copy the object to {}: {error}", object.display()))?;
    Ok(object)
}

/// One directory for debug, release and clippy runs, so that `core` is compiled once; not cargo's
/// own, whose lock the cargo that runs us holds. Below `OUT_DIR` where the target directory is not
/// to be found.
fn shared_target_dir(out_dir: &Path) -> PathBuf {
    let target = out_dir.ancestors().find(|directory| directory.join("CACHEDIR.TAG").is_file());
    target.unwrap_or(out_dir).join("bpf")
}

/// Refuses what is not an eBPF object, which the kernel would refuse much later and with fewer
/// words.
fn check_object(path: &Path) -> Result<(), String> {
    let bytes = fs::read(path)
        .map_err(|error| format!("cannot read the eBPF object {}: {error}", path.display()))?;
    let machine =
        bytes.get(18..20).and_then(|machine| machine.try_into().ok()).map(u16::from_ne_bytes);
    if bytes.starts_with(b"\x7fELF") && machine == Some(EM_BPF) {
        Ok(())
    } else {
        Err(format!("{} is no eBPF object for this machine", path.display()))
    }
}

fn var(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("cannot read {name}, which cargo sets: {error}"))
}
