//! `pack-dump DIR` prints a dump as one text, for `tests/hosts/<machine>/dump.txt`.
#![allow(clippy::expect_used, reason = "a test's helper")]

use std::path::PathBuf;

use disk_discovery_tests::hosts::{pack, read};

fn main() {
    let dir = std::env::args_os().nth(1).expect("usage: pack-dump DIR");
    print!("{}", pack(&read(&PathBuf::from(dir))));
}
