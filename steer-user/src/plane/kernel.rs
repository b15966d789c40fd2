//! The running kernel: whether the programs can work in it, asked before anything of it is changed.

use std::{fmt, fs};

use anyhow::{Context as _, Result, ensure};

/// The oldest kernel whose verifier takes the programs, as major and minor number.
const OLDEST: [u32; 2] = [6, 1];
/// The first kernel whose PREEMPT_RT can be built without the lock around softirqs.
const LOCK_IS_OPTIONAL: [u32; 2] = [6, 18];
/// The first kernel that shares out a small LRU map by its size (upstream d4adf1c9ee77).
const LRU_IS_SHARED_OUT: [u32; 2] = [6, 17];
/// Entries of an LRU map that an older one hands to each CPU (`LOCAL_FREE_TARGET`), twice: what the
/// others use is left.
const LRU_ENTRIES_A_CPU: u32 = 2 * 128;
/// What a PREEMPT_RT kernel from [`LOCK_IS_OPTIONAL`] on must be built with.
const SOFTIRQ_LOCK: &str = "CONFIG_PREEMPT_RT_NEEDS_BH_LOCK=y";

/// What `uname` says of a kernel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kernel {
    release: String,
    version: String,
}

impl Kernel {
    /// The one that runs this.
    pub fn running() -> Self {
        let uname = rustix::system::uname();
        Self::new(&uname.release().to_string_lossy(), &uname.version().to_string_lossy())
    }

    /// A kernel by the two words of `uname -r` and `uname -v`.
    pub fn new(release: &str, version: &str) -> Self {
        Self { release: release.to_owned(), version: version.to_owned() }
    }

    /// Refuses a kernel that the programs cannot work in.
    ///
    /// # Errors
    /// With one sentence that names the kernel and what steer needs.
    pub fn require(&self) -> Result<()> {
        let [major, minor, _] = self.number()?;
        let [oldest, oldest_minor] = OLDEST;
        ensure!(
            [major, minor] >= OLDEST,
            "Linux {major}.{minor} is too old: steer needs {oldest}.{oldest_minor} or newer"
        );
        if self.is_realtime() && [major, minor] >= LOCK_IS_OPTIONAL {
            self.require_softirq_lock(build_settings(&self.release))?;
        }
        Ok(())
    }

    /// Major, minor and patch number.
    ///
    /// Debian's stable kernels say their ABI in the release (`6.1.0-50-cloud-amd64`) and the number
    /// they were built from in the version (`#1 SMP PREEMPT_DYNAMIC Debian 6.1.176-1
    /// (2026-05-02)`).
    ///
    /// # Errors
    /// When the release does not begin with numbers.
    pub fn number(&self) -> Result<[u32; 3]> {
        let built_from =
            self.version.split_once("Debian ").and_then(|(_, rest)| leading_numbers(rest));
        let number = leading_numbers(&self.release);
        let number = number.with_context(|| {
            format!("read the kernel's number in its release {:?}", self.release)
        })?;
        Ok(built_from.filter(|debian| debian[..2] == number[..2]).unwrap_or(number))
    }

    /// How many entries an LRU map needs on so many CPUs.
    ///
    /// Before 6.17 each CPU that inserts takes 128 free entries at once. One that comes when none
    /// are left evicts its own last entry at each insertion, however empty the map is.
    ///
    /// # Errors
    /// When the release does not begin with numbers.
    pub fn least_lru_entries(&self, cpus: u32) -> Result<u32> {
        let [major, minor, _] = self.number()?;
        Ok(if [major, minor] < LRU_IS_SHARED_OUT { LRU_ENTRIES_A_CPU * cpus } else { 1 })
    }

    fn is_realtime(&self) -> bool {
        self.version.split_whitespace().any(|word| word == "PREEMPT_RT")
    }

    /// The programs keep what they know of a packet in memory of the CPU, from one stage to the
    /// next. Without the lock another packet may come between on the same CPU.
    fn require_softirq_lock(&self, settings: Option<String>) -> Result<()> {
        let settings = settings.with_context(|| {
            format!(
                "Linux {release} is a PREEMPT_RT kernel, and no file /boot/config-{release} or \
                 /usr/lib/modules/{release}/config tells whether it was built with {SOFTIRQ_LOCK}, which steer needs \
                 there (`zcat /proc/config.gz` writes such a file, where the kernel has it)",
                release = self.release
            )
        })?;
        ensure!(
            settings.lines().any(|line| line == SOFTIRQ_LOCK),
            "Linux {} is a PREEMPT_RT kernel built without {SOFTIRQ_LOCK}: steer needs it there, or a kernel without \
             PREEMPT_RT",
            self.release
        );
        Ok(())
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Linux {}", self.release)
    }
}

/// How the kernel was built, from where distributions put it.
fn build_settings(release: &str) -> Option<String> {
    let places = [format!("/boot/config-{release}"), format!("/usr/lib/modules/{release}/config")];
    places.iter().find_map(|place| fs::read_to_string(place).ok())
}

