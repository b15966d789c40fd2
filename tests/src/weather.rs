//! Bad weather on the wire: packets are lost and come twice, by a BPF program at TC on the ends'
//! interfaces (the kernel here has no netem).
//!
//! On its way out of an end a packet is lost before the gateway sees it, on its way in after that;
//! the sender's kernel notices neither.

use std::{
    ffi::CString,
    fs, io,
    mem::size_of,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result};
use aya::programs::{
    SchedClassifier, TcAttachType,
    tc::{self, NlOptions, TcAttachOptions, TcHandle},
};

use crate::{netns::NetNs, topology::Lab};

/// How bad it is, each time a packet leaves or reaches an end.
#[derive(Clone, Copy, Debug)]
pub struct Percent {
    /// Packets lost.
    pub lost: i32,
    /// Packets that come twice.
    pub twice: i32,
}

/// Weather at every end; over when this is dropped.
pub struct Weather<'a> {
    places: Vec<&'a NetNs>,
}

impl<'a> Weather<'a> {
    /// Bad weather for clients and backends, in both directions, before and behind the gateway. A
    /// packet is what the interface is given: one of the wire with
    /// [`crate::topology::Offloads::Off`].
    ///
    /// # Errors
    /// When the kernel refuses the program.
    pub fn everywhere(lab: &'a Lab, percent: Percent) -> Result<Self> {
        let mut weather = Self { places: Vec::new() };
        let backends = (0..lab.n_backends()).map(|index| lab.backend(index));
        for ns in std::iter::once(lab.client()).chain(backends) {
            weather.places.push(ns);
            ns.run(|| {
                tc::qdisc_add_clsact("eth0").context("add a clsact to eth0")?;
                attach(TcAttachType::Ingress, percent)?;
                attach(TcAttachType::Egress, percent)
            })?;
        }
        Ok(weather)
    }
}

impl Drop for Weather<'_> {
    fn drop(&mut self) {
        for ns in &self.places {
            // Fails only if it is gone already.
            drop(ns.tool("tc qdisc del dev eth0 clsact"));
        }
    }
}

/// One instruction as the kernel has it: `struct bpf_insn` (linux/bpf.h).
#[repr(C)]
struct Instruction {
    code: u8,
    /// Destination in the low half, source in the high one.
    registers: u8,
    jump: i16,
    number: i32,
}

const fn instruction(code: u8, destination: u8, source: u8, jump: i16, number: i32) -> Instruction {
    Instruction { code, registers: destination | source << 4, jump, number }
}

/// The program: loses by chance, sends a marked copy by chance, lets marked copies pass.
fn program(percent: Percent, ingress: bool) -> [Instruction; 19] {
    /// Offsets in `struct __sk_buff`, and a mark that nobody else in the lab uses.
    const MARK_AT: i16 = 8;
    const INTERFACE_AT: i16 = 40;
    const MARK: i32 = 0x5754;
    /// Helpers (linux/bpf.h).
    const RANDOM: i32 = 7;
    const CLONE_REDIRECT: i32 = 13;
    /// TC_ACT_UNSPEC; and TC_ACT_STOLEN, by which the sender hears of no drop.
    const GO_ON: i32 = -1;
    const STOLEN: i32 = 4;
    [
        instruction(0xbf, 6, 1, 0, 0),                            // r6 = packet
        instruction(0x61, 2, 1, MARK_AT, 0),                      // r2 = mark
        instruction(0x15, 2, 0, 12, MARK),                        // if r2 == MARK goto 15
        instruction(0x85, 0, 0, 0, RANDOM),                       // r0 = random
        instruction(0x94, 0, 0, 0, 100),                          // r0 %= 100
        instruction(0xa5, 0, 0, 11, percent.lost),                // if r0 < lost goto 17
        instruction(0x35, 0, 0, 8, percent.lost + percent.twice), // if r0 >= lost + twice goto 15
        instruction(0xb7, 2, 0, 0, MARK),                         // r2 = MARK
        instruction(0x63, 6, 2, MARK_AT, 0),                      // mark = r2
        instruction(0xbf, 1, 6, 0, 0),                            // r1 = packet
        instruction(0x61, 2, 6, INTERFACE_AT, 0),                 // r2 = interface
        instruction(0xb7, 3, 0, 0, i32::from(ingress)),           // r3 = direction
        instruction(0x85, 0, 0, 0, CLONE_REDIRECT),               // a copy goes
        instruction(0xb7, 2, 0, 0, 0),                            // r2 = 0
        instruction(0x63, 6, 2, MARK_AT, 0),                      // mark = r2
        instruction(0xb7, 0, 0, 0, GO_ON),                        // 15: go on
        instruction(0x95, 0, 0, 0, 0),                            //
        instruction(0xb7, 0, 0, 0, STOLEN),                       // 17: lost
        instruction(0x95, 0, 0, 0, 0),                            //
    ]
}

