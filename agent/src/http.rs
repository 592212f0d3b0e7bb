//! What the agent shows over HTTP: probes, metrics, the report as JSON and as a page. Read-only, without scripts.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use storage_core::model::VerdictKind;
use storage_core::report::size_in_words;

use crate::metrics::Metrics;
use crate::view::{DiskView, NodeView};

/// What is shown, replaced by the loop after each turn.
#[derive(Debug)]
pub struct Board {
    state: Mutex<BoardState>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct BoardState {
    view: Arc<NodeView>,
    not_ready: Vec<String>,
    turned: Instant,
    passing: Option<Instant>,
    /// The loop turns at least this often when nothing happens.
    idle: Duration,
}

/// The longest that a pass may take before the agent counts as hung: beyond the limit of any mkfs.
const PASS_LIMIT: Duration = Duration::from_secs(2 * 60 * 60);

impl Board {
    /// A board of an agent that has seen nothing yet and turns at least every `idle`.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>, idle: Duration) -> Self {
        Self {
            state: Mutex::new(BoardState {
                view: Arc::new(NodeView::default()),
                not_ready: vec!["the first pass over the host is not done".to_owned()],
                turned: Instant::now(),
                passing: None,
                idle,
            }),
            metrics,
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut BoardState) -> T) -> T {
        // The state is replaced field by field; a panic elsewhere leaves it whole.
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The loop has turned; `passing` tells whether a pass is at work.
    pub fn turn(&self, passing: bool) {
        self.with(|s| {
            s.turned = Instant::now();
            s.passing = if passing {
                s.passing.or(Some(s.turned))
            } else {
                None
            };
        });
    }

    /// From now on the loop turns at least every `idle`.
    pub fn turns_every(&self, idle: Duration) {
        self.with(|s| s.idle = idle);
    }

    /// Shows a view, with what keeps the agent from being ready.
    pub fn show(&self, view: NodeView, not_ready: Vec<String>) {
        self.metrics.show(&view);
        self.metrics.ready(not_ready.is_empty());
        self.with(|s| {
            s.view = Arc::new(view);
            s.not_ready = not_ready;
        });
    }

    /// The view that is shown.
    #[must_use]
    pub fn view(&self) -> Arc<NodeView> {
        self.with(|s| Arc::clone(&s.view))
    }

    /// What keeps the agent from being ready; empty when nothing does.
    #[must_use]
    pub fn not_ready(&self) -> Vec<String> {
        self.with(|s| s.not_ready.clone())
    }

    /// Why the agent counts as hung, if it does.
    #[must_use]
    pub fn hung(&self) -> Option<String> {
        let (turned, passing, idle) =
            self.with(|s| (s.turned.elapsed(), s.passing.map(|p| p.elapsed()), s.idle));
        let limit = idle * 3 + Duration::from_secs(120);
        if turned > limit {
            return Some(format!(
                "the loop has not turned for {} s",
                turned.as_secs()
            ));
        }
        let passing = passing.filter(|p| *p > PASS_LIMIT)?;
        Some(format!(
            "a pass over the host has taken {} s",
            passing.as_secs()
        ))
    }
}

/// The routes.
pub fn router(board: Arc<Board>) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/status.json", get(status))
        .route("/", get(page))
        .with_state(board)
}

/// Serves until `stop` ends.
///
/// # Errors
/// When the address cannot be bound.
pub async fn serve(
    listen: SocketAddr,
    board: Arc<Board>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::bind(listen).await?;
    axum::serve(listener, router(board))
        .with_graceful_shutdown(stop)
        .await
}

fn answer(code: StatusCode, kind: &'static str, body: String) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        ),
        (
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static(
                "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
            ),
        ),
    ];
    (code, headers, body).into_response()
}

const TEXT: &str = "text/plain; charset=utf-8";

async fn livez(State(board): State<Arc<Board>>) -> Response {
    match board.hung() {
        None => answer(StatusCode::OK, TEXT, "ok\n".to_owned()),
        Some(why) => answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{why}\n")),
    }
}

async fn readyz(State(board): State<Arc<Board>>) -> Response {
    let reasons = board.not_ready();
    if reasons.is_empty() {
        return answer(StatusCode::OK, TEXT, "ok\n".to_owned());
    }
    answer(
        StatusCode::SERVICE_UNAVAILABLE,
        TEXT,
        reasons.join("\n") + "\n",
    )
}

