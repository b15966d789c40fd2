//! Kernels of Debian to boot: which there are, where they come from, and where they lie when they
//! are unpacked.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use super::{archive::Archive, unpacked};
use crate::tree::Tree;

/// Depends on a suite's newest kernel for virtual machines.
const PACKAGE: &str = "linux-image-cloud-amd64";
/// What of its dependencies is a part of the kernel: up to 6.18 one package, later image, binary
/// and modules.
const PARTS: [&str; 3] = ["linux-image-", "linux-binary-", "linux-modules-"];

/// Names of the packages that a directory was made from, one a line.
const PACKAGES: &str = "packages";

/// How long the newest kernel counts as such.
const NEWEST_FOR: Duration = Duration::from_secs(24 * 3600);

/// A kernel by what it is wanted for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Series {
    /// The oldest that is supported: Debian 12's.
    #[value(name = "6.1")]
    Debian12,
    /// Debian 13's.
    #[value(name = "6.12")]
    Debian13,
    /// The newest that Debian 13's backports have.
    #[value(name = "newest")]
    Newest,
    /// One that is too old, to see it refused: Debian 11's.
    #[value(name = "5.10")]
    TooOld,
}

impl Series {
    /// What is booted unless others are asked for.
    pub(crate) const DEFAULT: [Self; 2] = [Self::Debian12, Self::Debian13];

    /// Its word on the command line, and in its directory's name.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Debian12 => "6.1",
            Self::Debian13 => "6.12",
            Self::Newest => "newest",
            Self::TooOld => "5.10",
        }
    }

    pub(super) fn why(self) -> &'static str {
        match self {
            Self::Debian12 => "the oldest kernel that is supported, to try the programs in",
            Self::Debian13 => "Debian 13's kernel, to try the programs in",
            Self::Newest => "the newest kernel of Debian 13's backports, to try the programs in",
            Self::TooOld => "a kernel that is too old, to see it refused",
        }
    }

    fn suite(self) -> &'static str {
        match self {
            Self::Debian12 => "bookworm",
            Self::Debian13 => "trixie",
            Self::Newest => "trixie-backports",
            Self::TooOld => "bullseye",
        }
    }

    /// The packages that this kernel is in, of all that its metapackage depends on; or another
    /// kernel was found.
    fn parts(self, depends: &[String]) -> Result<Vec<String>> {
        let version = |name: &str| {
            let version = PARTS.iter().find_map(|part| name.strip_prefix(part));
            version
                .filter(|version| version.starts_with(|first: char| first.is_ascii_digit()))
                .map(str::to_owned)
        };
        let wanted = if self == Self::Newest { String::new() } else { format!("{}.", self.word()) };
        let is_wanted =
            |name: &&String| version(name).is_some_and(|version| version.starts_with(&wanted));
        let parts: Vec<String> = depends.iter().filter(is_wanted).cloned().collect();
        let (suite, word) = (self.suite(), self.word());
        ensure!(!parts.is_empty(), "{suite} offers no kernel {word} but {}", depends.join(", "));
        Ok(parts)
    }

    fn directory(self, tree: &Tree) -> PathBuf {
        tree.tools().join(format!("kernel-{}", self.word()))
    }

    /// Tells whether it is there; the newest only if it was looked for lately.
    pub(super) fn is_there(self, tree: &Tree) -> bool {
        let directory = self.directory(tree);
        if self != Self::Newest {
            return directory.is_dir();
        }
        let looked = fs::metadata(directory.join(PACKAGES)).and_then(|file| file.modified());
        looked.is_ok_and(|looked| looked.elapsed().is_ok_and(|age| age < NEWEST_FOR))
    }

    /// Downloads and unpacks it. A newest kernel that is there serves where no newer can be had.
    pub(super) fn provide(self, tree: &Tree) -> Result<()> {
        match self.try_provide(tree) {
            Err(error) if self.directory(tree).is_dir() => {
                eprintln!(
                    "setup: kept the kernel that is there, for no newer could be had ({error:#})"
                );
                Ok(())
            }
            done => done,
        }
    }

    fn try_provide(self, tree: &Tree) -> Result<()> {
        let archive = Archive::open(&tree.tools().join("apt").join(self.suite()), self.suite())?;
        let packages = self.parts(&archive.needed(PACKAGE)?)?;
        let (directory, list) = (self.directory(tree), packages.join("\n"));
        let unchanged =
            fs::read_to_string(directory.join(PACKAGES)).is_ok_and(|before| before == list);
        if !unchanged {
            unpacked::unpack(tree, &directory, |download| archive.download(&packages, download))?;
        }
        // Also where nothing changed: its time says when it was looked for.
        fs::write(directory.join(PACKAGES), list).context("note the kernel's packages")
    }
}

/// An unpacked kernel.
pub(crate) struct Kernel {
    /// The image to boot.
    pub(crate) image: PathBuf,
    /// Directory of its modules, `lib/modules/VERSION`.
    pub(crate) modules: PathBuf,
}

