//! `steer sysdump`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::{Place, doctor::CONFIG, note};
use crate::{
    plane::rights,
    show,
    sysdump::{self, Subject},
};

#[derive(Args, Debug)]
pub(super) struct Sysdump {
    /// The archive to write; it must not be there yet
    #[arg(short, long, value_name = "FILE.tar.gz")]
    output: PathBuf,
    /// The gateway's configuration
    #[arg(long, value_name = "FILE", default_value = CONFIG)]
    config: PathBuf,
}

impl Sysdump {
    pub(super) fn run(self, place: &Place) -> Result<()> {
        rights::require()?;
        let (dir, socket) = (place.dir(), place.socket());
        let subject = Subject { dir: &dir, socket: &socket, config: &self.config };
        for missing in sysdump::write(&self.output, subject)? {
            note(format_args!("not in the archive: {missing}"));
        }
        let done = format!(
            "wrote {}: look through it before you pass it on, it has addresses in it",
            self.output.display()
        );
        show::outcome(place.format(), done)
    }
}
