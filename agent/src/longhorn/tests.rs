//! Scenarios over a stand-in object: patches are applied as RFC 7396 says, other writers as they write.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::{Value, json};
use storage_core::model::DiskName;

use super::*;
use crate::names;

fn merge(target: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let members = target.as_object_mut().unwrap();
    for (key, value) in patch {
        if value.is_null() {
            members.remove(key);
        } else {
            merge(members.entry(key).or_insert(Value::Null), value);
        }
    }
}

struct Bed {
    object: Value,
    disks: Vec<HostDisk>,
    seed: BTreeMap<String, DiskSpec>,
    others: Option<BTreeMap<String, String>>,
    old: bool,
    quarantined: BTreeSet<String>,
    unreadable: Vec<UnreadableDisk>,
    held: Vec<HeldDisk>,
    absence: Absence,
    vanished_off: bool,
    writes: u32,
}

fn disk(name: &str) -> HostDisk {
    HostDisk {
        name: DiskName::new(name).unwrap(),
        id: format!("fs-of-{name}"),
        path: format!("/mnt/longhorn/{name}"),
        presence: Presence::Mounted,
        capacity: 100_000,
        tags: vec![],
        reserved: None,
        config: DiskConfig::Absent,
    }
}

impl Bed {
    fn new(names: &[&str]) -> Self {
        Self {
            object: json!({
                "apiVersion": "longhorn.io/v1beta2",
                "kind": "Node",
                "metadata": {"name": "k3s1", "uid": "u", "resourceVersion": "1"},
                "spec": {"name": "k3s1", "allowScheduling": true, "disks": {}, "tags": []},
                "status": {"diskStatus": null, "conditions": null},
            }),
            disks: names.iter().map(|n| disk(n)).collect(),
            seed: BTreeMap::new(),
            others: Some(BTreeMap::new()),
            old: false,
            quarantined: BTreeSet::new(),
            unreadable: Vec::new(),
            held: Vec::new(),
            absence: Absence::Proven,
            vanished_off: false,
            writes: 0,
        }
    }

    fn decide(&self) -> Decision {
        decide(&Input {
            disks: &self.disks,
            unreadable: &self.unreadable,
            held: &self.held,
            absence: &self.absence,
            live: &LonghornNode::decode(self.object.clone()).unwrap(),
            seed: &self.seed,
            others: self.others.as_ref().map(|nodes| KnownUuids {
                nodes,
                fresh: !self.old,
            }),
            quarantined: &self.quarantined,
            vanished_off: self.vanished_off,
        })
    }

    /// One decision, carried out. Longhorn's mutator and a full update by it follow.
    fn step(&mut self) -> Decision {
        let decision = self.decide();
        if let Some(patch) = &decision.patch {
            assert!(!decision.changes.is_empty());
            merge(&mut self.object, patch);
            self.writes += 1;
        } else {
            assert!(decision.changes.is_empty() || decision.hold.is_some());
        }
        decision
    }

    fn sync(&mut self) {
        let keys: Vec<String> = self.keys();
        let mut status = json!({});
        for key in keys {
            status[&key] = json!({
                "diskUUID": format!("uuid-{key}"),
                "conditions": [{"type": "Ready", "status": "True"}],
            });
            // longhorn-manager writes every leaf whenever it updates the object.
            let spec = &mut self.object["spec"]["disks"][&key];
            for (leaf, zero) in [
                ("diskDriver", json!("")),
                ("diskType", json!("filesystem")),
                ("allowScheduling", json!(false)),
                ("evictionRequested", json!(false)),
                ("storageReserved", json!(0)),
                ("tags", json!([])),
            ] {
                if spec.get(leaf).is_none() {
                    spec[leaf] = zero;
                }
            }
        }
        self.object["status"]["diskStatus"] = status;
    }

    /// Steps until nothing is written; the pass after must want nothing.
    fn settle(&mut self) -> Decision {
        for _ in 0..5 {
            if self.step().patch.is_none() {
                let last = self.decide();
                assert_eq!(last.patch, None);
                return last;
            }
            self.sync();
        }
        panic!("never settles: {:?}", self.decide());
    }

    fn keys(&self) -> Vec<String> {
        self.object["spec"]["disks"]
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect()
    }

    fn spec(&mut self, key: &str) -> &mut Value {
        &mut self.object["spec"]["disks"][key]
    }

    fn annotate(&mut self, key: &str, value: &str) {
        self.object["metadata"]["annotations"][key] = json!(value);
    }
}

#[test]
fn all_new_disks_come_in_one_write_with_every_leaf() {
    let mut bed = Bed::new(&["sdb1", "sdc1", "nvme0n1p1"]);
    bed.disks[0].tags = vec!["ssd".into(), "fast".into(), "ssd".into()];
    bed.disks[0].reserved = Some("10%".into());
    let decision = bed.step();
    assert_eq!(bed.writes, 1);
    assert_eq!(
        decision.patch.as_ref().unwrap()["metadata"]["resourceVersion"],
        "1"
    );
    assert_eq!(
        *bed.spec("sdb1"),
        json!({
            "diskType": "filesystem", "path": "/mnt/longhorn/sdb1", "allowScheduling": true,
            "evictionRequested": false, "storageReserved": 10_000, "tags": ["fast", "ssd"],
        })
    );
    assert_eq!(bed.keys(), ["nvme0n1p1", "sdb1", "sdc1"]);
}