impl Kernel {
    /// Finds the image and the modules of an unpacked kernel.
    pub(crate) fn find(tree: &Tree, series: Series) -> Result<Self> {
        let found = Self::below(&series.directory(tree));
        found.with_context(|| format!("find the unpacked kernel {}", series.word()))
    }

    /// Up to Debian 12 modules lie in `lib`, later in `usr/lib`; since 7.2 the image lies beside
    /// them.
    fn below(directory: &Path) -> Result<Self> {
        let modules = ["lib/modules", "usr/lib/modules"].into_iter().find_map(|place| {
            let versions =
                fs::read_dir(directory.join(place)).ok()?.flatten().map(|version| version.path());
            versions.into_iter().find(|version| version.join("kernel").is_dir())
        });
        let modules =
            modules.with_context(|| format!("no modules lie below {}", directory.display()))?;
        let version = modules.file_name().unwrap_or_default().display().to_string();
        let places =
            [directory.join("boot").join(format!("vmlinuz-{version}")), modules.join("vmlinuz")];
        let image = places.iter().find(|place| place.is_file()).cloned();
        let image = image
            .with_context(|| format!("no image of {version} lies below {}", directory.display()))?;
        Ok(Self { image, modules })
    }
}

#[cfg(test)]
mod tests {
    use std::env;

    use super::*;

    /// An unpacked kernel of these files and directories (those that end with `/`), gone when
    /// dropped.
    struct Fake(PathBuf);

    impl Fake {
        #[track_caller]
        fn new(name: &str, paths: &[&str]) -> Self {
            let root = env::temp_dir().join(format!("steer-xtask-{}-{name}", std::process::id()));
            for path in paths {
                let path = root.join(path);
                fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
                if path.display().to_string().ends_with('/') {
                    fs::create_dir_all(path).expect("a directory");
                } else {
                    fs::write(path, "").expect("a file");
                }
            }
            Self(root)
        }
    }

    impl Drop for Fake {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    #[track_caller]
    fn found(fake: &Fake, image: &str, modules: &str) {
        let kernel = Kernel::below(&fake.0).expect("a kernel");
        assert_eq!((kernel.image, kernel.modules), (fake.0.join(image), fake.0.join(modules)));
    }

    #[test]
    fn a_kernel_is_found_in_the_layout_of_every_debian() {
        let debian12 = Fake::new("12", &["boot/vmlinuz-6.1.0-50", "lib/modules/6.1.0-50/kernel/"]);
        found(&debian12, "boot/vmlinuz-6.1.0-50", "lib/modules/6.1.0-50");
        let debian13 = Fake::new("13", &["boot/vmlinuz-6.12.1", "usr/lib/modules/6.12.1/kernel/"]);
        found(&debian13, "boot/vmlinuz-6.12.1", "usr/lib/modules/6.12.1");
        let newest =
            Fake::new("new", &["usr/lib/modules/7.3.4/vmlinuz", "usr/lib/modules/7.3.4/kernel/"]);
        found(&newest, "usr/lib/modules/7.3.4/vmlinuz", "usr/lib/modules/7.3.4");
    }

    #[test]
    fn what_a_kernel_lacks_is_told() {
        let without_image = Fake::new("image", &["lib/modules/6.1.0-50/kernel/"]);
        let told = Kernel::below(&without_image.0).err().expect("refused").to_string();
        assert!(told.contains("no image of 6.1.0-50"), "{told}");
        let without_modules = Fake::new("modules", &["boot/vmlinuz-6.1.0-50"]);
        let told = Kernel::below(&without_modules.0).err().expect("refused").to_string();
        assert!(told.contains("no modules"), "{told}");
    }

    #[test]
    fn packages_of_another_kernel_and_those_with_nothing_in_them_are_left_out() {
        let names =
            |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let debian12 =
            names(&["linux-image-cloud-amd64", "linux-image-6.1.0-50-cloud-amd64", "linux-base"]);
        assert_eq!(
            Series::Debian12.parts(&debian12).expect("parts"),
            ["linux-image-6.1.0-50-cloud-amd64"]
        );
        assert_eq!(
            Series::Newest.parts(&debian12).expect("parts"),
            ["linux-image-6.1.0-50-cloud-amd64"]
        );
        let told = Series::Debian13.parts(&debian12).expect_err("accepted").to_string();
        assert!(
            told.starts_with("trixie offers no kernel 6.12 but linux-image-cloud-amd64, "),
            "{told}"
        );
        let newest =
            ["linux-image-7.3.4-cloud", "linux-binary-7.3.4-cloud", "linux-modules-7.3.4-cloud"];
        let depends = [&newest[..], &["linux-base", "linux-modules-cloud-amd64"]].concat();
        assert_eq!(Series::Newest.parts(&names(&depends)).expect("parts"), newest);
    }
}
