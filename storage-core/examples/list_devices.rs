//! Lists every block device of the host and what it is. Writes nothing; sees more as root.

use std::io::{self, Write};

use storage_core::host::HostRoot;
use storage_core::model::Policy;
use storage_core::observe::Observer;
use storage_core::pipeline;
use storage_core::progress::Silent;

fn main() -> io::Result<()> {
    let mut observer = Observer::new(HostRoot::live());
    let survey = pipeline::survey(&mut observer, &Policy::new("example"), &Silent);
    let mut out = io::stdout().lock();
    for verdict in survey.classification.verdicts.values() {
        let why = verdict
            .reasons
            .first()
            .map_or("", |reason| reason.text.as_str());
        writeln!(
            out,
            "{:<16} {:<12} {why}",
            verdict.device.as_str(),
            verdict.kind
        )?;
    }
    Ok(())
}