#[test]
fn the_schema_of_1_6_which_has_no_disk_driver_is_never_sent_one() {
    let mut bed = Bed::new(&["sdb1"]);
    assert!(!bed.step().patch.unwrap().to_string().contains("diskDriver"));
}

#[test]
fn a_second_pass_writes_nothing() {
    let mut bed = Bed::new(&["sdb1", "sdc1"]);
    bed.disks[0].tags = vec!["b".into(), "a".into()];
    bed.settle();
    for _ in 0..10 {
        bed.sync();
        assert!(bed.step().changes.is_empty());
    }
    assert_eq!(bed.writes, 1);
}

#[test]
fn nothing_is_written_while_longhorn_syncs() {
    let mut bed = Bed::new(&["sdb1"]);
    bed.step();
    bed.disks.push(disk("sdc1"));
    let decision = bed.step();
    assert_eq!(decision.hold, Some(Hold::Syncing));
    assert_eq!(bed.writes, 1);
    bed.sync();
    bed.step();
    assert_eq!(bed.keys(), ["sdb1", "sdc1"]);
}

#[test]
fn nothing_is_written_to_an_object_that_longhorn_has_not_taken_over_or_deletes() {
    let mut bed = Bed::new(&["sdb1"]);
    bed.object["spec"]["name"] = json!("");
    assert_eq!(bed.step().hold, Some(Hold::NotTakenOver));
    bed.object["spec"]["name"] = json!("k3s1");
    bed.object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert_eq!(bed.step().hold, Some(Hold::Deleting));
    assert_eq!(bed.writes, 0);
}

#[test]
fn what_a_user_sets_in_the_ui_is_kept() {
    let mut bed = Bed::new(&["sdb1"]);
    bed.settle();
    *bed.spec("sdb1") = json!({
        "diskType": "filesystem", "path": "/mnt/longhorn/sdb1", "diskDriver": "", "allowScheduling": false,
        "evictionRequested": true, "storageReserved": 5, "tags": ["mine"],
    });
    let decision = bed.settle();
    assert_eq!(bed.writes, 1);
    let Registration::Registered { kept, .. } = &decision.disks["sdb1"] else {
        panic!()
    };
    assert_eq!(
        *kept,
        [
            Leaf::EvictionRequested,
            Leaf::AllowScheduling,
            Leaf::StorageReserved,
            Leaf::Tags
        ]
    );
    // A change of policy does not touch what is theirs.
    bed.disks[0].tags = vec!["policy".into()];
    bed.disks[0].reserved = Some("10".into());
    bed.settle();
    assert_eq!(bed.writes, 1);
    assert_eq!(bed.spec("sdb1")["tags"], json!(["mine"]));
}

#[test]
fn a_leaf_set_back_to_what_we_set_is_ours_again() {
    let mut bed = Bed::new(&["sdb1"]);
    bed.disks[0].tags = vec!["a".into()];
    bed.settle();
    bed.spec("sdb1")["tags"] = json!(["mine"]);
    bed.settle();
    bed.spec("sdb1")["tags"] = json!(["a"]);
    bed.disks[0].tags = vec!["b".into()];
    bed.settle();
    assert_eq!(bed.spec("sdb1")["tags"], json!(["b"]));
}

#[test]
fn a_change_of_policy_reaches_the_leaves_that_are_ours() {
    let mut bed = Bed::new(&["sdb1"]);
    bed.settle();
    bed.disks[0].tags = vec!["ssd".into()];
    bed.disks[0].reserved = Some("50%".into());
    let decision = bed.step();
    assert_eq!(
        decision.patch.unwrap()["spec"]["disks"],
        json!({"sdb1": {"tags": ["ssd"], "storageReserved": 50_000}}),
        "only what changes is named"
    );
    bed.sync();
    bed.settle();
    assert_eq!(bed.writes, 2);
}

#[test]
fn giving_a_disk_back_sets_every_leaf_again_and_spends_the_word() {
    let mut bed = Bed::new(&["sdb1"]);
    bed.settle();
    bed.spec("sdb1")["tags"] = json!(["mine"]);
    bed.spec("sdb1")["allowScheduling"] = json!(false);
    bed.annotate(names::MANAGE, "sdb1");
    let decision = bed.settle();
    assert!(
        matches!(&decision.disks["sdb1"], Registration::Registered { kept, .. } if kept.is_empty())
    );
    assert_eq!(bed.spec("sdb1")["allowScheduling"], json!(true));
    assert!(
        bed.object["metadata"]["annotations"]
            .get(names::MANAGE)
            .is_none()
    );
}

#[test]
fn a_disk_that_a_user_removed_stays_removed_until_they_say_otherwise() {
    let mut bed = Bed::new(&["sdb1", "sdc1"]);
    bed.settle();
    bed.object["spec"]["disks"]
        .as_object_mut()
        .unwrap()
        .remove("sdb1");
    bed.sync();
    let decision = bed.settle();
    assert_eq!(decision.disks["sdb1"], Registration::Removed);
    assert_eq!(
        (bed.writes, bed.keys()),
        (2, vec!["sdc1".to_owned()]),
        "that it was removed is written down once"
    );
    // Other writes do not bring it back.
    bed.disks.push(disk("sdd1"));
    bed.settle();
    assert_eq!(bed.keys(), ["sdc1", "sdd1"]);
    bed.annotate(names::MANAGE, " sdb1 , nosuch");
    assert_eq!(bed.decide().unknown_given, ["nosuch"]);
    bed.settle();
    assert_eq!(bed.keys(), ["sdb1", "sdc1", "sdd1"]);
}