async fn metrics(State(board): State<Arc<Board>>) -> Response {
    match board.metrics.text() {
        Ok(text) => answer(
            StatusCode::OK,
            "text/plain; version=0.0.4; charset=utf-8",
            text,
        ),
        Err(error) => answer(
            StatusCode::INTERNAL_SERVER_ERROR,
            TEXT,
            format!("{error}\n"),
        ),
    }
}

async fn status(State(board): State<Arc<Board>>) -> Response {
    match serde_json::to_string(&*board.view()) {
        Ok(text) => answer(StatusCode::OK, "application/json", text),
        Err(error) => answer(
            StatusCode::INTERNAL_SERVER_ERROR,
            TEXT,
            format!("{error}\n"),
        ),
    }
}

async fn page(State(board): State<Arc<Board>>) -> Response {
    match render(&board.view(), &board.not_ready()) {
        Ok(html) => answer(StatusCode::OK, "text/html; charset=utf-8", html),
        Err(error) => answer(
            StatusCode::INTERNAL_SERVER_ERROR,
            TEXT,
            format!("{error}\n"),
        ),
    }
}

/// Text as HTML. Everything that a disk says passes here.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

const STYLE: &str = "\
:root{color-scheme:light dark;--fg:#1c1f23;--bg:#fff;--dim:#5c6670;--line:#d9dee3;--good:#0a6b2d;--bad:#a3130c;--box:#f4f6f8}\
@media(prefers-color-scheme:dark){:root{--fg:#e6e9ec;--bg:#14171a;--dim:#9aa5b0;--line:#333a41;--good:#6fd692;--bad:#ff9088;--box:#1d2226}}\
*{box-sizing:border-box}body{margin:0;padding:1.5rem;font:15px/1.45 system-ui,sans-serif;color:var(--fg);background:var(--bg)}\
main{max-width:80rem;margin:auto}h1{font-size:1.4rem;margin:0 0 .25rem}h2{font-size:1.05rem;margin:1.5rem 0 .5rem}\
p,ul{margin:.25rem 0}.dim{color:var(--dim)}.good{color:var(--good)}.bad{color:var(--bad)}\
.box{background:var(--box);border:1px solid var(--line);border-radius:.4rem;padding:.6rem .9rem;margin:.75rem 0}\
table{width:100%;border-collapse:collapse}th{text-align:left;font-weight:600;color:var(--dim)}\
th,td{padding:.4rem .75rem .4rem 0;border-bottom:1px solid var(--line);vertical-align:top;overflow-wrap:anywhere}\
td.n{white-space:nowrap}code{font:13px ui-monospace,monospace}\
@media(max-width:45rem){body{padding:1rem}thead{position:absolute;left:-999rem}tr{display:block;border-bottom:1px solid var(--line);padding:.5rem 0}\
td{display:block;border:0;padding:.1rem 0}td[data-h]:before{content:attr(data-h) ': ';color:var(--dim)}}";

/// The page.
///
/// # Errors
/// When formatting fails, which it does not into a string.
pub fn render(view: &NodeView, not_ready: &[String]) -> Result<String, std::fmt::Error> {
    let mut html = String::with_capacity(8192);
    write!(
        html,
        "<!doctype html><html lang=en><head><meta charset=utf-8>\
         <meta name=viewport content=\"width=device-width,initial-scale=1\"><title>Disks of {node}</title>\
         <style>{STYLE}</style></head><body><main><h1>Disks of {node}</h1>",
        node = escape(&view.node)
    )?;
    if not_ready.is_empty() {
        write!(html, "<p class=good>ready</p>")?;
    } else {
        write!(
            html,
            "<p class=bad>not ready: {}</p>",
            escape(&not_ready.join("; "))
        )?;
    }
    if view.observe_only {
        write!(
            html,
            "<p><b>Observing only:</b> nothing is written to disks or cluster.</p>"
        )?;
    }
    for (title, items) in [
        ("Needs attention", &view.problems),
        ("Passing trouble", &view.troubles),
    ] {
        if !items.is_empty() {
            write!(html, "<div class=box><b>{title}</b><ul>")?;
            for item in items {
                write!(html, "<li>{}</li>", escape(item))?;
            }
            write!(html, "</ul></div>")?;
        }
    }
    write!(
        html,
        "<p class=dim>Longhorn: {}<br>Seed annotation: {}</p>",
        escape(&view.longhorn),
        escape(&view.seed)
    )?;
    let kept =
        |d: &&DiskView| matches!(d.verdict, Some(VerdictKind::System | VerdictKind::Excluded));
    let (others, shown): (Vec<&DiskView>, Vec<&DiskView>) = view.disks.iter().partition(kept);
    write!(html, "<h2>{} disks</h2>", view.disks.len())?;
    if view.disks.is_empty() {
        write!(html, "<p class=dim>No block device was seen.</p>")?;
    }
    table(&mut html, &shown)?;
    if !others.is_empty() {
        write!(html, "<h2>System and excluded disks</h2>")?;
        table(&mut html, &others)?;
    }
    write!(
        html,
        "<p class=dim>disk-discovery {} · <a href=\"status.json\">status.json</a> · \
         <a href=\"metrics\">metrics</a></p></main></body></html>",
        escape(view.version)
    )?;
    Ok(html)
}