/// A program that lets every packet pass, and no program behind it see one (TCX_PASS).
///
/// # Errors
/// When the kernel refuses it.
pub fn ends_the_chain() -> Result<SchedClassifier> {
    take(&[instruction(0xb7, 0, 0, 0, 0), instruction(0x95, 0, 0, 0, 0)])
}

/// Loads a program.
fn take(program: &[Instruction]) -> Result<SchedClassifier> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let pin = format!("/sys/fs/bpf/steer-weather-{}-{number}", std::process::id());
    let loaded = load(program).context("load the weather")?;
    // By a pin aya takes a program that it did not load itself.
    pin_program(&loaded, &pin).context("pin the weather")?;
    let taken = SchedClassifier::from_pin(&pin);
    fs::remove_file(&pin).with_context(|| format!("remove {pin}"))?;
    taken.context("take the weather")
}

/// Attaches the program to eth0 of the calling thread's namespace.
fn attach(direction: TcAttachType, percent: Percent) -> Result<()> {
    let mut taken = take(&program(percent, direction == TcAttachType::Ingress))?;
    let options = NlOptions { priority: 1, handle: TcHandle::new(0, 1), classid: None };
    let link = taken.attach_with_options("eth0", direction, TcAttachOptions::Netlink(options));
    let id = link.context("attach the weather")?;
    // It ends with its clsact; dropped here, the link would be looked for in another namespace.
    std::mem::forget(taken.take_link(id)?);
    Ok(())
}

/// BPF_PROG_LOAD of a classifier.
fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    const PROG_LOAD: libc::c_int = 5;
    const CLASSIFIER: u32 = 3;
    /// Head of `bpf_attr` for this command; the rest may be left out.
    #[repr(C)]
    struct Load {
        kind: u32,
        n_instructions: u32,
        instructions: u64,
        license: u64,
    }
    let mut attributes = Load {
        kind: CLASSIFIER,
        n_instructions: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: c"Dual MIT/GPL".as_ptr() as u64,
    };
    // SAFETY: the instructions and the license outlive the call.
    let fd =
        unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw mut attributes, size_of::<Load>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// BPF_OBJ_PIN.
fn pin_program(program: &OwnedFd, pin: impl AsRef<Path>) -> io::Result<()> {
    const OBJ_PIN: libc::c_int = 6;
    #[repr(C)]
    struct Pin {
        path: u64,
        fd: u32,
        flags: u32,
    }
    let path = CString::new(pin.as_ref().as_os_str().as_encoded_bytes())?;
    let mut attributes =
        Pin { path: path.as_ptr() as u64, fd: program.as_raw_fd().cast_unsigned(), flags: 0 };
    // SAFETY: the path outlives the call.
    let done =
        unsafe { libc::syscall(libc::SYS_bpf, OBJ_PIN, &raw mut attributes, size_of::<Pin>()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