#[test]
fn a_word_is_kept_until_it_can_be_acted_upon() {
    let given = |bed: &Bed| {
        let annotations = &bed.object["metadata"]["annotations"];
        annotations.get(names::MANAGE).cloned()
    };
    let why = || Presence::NotMounted("nothing is mounted there".into());
    let refused = || DiskConfig::Broken("it is empty".into());
    for case in ["not mounted", "refused", "nothing was seen", "held"] {
        let mut bed = Bed::new(&["sdb1", "sdc1"]);
        bed.settle();
        bed.object["spec"]["disks"]
            .as_object_mut()
            .unwrap()
            .remove("sdb1");
        bed.sync();
        bed.settle();
        bed.spec("sdc1")["tags"] = json!(["mine"]);
        bed.annotate(names::MANAGE, "sdb1, sdc1");
        let whole = bed.disks.clone();
        match case {
            "not mounted" => bed.disks[0].presence = why(),
            "refused" => bed.disks[0].config = refused(),
            "held" => {
                bed.held = vec![HeldDisk {
                    device: "sdb".into(),
                    name: Some(bed.disks.remove(0).name),
                    id: None,
                    point: Some("/mnt/longhorn/sdb1".into()),
                    reason: "excluded".into(),
                    quarantined: false,
                }];
            }
            _ => {
                bed.disks.clear();
                bed.absence = Absence::Unknown;
            }
        }
        let decision = bed.settle();
        assert!(decision.unknown_given.is_empty(), "{case}");
        let left = given(&bed).unwrap();
        if case == "nothing was seen" {
            assert_eq!(left, "sdb1, sdc1");
        } else {
            assert_eq!(left, "sdb1", "{case}: the other one was acted upon");
            assert_eq!(bed.spec("sdc1")["tags"], json!([]), "{case}");
            bed.spec("sdc1")["tags"] = json!(["mine again"]);
            let writes = bed.writes;
            bed.settle();
            assert_eq!(bed.writes, writes, "{case}: and only once");
        }
        bed.disks = whole;
        bed.held.clear();
        bed.absence = Absence::Proven;
        bed.settle();
        assert_eq!(bed.keys(), ["sdb1", "sdc1"], "{case}");
        assert_eq!(given(&bed), None, "{case}");
    }
}

#[test]
fn a_key_that_a_user_made_again_is_the_users_whatever_becomes_of_its_disk() {
    for (id, path, seen) in [
        ("fs-of-sdb1", "/mnt/longhorn/sdb1", true),
        ("another", "/mnt/longhorn/sdb1", true),
        ("fs-of-sdb1", "/elsewhere", true),
        // Nobody looked while the key was gone.
        ("another", "/mnt/longhorn/sdb1", false),
        ("fs-of-sdb1", "/elsewhere", false),
    ] {
        let mut bed = Bed::new(&["sdb1", "sdc1"]);
        bed.vanished_off = true;
        bed.settle();
        let gone = bed.disks.remove(0);
        if seen {
            bed.object["spec"]["disks"]
                .as_object_mut()
                .unwrap()
                .remove("sdb1");
            bed.sync();
            bed.settle();
        }
        *bed.spec("sdb1") = json!({"path": path, "allowScheduling": true, "tags": ["theirs"]});
        bed.sync();
        let (writes, theirs) = (bed.writes, bed.spec("sdb1").clone());
        let back = HostDisk {
            id: id.into(),
            ..gone
        };
        bed.disks.push(back);
        let case = (id, path, seen);
        let standing = bed.settle().disks["sdb1"].clone();
        let left = matches!(
            standing,
            Registration::ByOthers { .. } | Registration::KeyTaken { .. }
        );
        assert!(left, "{case:?}: {standing:?}");
        if seen || path == "/elsewhere" {
            bed.disks.pop();
            let standing = bed.settle().disks.get("sdb1").cloned();
            assert_eq!(standing, None, "{case:?}: it is nobody's loss of ours");
        }
        assert_eq!(
            (bed.writes, bed.spec("sdb1").clone()),
            (writes, theirs),
            "{case:?}"
        );
    }
}

#[test]
fn removing_every_disk_by_hand_leaves_the_node_empty() {
    let mut bed = Bed::new(&["sdb1", "sdc1"]);
    bed.settle();
    bed.object["spec"]["disks"] = json!({});
    bed.sync();
    bed.settle();
    assert!(bed.keys().is_empty());
}

#[test]
fn a_longhorn_node_made_anew_gets_its_disks_again() {
    let mut bed = Bed::new(&["sdb1"]);
    bed.settle();
    bed.object = Bed::new(&[]).object;
    bed.settle();
    assert_eq!(bed.keys(), ["sdb1"]);
}

