//! What the real API server cannot be made to show at will: a scripted one on loopback.

use std::collections::VecDeque;
use std::sync::Mutex;

use axum::Router;
use axum::body::{Body as AxumBody, Bytes};
use axum::extract::State;
use axum::response::Response;
use tokio::sync::watch;

use super::*;

enum Answer {
    /// Code, headers, body.
    Is(u16, Vec<(&'static str, &'static str)>, String),
    /// Takes the request and says nothing.
    Hangs,
    /// Starts to answer and breaks off.
    Breaks,
    /// A watch: these lines, then it stays open.
    Stays(String),
    /// A watch: these lines, and after so long it ends in good order.
    Ends(String, Duration),
}

#[derive(Default)]
struct Script {
    answers: Mutex<VecDeque<Answer>>,
    seen: Mutex<Vec<String>>,
}

async fn handle(State(script): State<Arc<Script>>, request: axum::extract::Request) -> Response {
    let line = format!("{} {}", request.method(), request.uri());
    let accept = request
        .headers()
        .get("accept")
        .map(|a| a.to_str().unwrap().to_owned());
    let content = request
        .headers()
        .get("content-type")
        .map(|a| a.to_str().unwrap().to_owned());
    let body = axum::body::to_bytes(request.into_body(), 1 << 20)
        .await
        .unwrap();
    script.seen.lock().unwrap().push(format!(
        "{line} [{}] [{}] {}",
        accept.unwrap_or_default(),
        content.unwrap_or_default(),
        String::from_utf8_lossy(&body)
    ));
    let answer = script.answers.lock().unwrap().pop_front();
    let stream = |first: String, rest: Result<Bytes, std::io::Error>, after: Duration| {
        let tail = futures::stream::once(async move {
            tokio::time::sleep(after).await;
            rest
        });
        let head = futures::stream::once(async move { Ok(Bytes::from(first)) });
        AxumBody::from_stream(futures::StreamExt::chain(head, tail))
    };
    match answer {
        None | Some(Answer::Hangs) => std::future::pending().await,
        Some(Answer::Is(code, headers, body)) => {
            let mut response = Response::builder().status(code);
            for (name, value) in headers {
                response = response.header(name, value);
            }
            response.body(AxumBody::from(body)).unwrap()
        }
        Some(Answer::Breaks) => Response::new(stream(
            "{".into(),
            Err(std::io::Error::other("broken")),
            Duration::ZERO,
        )),
        Some(Answer::Stays(lines)) => {
            Response::new(stream(lines, Ok(Bytes::new()), Duration::from_secs(3600)))
        }
        Some(Answer::Ends(lines, after)) => Response::new(stream(lines, Ok(Bytes::new()), after)),
    }
}

fn is(code: u16, body: &Value) -> Answer {
    Answer::Is(code, vec![], body.to_string())
}

fn status(code: u16, reason: &str, message: &str, details: &Value) -> Answer {
    is(
        code,
        &json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
        "reason": reason, "message": message, "details": details}),
    )
}

