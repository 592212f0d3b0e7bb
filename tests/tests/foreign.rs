//! Somebody's data is refused, and not one byte of it changes.

use std::process::Command;

use disk_discovery_tests::cases::{self, CASES};
use disk_discovery_tests::require::{skip, tool};
use disk_discovery_tests::{Sandbox, require_devices};

/// The images are what they claim to be: libblkid, which did not make them, says the same.
#[test]
fn blkid_names_every_image_as_the_case_does() {
    require_devices!();
    let sandbox = Sandbox::new();
    let mut wrong = Vec::new();
    for case in CASES {
        if let Some(missing) = case.tools.iter().find(|name| tool(name).is_none()) {
            skip(case.name, &format!("{missing} is not installed"));
            continue;
        }
        let image = sandbox.path().join("image");
        cases::build(case, &image);
        if case.blkid.is_empty() {
            continue;
        }
        let output = Command::new(tool("blkid").unwrap())
            .args(["-p", "-o", "export"])
            .arg(&image)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let named = said.lines().any(|line| {
            line == format!("TYPE={}", case.blkid) || line == format!("PTTYPE={}", case.blkid)
        });
        if !named {
            wrong.push(format!("{}: blkid says {said:?}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