#[test]
fn a_new_disk_under_the_name_of_a_removed_one_is_registered() {
    let mut bed = Bed::new(&["sdb1"]);
    bed.settle();
    bed.object["spec"]["disks"] = json!({});
    bed.sync();
    bed.disks[0].id = "another".into();
    bed.settle();
    assert_eq!(bed.keys(), ["sdb1"]);
}

#[test]
fn a_new_disk_under_the_name_of_a_registered_one_is_held_back() {
    let mut bed = Bed::new(&["sdb1"]);
    bed.settle();
    bed.disks[0].id = "another".into();
    let decision = bed.settle();
    assert!(
        matches!(&decision.disks["sdb1"], Registration::KeyTaken { by } if by.contains("fs-of-sdb1"))
    );
    assert_eq!(bed.writes, 1);
}

#[test]
fn flux_with_other_keys_or_none_does_not_interact() {
    let mut bed = Bed::new(&["sdb1"]);
    bed.object["spec"]["disks"]["theirs"] = json!({"path": "/mnt/other", "allowScheduling": true});
    bed.sync();
    let before = bed.spec("theirs").clone();
    bed.settle();
    assert_eq!(bed.keys(), ["sdb1", "theirs"]);
    assert_eq!(*bed.spec("theirs"), before);
    // `disks: {}` by server-side apply changes nothing of a granular map.
    bed.settle();
    assert_eq!(bed.writes, 1);
}

#[test]
fn the_same_key_made_by_flux_first_is_left() {
    let mut bed = Bed::new(&["sdb1"]);
    bed.disks[0].tags = vec!["policy".into()];
    bed.object["spec"]["disks"]["sdb1"] =
        json!({"path": "/mnt/longhorn/sdb1/", "allowScheduling": false, "tags": ["flux"]});
    bed.sync();
    let decision = bed.settle();
    assert_eq!(
        decision.disks["sdb1"],
        Registration::ByOthers { key: "sdb1".into() }
    );
    assert_eq!(bed.writes, 0);
}

#[test]
fn the_same_key_taken_over_by_flux_afterwards_keeps_fluxs_leaves_without_a_fight() {
    let mut bed = Bed::new(&["sdb1"]);
    bed.disks[0].tags = vec!["policy".into()];
    bed.settle();
    for _ in 0..3 {
        bed.spec("sdb1")["tags"] = json!(["flux"]);
        bed.spec("sdb1")["allowScheduling"] = json!(false);
        bed.settle();
    }
    assert_eq!(bed.writes, 1);
    // Flux drops the key: the leaves it alone owned go, and longhorn-manager's next update writes zeros.
    bed.spec("sdb1")
        .as_object_mut()
        .unwrap()
        .remove("allowScheduling");
    bed.spec("sdb1").as_object_mut().unwrap().remove("tags");
    bed.settle();
    assert_eq!(
        bed.spec("sdb1")["tags"],
        json!(["policy"]),
        "an absent leaf is nobody's"
    );
    assert_eq!(bed.spec("sdb1")["allowScheduling"], json!(true));
}

#[test]
fn the_same_path_under_another_key_is_not_registered_twice() {
    let mut bed = Bed::new(&["sdb1"]);
    bed.object["spec"]["disks"]["byhand"] = json!({"path": "/mnt/x/../longhorn//sdb1/"});
    bed.sync();
    let decision = bed.settle();
    assert_eq!(
        decision.disks["sdb1"],
        Registration::ByOthers {
            key: "byhand".into()
        }
    );
    assert_eq!(bed.writes, 0);
}

#[test]
fn a_key_with_another_path_is_left() {
    let mut bed = Bed::new(&["sdb1"]);
    bed.settle();
    bed.spec("sdb1")["path"] = json!("/elsewhere");
    assert!(matches!(
        bed.settle().disks["sdb1"],
        Registration::KeyTaken { .. }
    ));
    assert_eq!(bed.writes, 1);
}

#[test]
fn disks_that_longhorn_made_from_our_seed_are_ours() {
    let mut bed = Bed::new(&["sdb1"]);
    let seed = DiskSpec {
        storage_reserved: 1,
        ..want(&bed.disks[0]).unwrap()
    };
    bed.seed.insert("sdb1".into(), seed.clone());
    bed.object["spec"]["disks"]["sdb1"] = serde_json::to_value(seed).unwrap();
    bed.sync();
    let decision = bed.settle();
    assert!(matches!(
        decision.disks["sdb1"],
        Registration::Registered { .. }
    ));
    assert_eq!(
        bed.spec("sdb1")["storageReserved"],
        json!(0),
        "the seed cannot say 0, the spec can"
    );
    assert_eq!(bed.writes, 1);
}