async fn bed(answers: Vec<Answer>) -> (Api, Arc<Script>) {
    let script = Arc::new(Script {
        answers: Mutex::new(answers.into()),
        ..Script::default()
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new()
        .fallback(handle)
        .with_state(Arc::clone(&script));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (api_at(&format!("http://{address}")), script)
}

fn api_at(url: &str) -> Api {
    let mut config = Config::new(url.parse().unwrap());
    config.default_retry = false;
    let client = ClientBuilder::try_from(config).unwrap().build();
    let api = Api::new(client, "k3s1", "longhorn-system", Arc::new(Metrics::new()));
    api.with_deadline(Duration::from_millis(300))
}

fn node(version: &str) -> Value {
    json!({"kind": "PartialObjectMetadata", "metadata": {"name": "k3s1", "uid": "u", "resourceVersion": version,
        "annotations": {"others.example.com/x": "large", names::APPROVE: version}}})
}

#[tokio::test]
async fn an_answer_of_patience_is_waited_for_as_long_as_it_asks() {
    let throttled = Answer::Is(
        429,
        vec![("retry-after", "1")],
        "Too many requests, please try again later.".into(),
    );
    let (api, script) = bed(vec![throttled, is(200, &node("7"))]).await;
    let began = Instant::now();
    let meta = decode_node(&api.get(Object::Node).await.unwrap()).unwrap();
    assert!(began.elapsed() >= Duration::from_secs(1));
    assert_eq!(meta.resource_version, "7");
    assert_eq!(
        meta.annotations.len(),
        1,
        "others' annotations are not kept"
    );
    assert!(script.seen.lock().unwrap()[0].contains("as=PartialObjectMetadata"));
}

#[tokio::test]
async fn an_answer_that_asks_for_too_much_patience_ends_the_call() {
    let throttled = Answer::Is(429, vec![("retry-after", "3600")], String::new());
    let (api, script) = bed(vec![throttled]).await;
    let trouble = api.get(Object::Node).await.unwrap_err();
    assert_eq!(trouble, Trouble::Throttled(Some(Duration::from_secs(3600))));
    assert_eq!(trouble.rest(1), Duration::from_secs(3600));
    assert_eq!(script.seen.lock().unwrap().len(), 1);
    // No more than that is believed, whatever is asked for.
    let for_ever = u64::MAX.to_string().leak();
    let throttled = Answer::Is(429, vec![("retry-after", for_ever)], String::new());
    let (api, _) = bed(vec![throttled]).await;
    assert_eq!(api.get(Object::Node).await.unwrap_err(), trouble);
}

#[tokio::test]
async fn a_server_that_hangs_costs_a_bounded_time() {
    let (api, script) = bed(vec![
        Answer::Hangs,
        Answer::Hangs,
        Answer::Hangs,
        Answer::Hangs,
    ])
    .await;
    let began = Instant::now();
    assert_eq!(api.get(Object::Node).await.unwrap_err(), Trouble::TimedOut);
    assert!(began.elapsed() < Duration::from_secs(5));
    assert_eq!(script.seen.lock().unwrap().len(), 4);
}

#[tokio::test]
async fn what_may_pass_is_tried_again_and_what_cannot_is_not() {
    let broken = vec![
        Answer::Breaks,
        status(
            500,
            "InternalError",
            "failed calling webhook \"validator.longhorn.io\"",
            &json!({}),
        ),
        Answer::Is(503, vec![], "apiserver is shutting down".into()),
        is(200, &node("7")),
    ];
    let (api, script) = bed(broken).await;
    api.get(Object::Node).await.unwrap();
    assert_eq!(script.seen.lock().unwrap().len(), 4);
    let named = json!({"name": "k3s1", "kind": "nodes"});
    let manager = json!({"causes": [{"reason": "FieldManagerConflict", "message": "x", "field": ".metadata.annotations.a"}]});
    let syncing = "admission webhook \"validator.longhorn.io\" denied the request: spec and status of disks on node \
        k3s1 are being syncing and please retry later.";
    for (answer, trouble) in [
        (
            status(401, "Unauthorized", "Unauthorized", &json!({})),
            Trouble::Unauthorized,
        ),
        (
            status(403, "Forbidden", "no", &named),
            Trouble::Forbidden("no".into()),
        ),
        (status(403, "Forbidden", syncing, &named), Trouble::Syncing),
        (
            status(404, "NotFound", "nodes \"k3s1\" not found", &named),
            Trouble::NotFound,
        ),
        (
            Answer::Is(404, vec![], "404 page not found\n".into()),
            Trouble::NoResource,
        ),
        (
            status(409, "Conflict", "rv", &named),
            Trouble::Conflict("rv".into()),
        ),
        (
            status(409, "Conflict", "by kubectl", &manager),
            Trouble::OwnedByOther("by kubectl".into()),
        ),
        (
            status(410, "Expired", "too old", &json!({})),
            Trouble::Expired,
        ),
        (
            status(422, "Invalid", "tag", &named),
            Trouble::Invalid(422, "tag".into()),
        ),
        (
            status(400, "BadRequest", "json", &json!({})),
            Trouble::Invalid(400, "json".into()),
        ),
    ] {
        let (api, script) = bed(vec![answer]).await;
        assert_eq!(api.get(Object::Longhorn).await.unwrap_err(), trouble);
        assert_eq!(script.seen.lock().unwrap().len(), 1, "{trouble}");
        assert!(!trouble.rest(1).is_zero());
        assert!(
            trouble.rest(u32::MAX) <= Duration::from_secs(600),
            "bounded"
        );
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told_from_one_that_refuses() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let trouble = api_at(&format!("http://{address}"))
        .get(Object::Node)
        .await
        .unwrap_err();
    assert!(matches!(trouble, Trouble::Unreachable(_)), "{trouble:?}");
}

#[tokio::test]
async fn every_write_says_who_writes_and_names_its_precondition() {
    let longhorn =
        json!({"metadata": {"name": "k3s1", "resourceVersion": "9"}, "spec": {}, "status": {}});
    let (api, script) = bed(vec![
        is(200, &node("8")),
        is(200, &node("8")),
        is(200, &longhorn),
        is(201, &json!({})),
    ])
    .await;
    api.spend_approvals("a@b").await.unwrap();
    let annotations = BTreeMap::from([(names::SEED, "[]".to_owned())]);
    api.apply_annotations("u", names::SEED_MANAGER, false, &annotations)
        .await
        .unwrap();
    api.patch_longhorn(&json!({"metadata": {"resourceVersion": "3"}}))
        .await
        .unwrap();
    let notice = Notice {
        reason: "DiskPrepared",
        about: "sdb1".into(),
        note: "ä".repeat(900),
        warning: false,
    };
    api.event("u", &notice).await.unwrap();
    let seen = script.seen.lock().unwrap().clone();
    assert!(seen[0].starts_with(
        "PATCH /api/v1/nodes/k3s1?fieldManager=disk-discovery [application/json;as=Partial"
    ));
    assert!(
        seen[0].contains("[application/json-patch+json]")
            && seen[0].contains("disk-discovery.io~1approve")
    );
    assert!(seen[0].contains(r#""op":"test""#) && seen[0].contains(r#""value":"a@b""#));
    assert!(
        seen[1].contains("fieldManager=disk-discovery-seed") && !seen[1].contains("force=true")
    );
    assert!(seen[1].contains("application/apply-patch+yaml") && seen[1].contains(r#""uid":"u""#));
    assert!(
        seen[2]
            .starts_with("PATCH /apis/longhorn.io/v1beta2/namespaces/longhorn-system/nodes/k3s1?")
    );
    assert!(
        seen[2].contains("merge-patch+json") && seen[2].contains("fieldManager=disk-discovery")
    );
    assert!(seen[3].starts_with("POST /apis/events.k8s.io/v1/namespaces/default/events?"));
    let body = seen[3].split_once("] {").unwrap().1;
    let event: Value = serde_json::from_str(&format!("{{{body}")).unwrap();
    assert!(event["note"].as_str().unwrap().len() <= 1024);
    assert_eq!(event["regarding"]["uid"], "u");
}

#[tokio::test]
async fn an_approval_that_is_denied_is_told_from_one_that_has_changed() {
    let denial = || {
        let named = json!({"name": "k3s1", "kind": "nodes"});
        status(422, "Invalid", "a policy denies it", &named)
    };
    let approved = |text: &str| {
        let mut node = node("8");
        node["metadata"]["annotations"] = json!({ names::APPROVE: text });
        is(200, &node)
    };
    let (api, _) = bed(vec![denial(), approved("a@b")]).await;
    assert_eq!(
        api.spend_approvals("a@b").await,
        Err(Trouble::Invalid(422, "a policy denies it".into()))
    );
    for now in [approved("c@d"), is(200, &node("8"))] {
        let (api, _) = bed(vec![denial(), now]).await;
        assert_eq!(api.spend_approvals("a@b").await, Ok(Spent::Before));
    }
}

#[tokio::test]
async fn the_other_nodes_are_listed_in_pages_and_our_own_is_left_out() {
    let lhn = |name: &str, uuid: &str| json!({"metadata": {"name": name}, "spec": {}, "status": {"diskStatus": {"d": {"diskUUID": uuid}}}});
    let first =
        json!({"metadata": {"continue": "next"}, "items": [lhn("k3s1", "a"), lhn("k3s2", "b")]});
    let second = json!({"metadata": {}, "items": [lhn("k3s3", "c"), lhn("k3s4", "")]});
    let (api, script) = bed(vec![is(200, &first), is(200, &second)]).await;
    let uuids = api.disk_uuids().await.unwrap();
    assert_eq!(
        uuids,
        [
            ("b".to_owned(), "k3s2".to_owned()),
            ("c".to_owned(), "k3s3".to_owned())
        ]
        .into()
    );
    assert!(script.seen.lock().unwrap()[1].contains("continue=next"));
}

async fn until(seen: &mut watch::Receiver<Seen<NodeMeta>>, done: impl Fn(&Seen<NodeMeta>) -> bool) {
    let wait = seen.wait_for(|s| done(s));
    // The pauses between tries are drawn, and several can be long ones.
    tokio::time::timeout(Duration::from_secs(60), wait)
        .await
        .expect("in time")
        .unwrap();
}

/// At this version or beyond: a channel shows the last state only, and a pause that is drawn can be next to nothing.
fn at(version: &'static str) -> impl Fn(&Seen<NodeMeta>) -> bool {
    let version: u32 = version.parse().unwrap();
    move |seen| match seen.present() {
        Some(node) => node.resource_version.parse::<u32>().unwrap() >= version,
        None => false,
    }
}

#[tokio::test]
async fn a_watch_that_expires_is_begun_anew_from_a_fresh_read() {
    let event =
        |kind: &str, object: &Value| json!({"type": kind, "object": object}).to_string() + "\n";
    let expired = event(
        "ERROR",
        &json!({"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}),
    );
    let bookmark = event(
        "BOOKMARK",
        &json!({"kind": "Node", "apiVersion": "v1", "metadata": {"resourceVersion": "9"}}),
    );
    let (api, script) = bed(vec![
        is(200, &node("7")),
        Answer::Is(
            200,
            vec![],
            event("MODIFIED", &node("8")) + &bookmark + &expired,
        ),
        is(200, &node("20")),
        status(410, "Expired", "too old", &json!({})),
        is(200, &node("30")),
        // The server restarts: the stream ends, then nothing answers, then it is back.
        Answer::Breaks,
        Answer::Is(503, vec![], String::new()),
        is(200, &node("40")),
        Answer::Stays(event("DELETED", &node("41"))),
    ])
    .await;
    let (sender, mut seen) = watch::channel(Seen::Unknown);
    let follower =
        tokio::spawn(async move { follow(&api, Object::Node, |v| decode_node(&v), &sender).await });
    for version in ["20", "30", "40"] {
        let there = at(version);
        until(&mut seen, |s| there(s) || *s == Seen::Absent).await;
    }
    until(&mut seen, |s| *s == Seen::Absent).await;
    follower.abort();
    let seen = script.seen.lock().unwrap().clone();
    assert!(
        seen[1].contains("fieldSelector=metadata.name%3Dk3s1")
            && seen[1].contains("resourceVersion=7"),
        "{}",
        seen[1]
    );
    assert!(seen[1].contains("as=PartialObjectMetadata"));
    assert!(seen[3].contains("resourceVersion=20") && seen[5].contains("resourceVersion=30"));
    assert!(
        !seen.iter().any(|s| s.contains("/nodes? ")),
        "never a list of all nodes"
    );
}

#[tokio::test]
async fn a_watch_that_the_server_ends_goes_on_from_where_it_was_without_another_read() {
    let bookmark = json!({"type": "BOOKMARK", "object":
        {"kind": "Node", "apiVersion": "v1", "metadata": {"resourceVersion": "9"}}});
    let modified = json!({"type": "MODIFIED", "object": node("12")});
    let lived = super::watch::HEALTHY + Duration::from_millis(300);
    let (api, script) = bed(vec![
        is(200, &node("7")),
        Answer::Ends(bookmark.to_string() + "\n", lived),
        Answer::Stays(modified.to_string() + "\n"),
    ])
    .await;
    let (sender, mut seen) = watch::channel(Seen::Unknown);
    let follower =
        tokio::spawn(async move { follow(&api, Object::Node, |v| decode_node(&v), &sender).await });
    until(&mut seen, at("12")).await;
    follower.abort();
    let asked = script.seen.lock().unwrap().clone();
    assert_eq!(asked.len(), 3, "{asked:?}");
    assert!(asked[2].contains("resourceVersion=9"), "{}", asked[2]);
}

#[tokio::test]
async fn a_server_that_lets_no_watch_live_is_not_asked_in_a_hot_loop() {
    let round = || {
        [
            is(200, &node("7")),
            Answer::Ends(String::new(), Duration::ZERO),
        ]
    };
    let (api, script) = bed((0..500).flat_map(|_| round()).collect()).await;
    let (sender, _seen) = watch::channel(Seen::Unknown);
    let follower =
        tokio::spawn(async move { follow(&api, Object::Node, |v| decode_node(&v), &sender).await });
    tokio::time::sleep(Duration::from_secs(4)).await;
    follower.abort();
    let asked = script.seen.lock().unwrap().len();
    assert!((2..60).contains(&asked), "{asked} requests");
}

/// How many requests a server gets in three seconds that lets the object be read and answers watches so.
async fn asked_of_one_that_denies_watches(denial: impl Fn() -> Answer) -> usize {
    let answers = (0..500).flat_map(|_| [is(200, &node("7")), denial()]);
    let (api, script) = bed(answers.collect()).await;
    let (sender, _seen) = watch::channel(Seen::Unknown);
    let follow = follow(&api, Object::Node, |v| decode_node(&v), &sender);
    tokio::time::timeout(Duration::from_secs(3), follow)
        .await
        .unwrap_err();
    script.seen.lock().unwrap().len()
}

#[tokio::test]
async fn a_watch_that_is_denied_is_left_alone_for_as_long_as_the_answer_says() {
    let named = json!({"name": "k3s1", "kind": "nodes"});
    let throttled = |after| {
        Answer::Is(
            429,
            vec![("retry-after", after)],
            "Too many requests".into(),
        )
    };
    let (forbidden, unauthorized, at_once, patience) = tokio::join!(
        asked_of_one_that_denies_watches(|| status(403, "Forbidden", "no", &named)),
        asked_of_one_that_denies_watches(|| status(401, "Unauthorized", "no", &json!({}))),
        asked_of_one_that_denies_watches(|| throttled("1")),
        asked_of_one_that_denies_watches(|| throttled("30")),
    );
    assert!((2..=6).contains(&forbidden), "{forbidden}");
    assert!((2..=4).contains(&unauthorized), "{unauthorized}");
    assert!((4..=6).contains(&at_once) || at_once == 2, "{at_once}");
    assert_eq!(patience, 2);
}

#[test]
fn what_a_server_asks_for_is_only_ever_drawn_out() {
    let asked = Trouble::Throttled(Some(Duration::from_secs(30)));
    assert_eq!(asked.spread_rest(1, 0.0), Duration::from_secs(30));
    assert!(asked.spread_rest(1, 1.0) <= Duration::from_secs(60));
    let lost = Trouble::Unreachable("x".into());
    assert_eq!(lost.spread_rest(1, 0.0), Duration::from_secs(1));
}

#[tokio::test]
async fn an_object_that_appears_later_is_seen_by_the_watch() {
    let added = json!({"type": "ADDED", "object": node("5")}).to_string() + "\n";
    let (api, script) = bed(vec![
        status(404, "NotFound", "x", &json!({"name": "k3s1"})),
        Answer::Stays(added),
    ])
    .await;
    let (sender, mut seen) = watch::channel(Seen::Unknown);
    let follower =
        tokio::spawn(async move { follow(&api, Object::Node, |v| decode_node(&v), &sender).await });
    until(&mut seen, at("5")).await;
    follower.abort();
    assert!(script.seen.lock().unwrap()[1].contains("resourceVersion=0"));
}

#[test]
fn pauses_grow_are_bounded_and_differ() {
    let drawn: std::collections::BTreeSet<Duration> = (0..50).map(|_| pause(3, PATIENCE)).collect();
    assert!(drawn.len() > 40, "jitter");
    assert!(drawn.iter().all(|d| *d <= PAUSE * 4));
    assert!((0..50).all(|_| pause(u32::MAX, PATIENCE) <= PATIENCE));
}

/// `group/resource verb @namespace`, as RBAC words a request.
fn in_rbac_words(line: &str) -> String {
    let mut words = line.split(' ');
    let (method, uri) = (words.next().unwrap(), words.next().unwrap());
    let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
    let mut parts: VecDeque<&str> = path.trim_start_matches('/').split('/').collect();
    let group = if parts.pop_front() == Some("apis") {
        parts.pop_front().unwrap()
    } else {
        ""
    };
    parts.pop_front();
    let namespace = if parts.front() == Some(&"namespaces") && parts.len() > 2 {
        parts.pop_front();
        parts.pop_front().unwrap()
    } else {
        ""
    };
    let resource = parts.pop_front().unwrap();
    let verb = match (method, parts.is_empty()) {
        ("GET", _) if query.contains("watch=true") => "watch",
        ("GET", true) => "list",
        ("GET", false) => "get",
        ("PATCH", _) => "patch",
        ("POST", _) => "create",
        other => panic!("{other:?}"),
    };
    format!("{group}/{resource} {verb} @{namespace}")
}

#[tokio::test]
async fn the_rights_in_the_manifest_are_exactly_those_that_are_used() {
    let longhorn =
        json!({"metadata": {"name": "k3s1", "resourceVersion": "9"}, "spec": {}, "status": {}});
    let (api, script) = bed(vec![
        is(200, &json!({"metadata": {"uid": "c"}})),
        is(200, &node("8")),
        is(200, &node("8")),
        is(200, &longhorn),
        is(200, &json!({"items": []})),
        is(201, &json!({})),
        is(200, &node("8")),
        Answer::Is(200, vec![], String::new()),
        Answer::Hangs,
    ])
    .await;
    api.cluster_uid().await.unwrap();
    api.spend_approvals("a@b").await.unwrap();
    api.apply_annotations("u", names::MANAGER, true, &BTreeMap::new())
        .await
        .unwrap();
    api.patch_longhorn(&json!({})).await.unwrap();
    api.disk_uuids().await.unwrap();
    let notice = Notice {
        reason: "R",
        about: "a".into(),
        note: "n".into(),
        warning: true,
    };
    api.event("u", &notice).await.unwrap();
    let (sender, _seen) = watch::channel(Seen::Unknown);
    let nodes = follow(&api, Object::Node, |v| decode_node(&v), &sender);
    tokio::time::timeout(Duration::from_secs(1), nodes)
        .await
        .unwrap_err();
    let mut used: std::collections::BTreeSet<String> = script
        .seen
        .lock()
        .unwrap()
        .iter()
        .map(|line| in_rbac_words(line))
        .collect();

    let watched =
        json!({"metadata": {"name": "k3s1", "resourceVersion": "9"}, "spec": {}, "status": {}});
    let (api, script) = bed(vec![
        is(200, &watched),
        Answer::Is(200, vec![], String::new()),
        Answer::Hangs,
    ])
    .await;
    let (sender, _seen) = watch::channel(Seen::Unknown);
    let longhorn = follow(&api, Object::Longhorn, decode_longhorn, &sender);
    tokio::time::timeout(Duration::from_secs(1), longhorn)
        .await
        .unwrap_err();
    used.extend(
        script
            .seen
            .lock()
            .unwrap()
            .iter()
            .map(|line| in_rbac_words(line)),
    );

    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/base/rbac.yaml");
    let text = std::fs::read_to_string(manifest).unwrap();
    let mut given = std::collections::BTreeSet::new();
    for document in text.split("\n---\n") {
        let object: Value = serde_saphyr::from_str(document).unwrap();
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
        for rule in object["rules"].as_array().into_iter().flatten() {
            for verb in rule["verbs"].as_array().unwrap() {
                let group = rule["apiGroups"][0].as_str().unwrap();
                let resource = rule["resources"][0].as_str().unwrap();
                assert_eq!(rule["resources"].as_array().unwrap().len(), 1);
                given.insert(format!(
                    "{group}/{resource} {} @{namespace}",
                    verb.as_str().unwrap()
                ));
            }
        }
    }
    assert_eq!(used, given);
}
