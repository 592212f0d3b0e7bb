//! Prints what would be done on a host, or on a dump of one (`plan DIR`). Writes nothing.

use std::io::{self, Write};
use std::path::Path;

use storage_core::host::HostRoot;
use storage_core::model::Policy;
use storage_core::observe::Observer;
use storage_core::pipeline;
use storage_core::progress::Silent;

fn main() -> io::Result<()> {
    let host = std::env::args_os()
        .nth(1)
        .map_or_else(HostRoot::live, |dir| HostRoot::dump(Path::new(&dir)));
    let survey = pipeline::survey(&mut Observer::new(host), &Policy::new("example"), &Silent);
    write!(io::stdout().lock(), "{}", survey.plan)
}