#[test]
fn a_vanished_disk_stays_registered_and_keeps_scheduling_unless_told_otherwise() {
    let mut bed = Bed::new(&["sdb1"]);
    bed.settle();
    let gone = bed.disks.remove(0);
    assert_eq!(
        bed.settle().disks["sdb1"],
        Registration::Missing { doubt: None }
    );
    assert_eq!((bed.writes, bed.keys().len()), (1, 1));
    bed.vanished_off = true;
    bed.absence = Absence::Doubtful("sdz cannot be read".into());
    assert!(
        bed.settle().disks["sdb1"]
            .to_string()
            .contains("not seen; sdz")
    );
    bed.absence = Absence::Unknown;
    assert!(!bed.settle().disks.contains_key("sdb1"));
    assert_eq!(
        bed.writes, 1,
        "a pass that saw too little proves no absence"
    );
    bed.absence = Absence::Proven;
    bed.settle();
    assert_eq!(bed.spec("sdb1")["allowScheduling"], json!(false));
    assert_eq!(bed.keys(), ["sdb1"]);
    // It comes back: what we turned off, we turn on.
    bed.disks.push(gone);
    bed.settle();
    assert_eq!(bed.spec("sdb1")["allowScheduling"], json!(true));
    assert_eq!(bed.writes, 3);
}

#[test]
fn a_disk_that_cannot_be_read_keeps_its_key_and_is_never_taken_for_another() {
    let mut bed = Bed::new(&["sdb1", "sdc1"]);
    bed.vanished_off = true;
    bed.settle();
    let unreadable = |id: Option<&str>| UnreadableDisk {
        name: DiskName::new("sdb1").unwrap(),
        id: id.map(str::to_owned),
        why: "I/O error".into(),
    };
    bed.disks.remove(0);
    bed.absence = Absence::Doubtful("1 disk cannot be read".into());
    for id in [None, Some("fs-of-sdb1")] {
        bed.unreadable = vec![unreadable(id)];
        let standing = bed.settle().disks["sdb1"].clone();
        assert!(
            matches!(&standing, Registration::Unreadable { reason } if reason == "I/O error"),
            "{standing:?}"
        );
    }
    assert_eq!(bed.writes, 1, "it is not gone");
    // Registered by somebody else, or not at all.
    bed.unreadable = vec![unreadable(Some("another"))];
    assert!(matches!(
        bed.settle().disks["sdb1"],
        Registration::ByOthers { .. }
    ));
    bed.object["spec"]["disks"]
        .as_object_mut()
        .unwrap()
        .remove("sdb1");
    bed.sync();
    assert!(matches!(
        bed.settle().disks["sdb1"],
        Registration::Refused { .. }
    ));
}

#[test]
fn a_disk_that_is_here_and_held_back_is_not_gone_and_keeps_its_scheduling() {
    for quarantined in [false, true] {
        let mut bed = Bed::new(&["sdb1", "sdc1"]);
        bed.vanished_off = true;
        bed.settle();
        bed.disks.remove(0);
        let held = |name: Option<&str>, id: Option<&str>, mounted: bool| HeldDisk {
            device: "sdb".into(),
            name: name.map(|n| DiskName::new(n).unwrap()),
            id: id.map(str::to_owned),
            point: mounted.then(|| "/mnt/longhorn/sdb1".into()),
            reason: "excluded by rule 1".into(),
            quarantined,
        };
        // By its filesystem, or by where it is mounted when that cannot be told.
        for disk in [
            held(Some("sdb1"), Some("fs-of-sdb1"), true),
            held(None, Some("fs-of-sdb1"), true),
            held(Some("sdb1"), None, true),
        ] {
            bed.held = vec![held(Some("sdb1"), Some("fs-of-sdb1"), false), disk];
            for absence in [Absence::Proven, Absence::Doubtful("x".into())] {
                bed.absence = absence;
                let standing = bed.settle().disks["sdb1"].clone();
                let Registration::Held {
                    device,
                    reason,
                    mounted: true,
                    quarantined: doubt,
                } = &standing
                else {
                    panic!("{standing:?}");
                };
                assert_eq!((device.as_str(), *doubt), ("sdb", quarantined));
                assert_eq!(reason, "excluded by rule 1");
            }
        }
        bed.absence = Absence::Proven;
        bed.held = vec![held(None, Some("fs-of-sdb1"), false)];
        let standing = bed.settle().disks["sdb1"].clone();
        assert!(
            matches!(standing, Registration::Held { mounted: false, .. }),
            "{standing:?}"
        );
        // Mounted elsewhere, where Longhorn does not look for it.
        let mut elsewhere = held(Some("old"), Some("fs-of-sdb1"), false);
        elsewhere.point = Some("/mnt/longhorn/old".into());
        bed.held = vec![elsewhere];
        let standing = bed.settle().disks["sdb1"].clone();
        assert!(
            matches!(standing, Registration::Held { mounted: false, .. }),
            "{standing:?}"
        );
        // Another filesystem at its mount point.
        bed.held = vec![held(Some("sdb1"), Some("another"), true)];
        let standing = bed.settle().disks["sdb1"].clone();
        assert!(
            matches!(standing, Registration::KeyTaken { .. }),
            "{standing:?}"
        );
        assert_eq!(bed.spec("sdb1")["allowScheduling"], json!(true));
        assert_eq!(bed.writes, 1);
        // One of that name from elsewhere is not it.
        bed.held = vec![held(Some("sdb1"), Some("another"), false)];
        let standing = bed.settle().disks["sdb1"].clone();
        assert_eq!(standing, Registration::Missing { doubt: None });
    }
}

#[test]
fn scheduling_that_a_user_turned_off_before_the_disk_vanished_stays_off_when_it_returns() {
    let mut bed = Bed::new(&["sdb1"]);
    bed.vanished_off = true;
    bed.settle();
    bed.spec("sdb1")["allowScheduling"] = json!(false);
    let gone = bed.disks.remove(0);
    bed.settle();
    bed.disks.push(gone);
    bed.settle();
    assert_eq!(bed.spec("sdb1")["allowScheduling"], json!(false));
}