/// `6.12.117+deb13` and `6.12` give three numbers; what is missing is 0.
fn leading_numbers(text: &str) -> Option<[u32; 3]> {
    let digits = text.split(|c: char| !c.is_ascii_digit() && c != '.').next().unwrap_or_default();
    let mut numbers = digits.split('.').map_while(|number| number.parse().ok());
    Some([numbers.next()?, numbers.next()?, numbers.next().unwrap_or(0)])
}

#[cfg(test)]
mod tests {
    use super::*;

    const DYNAMIC: &str = "#1 SMP PREEMPT_DYNAMIC Debian 6.1.176-1 (2026-05-02)";
    const REALTIME: &str = "#1 SMP PREEMPT_RT Debian 7.3.4-1~bpo13+1 (2026-10-02)";

    #[track_caller]
    fn refused(kernel: &Kernel) -> String {
        kernel.require().expect_err("accepted").to_string()
    }

    #[test]
    fn a_kernel_before_6_1_is_refused_with_both_numbers() {
        let bullseye =
            Kernel::new("5.10.0-32-cloud-amd64", "#1 SMP Debian 5.10.223-1 (2024-08-10)");
        assert_eq!(refused(&bullseye), "Linux 5.10 is too old: steer needs 6.1 or newer");
        assert_eq!(
            refused(&Kernel::new("6.0.19", "#1 SMP")),
            "Linux 6.0 is too old: steer needs 6.1 or newer"
        );
        assert_eq!(
            refused(&Kernel::new("4.19.325", "#9")),
            "Linux 4.19 is too old: steer needs 6.1 or newer"
        );
    }

    #[test]
    fn kernels_from_6_1_on_are_taken() {
        for release in [
            "6.1.0-50-cloud-amd64",
            "6.1",
            "6.12.117+deb13-cloud-amd64",
            "6.18.44-fc-v657",
            "10.0.1",
        ] {
            assert!(Kernel::new(release, DYNAMIC).require().is_ok(), "{release}");
        }
    }

    #[test]
    fn the_number_is_the_one_that_debian_built_from() -> Result<()> {
        assert_eq!(Kernel::new("6.1.0-50-cloud-amd64", DYNAMIC).number()?, [6, 1, 176]);
        assert_eq!(
            Kernel::new("6.12.117+deb13-amd64", "#1 SMP Debian 6.12.117-1 (x)").number()?,
            [6, 12, 117]
        );
        assert_eq!(Kernel::new("6.18.44-fc-v657", "#1 SMP PREEMPT_DYNAMIC").number()?, [6, 18, 44]);
        assert_eq!(Kernel::new("6.8.0-31-generic", "#31-Ubuntu SMP").number()?, [6, 8, 0]);
        // A kernel of one's own, built on a Debian.
        assert_eq!(Kernel::new("7.0.1", "#1 SMP Debian 6.1.176-1").number()?, [7, 0, 1]);
        Ok(())
    }

    #[test]
    fn a_release_without_numbers_is_told() {
        let told = refused(&Kernel::new("mainline", "#1"));
        assert_eq!(told, "read the kernel's number in its release \"mainline\"");
    }

    #[test]
    fn lru_maps_of_older_kernels_have_room_for_every_cpu() -> Result<()> {
        let least = |release, cpus| Kernel::new(release, "#1 SMP").least_lru_entries(cpus);
        assert_eq!(
            (least("6.1.176", 9)?, least("6.12.118", 64)?, least("6.16.3", 2)?),
            (2304, 16_384, 512)
        );
        assert_eq!((least("6.17.0", 512)?, least("7.0.1", 9)?), (1, 1));
        Ok(())
    }

    #[test]
    fn a_realtime_kernel_needs_its_softirq_lock() {
        let kernel = Kernel::new("7.3.4+deb13-rt-amd64", REALTIME);
        let judge =
            |settings: Option<&str>| kernel.require_softirq_lock(settings.map(str::to_owned));
        assert!(judge(Some("CONFIG_PREEMPT_RT=y\nCONFIG_PREEMPT_RT_NEEDS_BH_LOCK=y\n")).is_ok());
        for settings in [
            Some("CONFIG_PREEMPT_RT=y\n# CONFIG_PREEMPT_RT_NEEDS_BH_LOCK is not set\n"),
            Some("CONFIG_PREEMPT_RT=y\n"),
            None,
        ] {
            let told = judge(settings).expect_err("accepted").to_string();
            assert!(told.contains("7.3.4+deb13-rt-amd64 is a PREEMPT_RT kernel"), "{told}");
            assert!(told.contains(SOFTIRQ_LOCK), "{told}");
        }
    }

    #[test]
    fn only_realtime_kernels_with_the_choice_are_asked() {
        assert!(
            Kernel::new("6.12.117+deb13-rt-amd64", "#1 SMP PREEMPT_RT Debian 6.12.117-1")
                .require()
                .is_ok()
        );
        assert!(
            refused(&Kernel::new("6.18.0-none-such", "#1 SMP PREEMPT_RT"))
                .contains("6.18.0-none-such")
        );
        assert!(Kernel::new("6.18.0-none-such", "#1 SMP PREEMPT_DYNAMIC").require().is_ok());
    }
}
