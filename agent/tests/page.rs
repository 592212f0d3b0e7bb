//! The page in a real browser: headless Chromium lays it out, and a script that only the test adds measures it.
//!
//! `SCREENSHOTS=DIR cargo test -p disk-discovery-agent --test page` keeps pictures, in light and dark, to look at.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agent::http::{Board, router};
use agent::longhorn::Registration;
use agent::metrics::Metrics;
use agent::page::{STYLE, render};
use agent::view::{DiskView, NodeView};
use storage_core::model::VerdictKind;

const WIDTHS: [u32; 3] = [360, 820, 1600];
/// Makes Chromium prefer the dark scheme.
const DARK: &str = "--blink-settings=preferredColorScheme=0";

fn disk(device: &str, verdict: VerdictKind, reasons: &[&str]) -> DiskView {
    DiskView {
        device: device.into(),
        name: None,
        disk_id: Some(format!("wwn-0x5000c500a1b2{device}")),
        verdict: Some(verdict),
        reasons: reasons.iter().map(|r| (*r).to_owned()).collect(),
        remedy: None,
        approval: None,
        size: Some(4_000_787_030_016),
        model: Some("ST4000VN008-2DR166".into()),
        transport: "sata".into(),
        path: None,
        failure: None,
        longhorn: None,
        notable: true,
    }
}

fn prepared(device: &str, longhorn: Registration) -> DiskView {
    DiskView {
        name: Some(format!("{device}1")),
        path: Some(format!("/mnt/longhorn/{device}1")),
        longhorn: Some(longhorn),
        ..disk(
            device,
            VerdictKind::Ours,
            &["GPT partition 1 is marked ready and its filesystem UUID is tied to it"],
        )
    }
}

fn registered() -> Registration {
    Registration::Registered {
        ready: Some(true),
        message: String::new(),
        kept: vec![],
        invalid: None,
    }
}

fn node(disks: Vec<DiskView>) -> NodeView {
    NodeView {
        version: "0.1.0 (0123456789ab)",
        node: "k3s1".into(),
        longhorn: "node k3s1 is there, 3 disks".into(),
        seed: "equal to the disk specs".into(),
        disks,
        ..NodeView::default()
    }
}

fn three() -> NodeView {
    let mut foreign = disk(
        "sdc",
        VerdictKind::Foreign,
        &[
            "ext4 signature at byte 1080 (version 1.0, UUID 7674f7ed-a4c1-47aa-9f5e-0a2d1c9a7b10, label \"backup\")",
            "unrecognised data at byte 1048576 of /dev/sdc (+2 more)",
        ],
    );
    foreign.remedy = Some("empty it, or approve what was seen on it".into());
    foreign.approval = Some("wwn-0x5000c500a1b2c3d4@8d1f0c7be2a94f3500c47e19".into());
    node(vec![
        disk(
            "sda",
            VerdictKind::System,
            &["the running system is on it: / (ext4 on 8:2, /proc/1/mountinfo)"],
        ),
        prepared("sdb", registered()),
        foreign,
    ])
}

/// A full shelf, with every standing.
fn many() -> NodeView {
    let mut disks = vec![
        disk(
            "nvme0n1",
            VerdictKind::System,
            &["the running system is on it: /, /boot/efi"],
        ),
        disk(
            "sda",
            VerdictKind::Blank,
            &["every byte that was read is zero"],
        ),
        disk(
            "sdb",
            VerdictKind::Quarantined,
            &["its filesystem UUID is also on sdq: one of them is a copy"],
        ),
        disk(
            "sdc",
            VerdictKind::Unreadable,
            &["read of 4096 bytes at 0 of /dev/sdc: Input/output error"],
        ),
        prepared("sdd", Registration::Removed),
        prepared("sde", Registration::ByOthers { key: "sde1".into() }),
        prepared("sdf", Registration::Pending),
    ];
    let mut missing = prepared("sdg", Registration::Missing { doubt: None });
    missing.device.clear();
    missing.verdict = None;
    missing.path = None;
    let unreadable = prepared(
        "sdi",
        Registration::Unreadable {
            reason: "/dev/sdi at byte 4096: Input/output error".into(),
        },
    );
    let mut failed = disk("sdh", VerdictKind::Blank, &[]);
    failed.failure = Some("/usr/sbin/mkfs.ext4 -F -m 0 /dev/sdh1: run: exit status 1: Input/output error while writing out and closing file system".into());
    disks.extend([missing, unreadable, failed]);
    for i in 0..42 {
        disks.push(prepared(
            &format!(
                "sd{}{}",
                char::from(b'j' + i / 26),
                char::from(b'a' + i % 26)
            ),
            registered(),
        ));
    }
    for i in 0..12 {
        disks.push(disk(
            &format!("loop{i}"),
            VerdictKind::Excluded,
            &["it is a loop device that is not bound; those are never taken"],
        ));
    }
    let mut view = node(disks);
    view.problems =
        vec!["two selectors of the policy match disk sdb: include[0] and include[1]".into()];
    view.troubles = vec!["patch of the Node: 503 Service Unavailable; tried again in 4 s".into()];
    view.observe_only = true;
    view
}