fn table(html: &mut String, disks: &[&DiskView]) -> std::fmt::Result {
    if disks.is_empty() {
        return Ok(());
    }
    write!(
        html,
        "<table><thead><tr><th>Disk<th>Size<th>Model<th>Is<th>Standing<th>Why</tr></thead><tbody>"
    )?;
    for disk in disks {
        let size = disk.size.map(size_in_words).unwrap_or_default();
        let standing = disk.standing();
        let class = match standing {
            Some(s) if s.is_warning() => "bad",
            Some(_) => "good",
            None => "dim",
        };
        write!(
            html,
            "<tr><td class=n><b>{}</b><td class=n data-h=Size>{}<td data-h=Model>{}<td class=n data-h=Is>{}\
             <td class=\"n {class}\" data-h=Standing>{}<td>{}",
            escape(&disk.title()),
            escape(&size),
            escape(disk.model.as_deref().unwrap_or("–")),
            disk.verdict.map_or("Gone", VerdictKind::as_str),
            standing.map_or("–", |s| s.reason().trim_start_matches("Disk")),
            escape(&disk.sentence()),
        )?;
        for reason in disk.reasons.iter().skip(1) {
            write!(html, "<br><span class=dim>also: {}</span>", escape(reason))?;
        }
        write!(html, "</tr>")?;
    }
    write!(html, "</tbody></table>")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::{disk, node};

    fn board() -> Board {
        Board::new(Arc::new(Metrics::new()), Duration::from_secs(600))
    }

    #[test]
    fn what_a_disk_says_cannot_become_markup() {
        let mut view = node(vec![disk("sdb", VerdictKind::Foreign)]);
        view.disks[0].model = Some("<script>alert('x')</script>\u{1b}[2J".into());
        view.disks[0].reasons = vec!["label \"><img src=x>".into(), "<b>".into()];
        let html = render(&view, &[]).unwrap();
        assert!(!html.contains("<script") && !html.contains("<img") && !html.contains('\u{1b}'));
        assert!(html.contains("&lt;script&gt;alert(&#39;x&#39;)"));
    }

    #[test]
    fn the_page_shows_no_disks_some_and_many() {
        for count in [0, 3, 64] {
            let disks = (0..count)
                .map(|i| disk(&format!("sd{i}"), VerdictKind::Foreign))
                .collect();
            let html = render(&node(disks), &["why".into()]).unwrap();
            assert_eq!(html.matches("<tr><td").count(), count);
            assert!(html.contains("not ready: why"));
        }
    }

    #[test]
    fn an_agent_that_has_seen_nothing_is_alive_and_not_ready() {
        let board = board();
        assert_eq!(board.hung(), None);
        assert_eq!(board.not_ready().len(), 1);
        board.show(NodeView::default(), vec![]);
        assert!(board.not_ready().is_empty());
    }

    #[tokio::test]
    async fn the_routes_answer_with_code_type_and_no_caching() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let board = Arc::new(board());
        let server = tokio::spawn(async move { axum::serve(listener, router(board)).await });
        for (path, code, kind) in [
            ("/livez", "200", "text/plain"),
            ("/readyz", "503", "text/plain"),
            ("/metrics", "200", "version=0.0.4"),
            ("/status.json", "200", "application/json"),
            ("/", "200", "text/html"),
            ("/nothing", "404", ""),
        ] {
            let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {code}")),
                "{path}: {answer}"
            );
            assert!(answer.contains(kind), "{path}: {answer}");
        }
        server.abort();
    }
}