#[test]
fn scheduling_is_not_turned_on_while_a_user_evicts_the_disk() {
    let mut bed = Bed::new(&["sdb1"]);
    bed.vanished_off = true;
    bed.settle();
    let gone = bed.disks.remove(0);
    bed.settle();
    bed.spec("sdb1")["evictionRequested"] = json!(true);
    bed.disks.push(gone);
    bed.settle();
    // Longhorn's webhook denies eviction with scheduling on.
    assert_eq!(bed.spec("sdb1")["allowScheduling"], json!(false));
}

/// longhorn/longhorn, `types.go`: one bad path in the annotation drops the whole list.
#[test]
fn a_disk_that_is_not_mounted_is_not_shown_to_longhorn() {
    let mut bed = Bed::new(&["sdb1"]);
    bed.disks[0].presence = Presence::NotMounted("no such mount on the host".into());
    let decision = bed.settle();
    assert!(matches!(
        decision.disks["sdb1"],
        Registration::NotMounted {
            registered: false,
            ..
        }
    ));
    assert!(bed.keys().is_empty());
}

#[test]
fn a_copy_of_a_disk_of_another_node_is_quarantined() {
    let mut bed = Bed::new(&["sdb1", "sdc1"]);
    bed.disks[0].config = DiskConfig::Uuid("u1".into());
    bed.others = None;
    let decision = bed.step();
    assert!(decision.needs_others);
    assert!(matches!(
        decision.disks["sdb1"],
        Registration::Waiting { .. }
    ));
    bed.sync();
    bed.others = Some([("u1".to_owned(), "k3s2".to_owned())].into());
    let decision = bed.settle();
    assert!(
        matches!(&decision.disks["sdb1"], Registration::Quarantined { node, .. } if node == "k3s2")
    );
    assert_eq!(
        bed.keys(),
        ["sdc1"],
        "the other disk is registered all the same"
    );
    bed.others = Some(BTreeMap::new());
    bed.settle();
    assert_eq!(bed.keys(), ["sdb1", "sdc1"]);
    assert!(!bed.decide().needs_others, "a registered disk asks nobody");
}

#[test]
fn what_is_not_known_of_other_nodes_lifts_no_quarantine_and_registers_nothing() {
    let mut bed = Bed::new(&["sdb1"]);
    bed.disks[0].config = DiskConfig::Uuid("u1".into());
    bed.others = Some([("u1".to_owned(), "k3s2".to_owned())].into());
    bed.old = true;
    let decision = bed.step();
    assert!(decision.by_others && !decision.needs_others);
    assert!(matches!(
        decision.disks["sdb1"],
        Registration::Quarantined { .. }
    ));
    // Given, it is looked at again before the word is spent.
    bed.annotate(names::MANAGE, "sdb1");
    let decision = bed.step();
    assert!(decision.needs_others && decision.changes.is_empty());
    bed.object["metadata"]["annotations"] = json!({});
    // What is not among them is not enough either when they are old.
    bed.others = Some(BTreeMap::new());
    bed.quarantined.insert("sdb1".into());
    for others in [Some(BTreeMap::new()), None] {
        bed.others = others;
        let decision = bed.step();
        assert!(decision.needs_others && decision.changes.is_empty());
        assert!(matches!(
            decision.disks["sdb1"],
            Registration::Waiting {
                quarantined: true,
                ..
            }
        ));
    }
    // Nobody is asked while the answer would be of no use.
    bed.object["spec"]["disks"]["theirs"] = json!({"path": "/x"});
    assert!(!bed.step().needs_others);
    bed.sync();
    bed.others = Some(BTreeMap::new());
    bed.old = false;
    bed.settle();
    assert_eq!(bed.keys(), ["sdb1", "theirs"]);
}

#[test]
fn a_mark_that_was_not_read_keeps_a_disk_back() {
    for (why, refused) in [(None, false), (Some("it hangs".to_owned()), true)] {
        let mut bed = Bed::new(&["sdb1"]);
        bed.disks[0].config = DiskConfig::Unread(why);
        let standing = bed.settle().disks["sdb1"].clone();
        assert_eq!(matches!(standing, Registration::Refused { .. }), refused);
        assert_eq!(matches!(standing, Registration::Waiting { .. }), !refused);
        assert_eq!(bed.writes, 0);
    }
}

#[test]
fn a_copy_beside_its_original_is_quarantined() {
    let mut bed = Bed::new(&["sdb1"]);
    bed.settle();
    let mut copy = disk("sdc1");
    copy.config = DiskConfig::Uuid("uuid-sdb1".into());
    bed.disks.push(copy);
    assert!(
        matches!(&bed.settle().disks["sdc1"], Registration::Quarantined { node, .. } if node == "k3s1")
    );
}

