//! Loop devices for the library's own tests, and the commands that these start.

use std::io;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::exclusive::no_process_starts;

/// Runs a command, started as the project's own are: it keeps no device that a test has let go.
pub(crate) fn output(command: &mut Command) -> io::Result<Output> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = {
        let _one = no_process_starts();
        command.spawn()?
    };
    child.wait_with_output()
}

/// Attaches a loop device to `image`, and gives its node. The kernel keeps the partitions of a number that was detached,
/// so one that a killed test left behind is forgotten here.
pub(crate) fn attach(image: &Path) -> String {
    let node = succeed(
        Command::new("losetup")
            .args(["--find", "--show"])
            .arg(image),
    );
    let node = node.trim().to_owned();
    let name = node.trim_start_matches("/dev/");
    let stale = std::fs::read_dir(Path::new("/sys/block").join(name)).unwrap();
    let prefix = format!("{name}p");
    for entry in stale {
        let entry = entry.unwrap().file_name().into_string().unwrap();
        if let Some(number) = entry.strip_prefix(&prefix) {
            succeed(Command::new("delpart").args([&node, number]));
        }
    }
    node
}

/// Detaches a loop device.
pub(crate) fn detach(node: &str) {
    succeed(Command::new("losetup").args(["--detach", node]));
}

fn succeed(command: &mut Command) -> String {
    let said = output(command).unwrap();
    assert!(said.status.success(), "{command:?}: {said:?}");
    String::from_utf8(said.stdout).unwrap()
}