/// What a hostile stick says of itself.
fn hostile() -> NodeView {
    let long = "W".repeat(64 << 10);
    let mut view = three();
    view.node = "node-".to_owned() + &"n".repeat(248);
    view.disks[0].model =
        Some("<script>document.title='owned'</script><img src=x onerror=alert(1)>".into());
    view.disks[0].reasons = vec![
        "\u{202e}gnihton si ti\u{2066} مرحبا بالعالم שלום".into(),
        long.clone(),
    ];
    view.disks[1].path = Some(format!("/mnt/longhorn/{}", "s".repeat(63)));
    view.disks[2].device = long.clone();
    view.disks[2].disk_id = Some(long.clone());
    view.disks[2].transport = long.clone();
    view.disks[2].remedy = Some("</td></table><style>body{display:none}</style>".into());
    view.problems = vec![long];
    view
}

/// Runs Chromium and gives what it printed and what it logged; `None` where there is none and a skip is allowed.
fn chromium(profile: &Path, arguments: &[String]) -> Option<(String, String)> {
    let mut command = Command::new("chromium");
    command
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
        ])
        .arg(format!("--user-data-dir={}", profile.display()))
        .args(arguments);
    let output = skip::output_or_skip("the page in a browser", "chromium", &mut command, b"")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    Some((String::from_utf8_lossy(&output.stdout).into_owned(), said))
}

/// The value of an attribute that the measuring script set.
fn measured<'a>(dom: &'a str, name: &str) -> &'a str {
    let found = dom.split_once(&format!("data-{name}=\""));
    let value = found.and_then(|(_, rest)| rest.split_once('"'));
    value.unwrap_or_else(|| panic!("no {name} in {dom}")).0
}

/// Looks at the page at a width given by a frame, for a window has a least width of its own.
const FRAME: &str = "<!doctype html><body style=margin:0><iframe src=page.html style='border:0;width:WIDTHpx;height:3000px'></iframe>\
    <script>addEventListener('message',e=>{for(const k in e.data)document.documentElement.dataset[k]=e.data[k]})</script>";
/// `contrast` is that of the text that stands out least from its ground, as WCAG 2 defines it: 1 to 21.
const MEASURE: &str = "<script>\
    const parts=c=>c.match(/[\\d.]+/g).map(Number),\
    light=c=>{const [r,g,b]=c.slice(0,3).map(v=>(v/=255)<=.03928?v/12.92:((v+.055)/1.055)**2.4);return .2126*r+.7152*g+.0722*b},\
    ground=e=>{for(;e;e=e.parentElement){const c=parts(getComputedStyle(e).backgroundColor);if(c[3]===undefined||c[3]>0)return c}\
      return matchMedia('(prefers-color-scheme:dark)').matches?[18,18,18]:[255,255,255]},\
    said=e=>[...e.childNodes].some(n=>n.nodeType==3&&n.data.trim()),\
    contrast=e=>{const a=light(parts(getComputedStyle(e).color)),b=light(ground(e));return (Math.max(a,b)+.05)/(Math.min(a,b)+.05)};\
    addEventListener('load',()=>{\
    const r=document.documentElement,all=[...document.querySelectorAll('main *')];\
    parent.postMessage({\
      width:innerWidth,over:r.scrollWidth-innerWidth,\
      out:all.filter(e=>e.getBoundingClientRect().right>innerWidth+1&&getComputedStyle(e).position!='absolute').length,\
      rows:document.querySelectorAll('tbody tr').length,\
      scripts:document.querySelectorAll('script').length,\
      foreign:document.querySelectorAll('img,iframe,object,style').length,\
      small:all.filter(e=>parseFloat(getComputedStyle(e).fontSize)<11).length,\
      dark:light(ground(r))<.2?1:0,\
      contrast:Math.min(...all.filter(said).map(contrast)).toFixed(2),\
      title:document.title},'*')})</script>";

