//! What the agent shows over HTTP: probes, metrics, the report as JSON and as a page. Read-only, without scripts.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::time::Instant;

use crate::metrics::Metrics;
use crate::page::{POLICY, STYLE, render};
use crate::view::NodeView;

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
    /// The last sign of life of the pass at work: its begin, then its progress.
    passing: Option<Instant>,
    /// The loop turns at least this often when nothing happens.
    idle: Duration,
}

/// The longest that a pass may show no progress before the agent counts as hung. How long it takes counts for nothing: the
/// full proof of a large disk takes half a day.
const PASS_LIMIT: Duration = Duration::from_secs(2 * 60 * 60);

impl Board {
    /// A board of an agent that has seen nothing yet and turns at least every `idle`.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>, idle: Duration) -> Self {
        metrics.resync_period(idle);
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

    /// The pass at work got on: the proof of a disk, or a step.
    pub fn progress(&self) {
        // A clock before 1970 is none.
        if let Ok(now) = SystemTime::now().duration_since(UNIX_EPOCH) {
            self.metrics.progress(now.as_secs_f64());
        }
        self.with(|s| {
            if let Some(passing) = &mut s.passing {
                *passing = Instant::now();
            }
        });
    }

    /// From now on the loop turns at least every `idle`.
    pub fn turns_every(&self, idle: Duration) {
        self.metrics.resync_period(idle);
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
            "a pass over the host has shown no progress for {} s",
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
        .route("/style.css", get(style))
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
            HeaderValue::from_static(POLICY),
        ),
        (
            header::REFERRER_POLICY,
            HeaderValue::from_static("no-referrer"),
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

async fn style() -> Response {
    answer(StatusCode::OK, "text/css; charset=utf-8", STYLE.to_owned())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn board() -> Board {
        Board::new(Arc::new(Metrics::new()), Duration::from_secs(600))
    }

    #[test]
    fn an_agent_that_has_seen_nothing_is_alive_and_not_ready() {
        let board = board();
        assert_eq!(board.hung(), None);
        assert_eq!(board.not_ready().len(), 1);
        board.show(NodeView::default(), vec![]);
        assert!(board.not_ready().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_pass_is_alive_as_long_as_it_gets_on_and_hung_when_it_does_not() {
        let board = board();
        let hour = Duration::from_secs(3600);
        for _ in 0..30 {
            tokio::time::advance(hour).await;
            board.turn(true);
            board.progress();
            assert_eq!(board.hung(), None);
        }
        tokio::time::advance(2 * hour).await;
        board.turn(true);
        assert_eq!(board.hung(), None);
        tokio::time::advance(Duration::from_secs(1)).await;
        let hung = board.hung().unwrap();
        assert!(hung.contains("no progress for 7201 s"), "{hung}");
        // Its end is the end of that.
        board.turn(false);
        board.progress();
        assert_eq!(board.hung(), None);
        board.turn(true);
        assert_eq!(board.hung(), None);
    }

    #[test]
    fn the_metrics_tell_the_period_and_when_a_pass_last_got_on() {
        let board = board();
        let value = |name: &str| {
            let text = board.metrics.text().unwrap();
            let line = text.lines().find(|l| l.starts_with(name)).unwrap();
            let value: f64 = line.rsplit(' ').next().unwrap().parse().unwrap();
            value
        };
        let period = || value("disk_discovery_resync_period_seconds ");
        assert!((period() - 600.0).abs() < 0.1);
        board.turns_every(Duration::from_secs(86_400));
        assert!((period() - 86_400.0).abs() < 0.1);
        let progress = || value("disk_discovery_last_progress_timestamp_seconds ");
        assert!(progress() < 1.0);
        board.progress();
        assert!(progress() > 1_000_000_000.0);
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
            ("/style.css", "200", "text/css"),
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
            let safe = ["default-src 'none'", "nosniff", "no-store"];
            assert!(
                code == "404" || safe.iter().all(|h| answer.contains(h)),
                "{path}: {answer}"
            );
        }
        server.abort();
    }
}
