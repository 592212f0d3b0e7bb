use storage_core::model::Transport;

use super::*;

fn with(
    file: &str,
    environment: &[(&str, &str)],
    flags: &[(&'static str, &str)],
) -> Result<Config, String> {
    let sources = Sources {
        flags: flags
            .iter()
            .map(|(k, v)| (*k, vec![(*v).to_owned()]))
            .collect(),
        environment: environment
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect(),
        file: (!file.is_empty()).then_some(("dd.yaml", file)),
        host_name: "worker-1".to_owned(),
    };
    resolve(&sources).map_err(|e| e.to_string())
}

fn refused(file: &str) -> String {
    with(file, &[], &[]).map(|c| c.to_yaml()).unwrap_err()
}

#[test]
fn without_any_source_the_documented_defaults_hold() {
    let config = with("", &[], &[]).unwrap();
    assert_eq!(config.settings, agent::Config::new("worker-1"));
    assert!(config.origins.values().all(|o| *o == Origin::Default));
}

#[test]
fn flags_win_over_environment_over_overrides_over_the_file() {
    let file = "minSize: 1GiB\nsamples: 100\nparallel: 2\nlayout: disk\nnodes:\n  - match: worker-*\n    minSize: 2GiB\n    samples: 200\n    parallel: 3\n";
    let environment = [
        ("DISK_DISCOVERY_MIN_SIZE", "3GiB"),
        ("DISK_DISCOVERY_SAMPLES", "300"),
    ];
    let config = with(file, &environment, &[("minSize", "4GiB")]).unwrap();
    let policy = &config.settings.policy;
    assert_eq!(
        (policy.min_size >> 30, policy.samples, policy.parallel),
        (4, 300, 3)
    );
    let said: Vec<String> = ["minSize", "samples", "parallel", "layout", "proof"]
        .map(|key| config.origins[key].to_string())
        .to_vec();
    assert_eq!(
        said,
        [
            "flag --min-size",
            "environment DISK_DISCOVERY_SAMPLES",
            "dd.yaml line 9, for nodes worker-*",
            "dd.yaml line 4",
            "default"
        ]
    );
}

#[test]
fn later_overrides_win_and_those_of_other_nodes_do_not_hold() {
    let file = "nodes:\n  - match: [worker-1, x]\n    parallel: 2\n  - match: worker-?\n    parallel: 3\n  - match: other\n    parallel: 4\n";
    assert_eq!(with(file, &[], &[]).unwrap().settings.policy.parallel, 3);
    assert_eq!(
        with(file, &[], &[("nodeName", "other")])
            .unwrap()
            .settings
            .policy
            .parallel,
        4
    );
}

#[test]
fn an_unknown_key_is_refused_with_file_line_and_the_nearest_key() {
    let said = refused("layout: gpt\nminsize: 1GiB\n");
    assert_eq!(
        said,
        "dd.yaml:2: key \"minsize\": there is no such setting; did you mean minSize?"
    );
    assert!(refused("min-size: 1GiB\n").contains("did you mean minSize?"));
    let said = refused("nodes:\n  - match: other\n    paralel: 2\n");
    assert_eq!(
        said,
        "dd.yaml:3: key \"paralel\": there is no such setting; did you mean parallel?"
    );
}

#[test]
fn a_bad_value_names_key_line_value_and_what_is_accepted() {
    let said = refused("\nfilesystem: ext3\n");
    assert!(
        said.starts_with("dd.yaml:2: filesystem \"ext3\": "),
        "{said}"
    );
    assert!(said.contains("ext4, xfs"), "{said}");
    assert!(refused("minSize: [1]\n").contains("takes a single value, not a list"));
    assert!(refused("parallel: 65\n").contains("from 1 to 64"));
    assert!(refused("removable: yes\n").contains("true and false"));
    assert!(refused("mountRoot: mnt\n").contains("absolute"));
    assert!(refused("mountRoot: /\n").contains("root directory"));
    assert!(refused("mountRoot: /mnt/../etc\n").contains("absolute"));
    assert!(refused("transports: [sata, satta]\n").contains("did you mean sata?"));
    assert!(
        refused("nodes:\n  - match: other\n    parallel: 0\n").starts_with("dd.yaml:3: parallel")
    );
    let said = with("", &[("DISK_DISCOVERY_PROOF", "ful")], &[]).unwrap_err();
    assert_eq!(
        said,
        "DISK_DISCOVERY_PROOF: value \"ful\": did you mean full? accepted are sampled, full; --help tells what --proof takes"
    );
}

#[test]
fn an_unknown_variable_is_refused_and_those_of_others_are_ignored() {
    let said = with("", &[("DISK_DISCOVERY_MINSIZE", "1")], &[]).unwrap_err();
    assert!(
        said.contains("did you mean DISK_DISCOVERY_MIN_SIZE?"),
        "{said}"
    );
    assert!(
        with(
            "",
            &[("HOME", "/"), ("DISK_DISCOVERY_LOG_LEVEL", "info")],
            &[]
        )
        .is_ok()
    );
}

#[test]
fn rules_of_the_file_have_names_tags_and_reserves() {
    let file = "include:\n  - name: fast\n    select: {transport: nvme, serial: 00123}\n    single: true\n    tags: [fast, ssd]\n    storageReserved: 10GiB\n";
    let policy = with(file, &[], &[]).unwrap().settings.policy;
    let rule = &policy.include[0];
    assert_eq!(rule.select.transport, Some(Transport::Nvme));
    assert_eq!(rule.select.serial.as_deref(), Some("00123"));
    assert_eq!(rule.tags, ["fast", "ssd"]);
    assert_eq!(rule.storage_reserved.as_deref(), Some("10737418240"));
    assert!(rule.single);
}

#[test]
fn a_rule_without_conditions_or_with_unknown_ones_is_refused() {
    assert!(
        refused("exclude:\n  - name: all\n")
            .contains("dd.yaml:2: exclude: a rule needs conditions")
    );
    assert!(refused("exclude:\n  - select:\n      modell: X\n").contains("did you mean model?"));
    assert!(refused("exclude:\n  - selct: {model: X}\n").contains("did you mean select?"));
    assert!(refused("include: {model: X}\n").contains("takes a list of rules"));
}

#[test]
fn lists_of_a_stronger_source_replace_those_of_a_weaker_one() {
    let config = with("transports: [sata, nvme]\n", &[], &[("transports", "loop")]).unwrap();
    assert_eq!(config.settings.policy.transports, [Transport::Loop].into());
}

#[test]
fn approvals_must_look_like_what_explain_prints() {
    let config = with(
        "",
        &[(
            "DISK_DISCOVERY_APPROVALS",
            "wwn-0x5000@0123456789abcdef01234567",
        )],
        &[],
    )
    .unwrap();
    assert_eq!(
        config.settings.policy.approvals[0].hash,
        "0123456789abcdef01234567"
    );
    for bad in [
        "sda",
        "x@",
        "x@0123",
        "x@0123456789abcdef",
        "x@0123456789ABCDEF01234567",
        "@0123456789abcdef01234567",
        "a/b@0123456789abcdef01234567",
    ] {
        assert!(with("", &[], &[("approvals", bad)]).is_err(), "{bad}");
    }
}

#[test]
fn options_that_would_undo_the_safe_ones_are_refused() {
    for bad in ["exec", "suid", "dev", "remount", "a b"] {
        assert!(with("", &[], &[("mountOptions", bad)]).is_err(), "{bad}");
    }
    assert_eq!(
        with("", &[], &[("mountOptions", "discard")])
            .unwrap()
            .settings
            .policy
            .mount_options,
        ["discard"]
    );
}

#[test]
fn no_disk_can_fit_between_crossed_limits() {
    let said = refused("minSize: 2GiB\nmaxSize: 1GiB\n");
    assert!(
        said.starts_with("dd.yaml:2: maxSize \"1GiB\": is less than minSize 2GiB"),
        "{said}"
    );
}

#[test]
fn the_printed_settings_are_a_file_that_says_the_same() {
    let file = "nodeName: n1\nmaxSize: 3TiB\ncluster: 6f2d0c1e-5b7a-4c3d-9e84-1f0ab7c6d552\ninclude:\n  - name: 'a \"b\" # c'\n    select: {model: 'X: [y]', minSize: 1GiB, rotational: true}\n    tags: [t]\n    storageReserved: 5%\nexclude: ['path=/dev/sd*']\nreadTimeout: 1500ms\nmountOptions: [discard]\napprovals: [serial-A@0123456789abcdef01234567]\nallowUnprotectedMountPoint: true\n";
    let first = with(file, &[], &[]).unwrap();
    let printed = first.to_yaml();
    let second = with(&printed, &[], &[]).unwrap_or_else(|e| panic!("{e}\n{printed}"));
    assert_eq!(first.settings, second.settings, "{printed}");
    assert!(
        printed.contains("maxSize: 3TiB # dd.yaml line 2\n"),
        "{printed}"
    );
    assert!(printed.contains("layout: gpt # default\n"), "{printed}");
}

#[test]
fn the_agents_settings_are_read_and_refused_when_they_make_no_sense() {
    let file = "observeOnly: true\nnamespace: storage\nlisten: '[::]:80'\nresyncPeriod: 60\nstartSpread: 0s\n\
                onMissingDisk: disable-scheduling\ngracePeriod: 50s\nhostProc: /host/proc\nhostEtc: /host/etc\n\
                kubeconfig: k\ndiskType: filesystem\n";
    let config = with(file, &[], &[]).unwrap();
    let settings = &config.settings;
    assert!(settings.observe_only && settings.vanished_off);
    assert_eq!(
        (settings.namespace.as_str(), settings.listen.port()),
        ("storage", 80)
    );
    let seconds = [settings.resync, settings.start_spread, settings.grace].map(|t| t.as_secs());
    assert_eq!(seconds, [60, 0, 50]);
    assert_eq!(settings.host.proc, Path::new("/host/proc"));
    assert_eq!(settings.host.etc, Path::new("/host/etc"));
    assert_eq!(settings.kubeconfig.as_deref(), Some(Path::new("k")));
    let again = with(&config.to_yaml(), &[], &[]).unwrap();
    assert_eq!(again.settings, *settings);
    for bad in [
        "listen: 9880",
        "observeOnly: 1",
        "namespace: a/b",
        "namespace: ''",
        "resyncPeriod: 1",
        "resyncPeriod: 25h",
        "onMissingDisk: delete",
        "diskType: file",
        "diskType: block",
        "startSpread: 2h",
        "gracePeriod: -1",
        "hostProc: proc",
        "kubeconfig: [a]",
    ] {
        let said = refused(bad);
        assert!(
            said.starts_with(&format!("dd.yaml:1: {}", bad.split(':').next().unwrap())),
            "{said}"
        );
    }
}

#[test]
fn kubeconfig_comes_from_the_common_variable_too_and_our_own_wins() {
    let common = ("KUBECONFIG", "/common");
    let origin = |environment: &[(&str, &str)], flags: &[(&'static str, &str)]| {
        let config = with("kubeconfig: /file\n", environment, flags).unwrap();
        let path = config.settings.kubeconfig.unwrap();
        format!("{} {}", path.display(), config.origins["kubeconfig"])
    };
    assert_eq!(origin(&[common], &[]), "/common environment KUBECONFIG");
    let own = ("DISK_DISCOVERY_KUBECONFIG", "/own");
    for both in [[common, own], [own, common]] {
        assert_eq!(
            origin(&both, &[]),
            "/own environment DISK_DISCOVERY_KUBECONFIG"
        );
    }
    assert_eq!(
        origin(&[own], &[("kubeconfig", "/flag")]),
        "/flag flag --kubeconfig"
    );
    assert_eq!(origin(&[("KUBECONFIG", "")], &[]), "/file dd.yaml line 1");
}

#[test]
fn a_file_that_is_no_mapping_is_refused() {
    assert!(refused("- a\n").contains("a list stands where key: value pairs must"));
    assert!(refused("a: [\n").starts_with("dd.yaml:1: read the configuration: "));
    assert!(with("# nothing\n", &[], &[]).is_ok());
}

#[test]
fn globs_match_whole_names() {
    for (glob, name, yes) in [
        ("*", "", true),
        ("a*c", "abbc", true),
        ("a*c", "abbd", false),
        ("a?c", "abc", true),
        ("a?c", "ac", false),
        ("*-?-*", "x-1-y", true),
        ("a", "ab", false),
    ] {
        assert_eq!(glob_matches(glob, name), yes, "{glob} {name}");
    }
}