#[test]
fn no_page_is_wider_than_its_window_and_no_text_becomes_markup() {
    let folder = tempfile::tempdir().unwrap();
    let profile = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("style.css"), STYLE).unwrap();
    let waiting = ["the first pass over the host is not done".to_owned()];
    for (name, view, not_ready) in [
        ("0", node(vec![]), &waiting[..]),
        ("3", three(), &[]),
        ("64", many(), &waiting[..]),
        ("hostile", hostile(), &[]),
    ] {
        let html = render(&view, not_ready).unwrap();
        let looks = [false, true]
            .into_iter()
            .flat_map(|dark| WIDTHS.map(|width| (width, dark)));
        for (width, dark) in looks {
            std::fs::write(folder.path().join("page.html"), format!("{html}{MEASURE}")).unwrap();
            let frame = FRAME.replace("WIDTH", &width.to_string());
            std::fs::write(folder.path().join("frame.html"), frame).unwrap();
            let url = format!("file://{}/frame.html", folder.path().display());
            let size = format!("--window-size={},3000", width.max(800));
            let mut arguments = vec![
                "--dump-dom".to_owned(),
                size,
                "--virtual-time-budget=5000".to_owned(),
                url,
            ];
            if dark {
                arguments.push(DARK.to_owned());
            }
            let Some((dom, _)) = chromium(profile.path(), &arguments) else {
                return;
            };
            let at = format!("{name} disks at {width} px, dark {dark}");
            let is = |what| measured(&dom, what);
            assert_eq!(is("width"), width.to_string(), "{at}");
            assert_eq!(
                (is("over"), is("out")),
                ("0", "0"),
                "{at}: something is wider"
            );
            assert_eq!(is("rows"), view.disks.len().to_string(), "{at}");
            assert_eq!((is("scripts"), is("foreign")), ("1", "0"), "{at}: markup");
            assert_eq!(is("small"), "0", "{at}: text too small to read");
            assert_eq!(is("dark"), if dark { "1" } else { "0" }, "{at}: scheme");
            // What WCAG 2 asks of text of this size (AA).
            let contrast: f64 = is("contrast").parse().unwrap();
            assert!(contrast >= 4.5, "{at}: text of contrast {contrast}");
            assert!(is("title").starts_with("Disks of "), "{at}");
        }
        if let Some(to) = std::env::var_os("SCREENSHOTS") {
            screenshots(Path::new(&to), name, &html, folder.path(), profile.path());
        }
    }
}

/// Serves pages on loopback; gives the address and the paths that are asked for.
fn serve(routes: axum::Router) -> (std::net::SocketAddr, Arc<Mutex<Vec<String>>>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let note = Arc::clone(&asked);
    let routes = routes.layer(axum::middleware::from_fn(
        move |request: axum::extract::Request, next: axum::middleware::Next| {
            note.lock().unwrap().push(request.uri().path().to_owned());
            next.run(request)
        },
    ));
    let (sender, receiver) = std::sync::mpsc::channel();
    // Ends with the test.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            sender.send(listener.local_addr().unwrap()).unwrap();
            axum::serve(listener, routes).await.unwrap();
        });
    });
    (receiver.recv().unwrap(), asked)
}

/// What Chromium complains of on the page at `address`.
fn complaints(address: std::net::SocketAddr) -> Option<Vec<String>> {
    let profile = tempfile::tempdir().unwrap();
    let arguments = [
        "--enable-logging=stderr".to_owned(),
        "--dump-dom".to_owned(),
        "--virtual-time-budget=5000".to_owned(),
        format!("http://{address}/"),
    ];
    let (_, log) = chromium(profile.path(), &arguments)?;
    let console = log.lines().filter(|line| line.contains(":CONSOLE"));
    Some(console.map(ToOwned::to_owned).collect())
}

#[test]
fn a_browser_shows_the_page_as_it_is_served_under_its_own_policy() {
    let board = Arc::new(Board::new(
        Arc::new(Metrics::new()),
        Duration::from_secs(600),
    ));
    board.show(many(), vec![]);
    let (address, asked) = serve(router(board));
    let Some(complaints_of_ours) = complaints(address) else {
        return;
    };
    assert_eq!(complaints_of_ours, Vec::<String>::new());
    let asked = asked.lock().unwrap().clone();
    assert!(asked.contains(&"/".to_owned()), "{asked:?}");
    assert!(asked.contains(&"/style.css".to_owned()), "{asked:?}");

    // A policy that forbids what the page needs is complained of: the test would see it.
    let html = render(&three(), &[]).unwrap();
    let page = move || async move {
        (
            [("content-security-policy", "default-src 'none'")],
            axum::response::Html(html),
        )
    };
    let (address, asked) = serve(axum::Router::new().route("/", axum::routing::get(page)));
    let refused = complaints(address).unwrap().join("\n");
    assert!(refused.contains("Content Security Policy"), "{refused}");
    assert!(!asked.lock().unwrap().contains(&"/style.css".to_owned()));
}

fn screenshots(to: &Path, name: &str, html: &str, folder: &Path, profile: &Path) {
    std::fs::create_dir_all(to).unwrap();
    std::fs::write(folder.join("page.html"), html).unwrap();
    for width in WIDTHS {
        for (scheme, dark) in [("light", false), ("dark", true)] {
            let frame = FRAME
                .replace("WIDTH", &width.to_string())
                .replace("3000px", "1400px");
            std::fs::write(folder.join("frame.html"), frame).unwrap();
            let mut arguments = vec![
                format!(
                    "--screenshot={}",
                    to.join(format!("{name}-{width}-{scheme}.png")).display()
                ),
                format!("--window-size={},1400", width.max(500)),
                format!("file://{}/frame.html", folder.display()),
            ];
            if dark {
                arguments.push(DARK.into());
            }
            chromium(profile, &arguments);
        }
    }
}