#[test]
fn a_copy_is_quarantined_although_its_original_is_not_ready() {
    let mut bed = Bed::new(&["sdb1"]);
    bed.settle();
    let ready = &mut bed.object["status"]["diskStatus"]["sdb1"]["conditions"][0];
    *ready = json!({"type": "Ready", "status": "False", "reason": "NodeNotReady"});
    let mut copy = disk("sdc1");
    copy.config = DiskConfig::Uuid("uuid-sdb1".into());
    bed.disks.push(copy);
    let standing = bed.step().disks["sdc1"].clone();
    assert!(
        matches!(&standing, Registration::Quarantined { node, .. } if node == "k3s1"),
        "{standing:?}"
    );
    assert_eq!(bed.writes, 1);
    // Of the user's word neither: its original is mounted.
    bed.annotate(names::MANAGE, "sdc1");
    let standing = bed.step().disks["sdc1"].clone();
    assert!(
        matches!(&standing, Registration::Quarantined { .. }),
        "{standing:?}"
    );
    // The same filesystem that is mounted elsewhere now is no copy.
    let mut moved = disk("sdd1");
    moved.id = "fs-of-sdb1".into();
    moved.config = DiskConfig::Uuid("uuid-sdb1".into());
    bed.disks = vec![moved];
    assert_eq!(bed.step().disks["sdd1"], Registration::Pending);
}

#[test]
fn a_disk_that_cannot_be_read_holds_up_no_other_that_bears_a_mark() {
    let mut bed = Bed::new(&["sdb1", "sdc1"]);
    bed.disks[1].config = DiskConfig::Uuid("uuid-of-sdc1".into());
    for removed in [false, true] {
        if removed {
            bed.disks[0].config = DiskConfig::Absent;
            bed.settle();
            bed.object["spec"]["disks"] = json!({});
            bed.sync();
            bed.settle();
        }
        bed.disks[0].config = DiskConfig::Unread(Some("it hangs".into()));
        let name = if removed { "sde1" } else { "sdd1" };
        let mut moved_in = disk(name);
        moved_in.config = DiskConfig::Uuid("uuid-of-another".into());
        bed.disks.truncate(2);
        bed.disks.push(moved_in);
        let decision = bed.settle();
        assert!(bed.keys().contains(&name.to_owned()), "{decision:?}");
    }
}

#[test]
fn a_copy_and_its_original_are_not_registered_together_when_the_longhorn_node_is_made_anew() {
    let mut bed = Bed::new(&["sdb1"]);
    bed.settle();
    let mut copy = disk("sdc1");
    copy.config = DiskConfig::Uuid("uuid-sdb1".into());
    bed.disks.push(copy);
    bed.settle();
    bed.object = Bed::new(&[]).object;
    // The mark of the registered one was of no interest until now.
    bed.disks[0].config = DiskConfig::Unread(None);
    let decision = bed.step();
    assert!(
        matches!(decision.disks["sdc1"], Registration::Waiting { .. }),
        "{decision:?}"
    );
    bed.disks[0].config = DiskConfig::Uuid("uuid-sdb1".into());
    let decision = bed.settle();
    for (name, other) in [("sdb1", "sdc1"), ("sdc1", "sdb1")] {
        let standing = &decision.disks[name];
        assert!(
            matches!(standing, Registration::Quarantined { disk: Some(disk), .. } if disk == other),
            "{standing:?}"
        );
        assert!(standing.to_string().contains(names::MANAGE));
    }
    assert!(bed.keys().is_empty());
    // The one that is named, and only that.
    bed.annotate(names::MANAGE, "sdb1");
    bed.step();
    assert_eq!(bed.keys(), ["sdb1"]);
    let decision = bed.step();
    assert!(matches!(
        &decision.disks["sdc1"],
        Registration::Quarantined { disk: Some(disk), .. } if disk == "sdb1"
    ));
    // Taken out of Longhorn by its user, it makes room for the other one.
    bed.sync();
    bed.object["spec"]["disks"] = json!({});
    bed.sync();
    bed.settle();
    assert_eq!(bed.keys(), ["sdc1"]);
}

#[test]
fn a_broken_longhorn_disk_cfg_is_refused_with_what_to_do() {
    let mut bed = Bed::new(&["sdb1"]);
    bed.disks[0].config = DiskConfig::Broken("it is empty".into());
    let text = bed.settle().disks["sdb1"].to_string();
    assert!(
        text.contains("/mnt/longhorn/sdb1/longhorn-disk.cfg") && text.contains("delete"),
        "{text}"
    );
}

#[test]
fn one_disk_with_bad_values_does_not_keep_the_others_from_being_registered() {
    let mut bed = Bed::new(&["sdb1", "sdc1", "sdd1"]);
    bed.disks[0].tags = vec!["bad tag".into()];
    bed.disks[1].reserved = Some("200%".into());
    let decision = bed.settle();
    assert!(matches!(
        decision.disks["sdb1"],
        Registration::Refused { .. }
    ));
    assert!(matches!(
        decision.disks["sdc1"],
        Registration::Refused { .. }
    ));
    assert_eq!(bed.keys(), ["sdd1"]);
}

#[test]
fn a_registered_disk_whose_settings_become_invalid_stays_registered_and_says_so() {
    let mut bed = Bed::new(&["sdb1"]);
    bed.settle();
    bed.disks[0].reserved = Some("200%".into());
    bed.disks[0].tags = vec!["new".into()];
    bed.annotate(names::MANAGE, "sdb1");
    let decision = bed.settle();
    let standing = &decision.disks["sdb1"];
    assert!(
        matches!(
            standing,
            Registration::Registered {
                ready: Some(true),
                invalid: Some(_),
                ..
            }
        ),
        "{standing:?}"
    );
    let text = standing.to_string();
    assert!(
        text.starts_with("registered, ready") && text.contains("200%"),
        "{text}"
    );
    assert_eq!(bed.writes, 1);
    bed.disks[0].reserved = Some("10%".into());
    bed.settle();
    assert_eq!(bed.spec("sdb1")["tags"], json!(["new"]));
    let annotations = &bed.object["metadata"]["annotations"];
    assert_eq!(annotations.get(names::MANAGE), None);
}

#[test]
fn two_disks_of_one_name_are_both_refused() {
    let mut bed = Bed::new(&["sdb1", "sdb1"]);
    assert!(matches!(
        bed.settle().disks["sdb1"],
        Registration::Refused { .. }
    ));
    assert!(bed.keys().is_empty());
}

#[test]
fn an_unreadable_memory_stops_every_write_and_says_how_to_go_on() {
    for text in ["{", "[]", r#"{"v":2,"disks":{}}"#, r#"{"v":1}"#] {
        let mut bed = Bed::new(&["sdb1"]);
        bed.annotate(names::APPLIED, text);
        let decision = bed.step();
        assert_eq!(bed.writes, 0);
        assert!(decision.hold.unwrap().to_string().contains(names::APPLIED));
    }
}

#[test]
fn objects_of_every_release_and_odd_ones_decode() {
    for (spec, status) in [
        (json!(null), json!(null)),
        (
            json!({"disks": null}),
            json!({"diskStatus": null, "conditions": null}),
        ),
        (
            json!({"disks": {"a": {"tags": "oops", "storageReserved": "1"}}, "new": 1}),
            json!({}),
        ),
        (
            json!({"disks": {"a": {}}}),
            json!({"diskStatus": {"a": {"conditions": null, "diskUUID": null, "healthData": {"x": 1}}}}),
        ),
    ] {
        LonghornNode::decode(json!({"metadata": {"name": "n"}, "spec": spec, "status": status}))
            .unwrap();
    }
    let bad = json!({"spec": {"disks": ["not a map"]}});
    assert!(
        LonghornNode::decode(bad).is_err(),
        "a disk must not be overlooked"
    );
}

#[test]
fn paths_are_compared_as_go_cleans_them() {
    for (path, clean) in [
        ("/x", "/x"),
        ("/x/", "/x"),
        ("/y/../x", "/x"),
        ("/../x", "/x"),
        ("//x//y/.", "/x/y"),
        ("/", "/"),
        ("", "."),
        ("a/..", "."),
        ("../a", "../a"),
    ] {
        assert_eq!(clean_path(path), clean, "{path}");
    }
}

fn any_live() -> impl Strategy<Value = Value> {
    let leaf = (
        proptest::option::of(any::<bool>()),
        proptest::option::of(any::<bool>()),
        proptest::option::of(0_i64..3),
        proptest::option::of(proptest::collection::vec("[ab]", 0..3)),
        prop_oneof!["/mnt/longhorn/sd[bcd]1", "/other"],
    );
    proptest::collection::btree_map("sd[bcdx]1", leaf, 0..4).prop_map(|disks| {
        let disks: serde_json::Map<String, Value> = disks
            .into_iter()
            .map(|(key, (scheduling, eviction, reserved, tags, path))| {
                let mut disk = json!({"path": path, "diskType": "filesystem"});
                for (leaf, value) in [
                    ("allowScheduling", scheduling.map(Value::from)),
                    ("evictionRequested", eviction.map(Value::from)),
                    ("storageReserved", reserved.map(Value::from)),
                    ("tags", tags.map(Value::from)),
                ] {
                    if let Some(value) = value {
                        disk[leaf] = value;
                    }
                }
                (key, disk)
            })
            .collect();
        Value::Object(disks)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever others have done to the object after we registered: one more write at most, then quiet; no
    /// key ever goes; a key that was never ours never changes.
    #[test]
    fn any_object_settles_without_a_loss(
        names in proptest::collection::btree_set("sd[bcd]1", 0..4),
        first in any::<bool>(),
        theirs in any_live(),
        vanished_off in any::<bool>(),
        tags in proptest::collection::vec("[ab]", 0..3),
    ) {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut bed = Bed::new(&names);
        bed.vanished_off = vanished_off;
        let mut ours = Vec::new();
        if first {
            bed.settle();
            ours = bed.keys();
        }
        bed.object["spec"]["disks"] = theirs.clone();
        bed.sync();
        let before = bed.object["spec"]["disks"].clone();
        for disk in &mut bed.disks {
            disk.tags = tags.clone();
        }
        let writes = bed.writes;
        bed.settle();
        prop_assert!(bed.writes <= writes + 1);
        for (key, spec) in before.as_object().unwrap() {
            let after = bed.object["spec"]["disks"].get(key);
            prop_assert!(after.is_some(), "{key} was removed");
            if !ours.contains(key) {
                prop_assert_eq!(after.unwrap(), spec);
            }
            prop_assert_eq!(&after.unwrap()["path"], &spec["path"]);
        }
    }
}
