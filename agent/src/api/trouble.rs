//! What can go wrong with a call, by what is to be done about it.

use std::fmt::Write as _;
use std::time::Duration;

use http::HeaderMap;
use http::header::RETRY_AFTER;
use kube::core::response::Status;

/// The longest `Retry-After` that is believed: a mistaken one must not silence a node for days.
const LONGEST_ASKED: Duration = Duration::from_secs(3600);

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// 401: the token is not (yet, any more) valid. It is read again from its file every minute.
    #[error("the API server does not accept our token (401); it is read again from its file")]
    Unauthorized,
    /// 403 by RBAC, an admission policy or a webhook.
    #[error("the API server forbids it (403): {0}")]
    Forbidden(String),
    /// 403 by Longhorn's webhook while it mirrors disks into the status.
    #[error("Longhorn is still taking in the last change of its disks")]
    Syncing,
    /// 404 on the object.
    #[error("no such object (404)")]
    NotFound,
    /// 404 on the resource: the CRD is not installed.
    #[error("no such resource (404): Longhorn is not installed")]
    NoResource,
    /// 409: somebody was faster, or the object is not the one we know, or there already.
    #[error("somebody else changed the object meanwhile (409): {0}")]
    Conflict(String),
    /// 409 of server-side apply: another manager owns the field.
    #[error("another field manager owns it (409): {0}")]
    OwnedByOther(String),
    /// 410: the resource version is too old.
    #[error("the resource version is too old (410)")]
    Expired,
    /// 400 or 422: the request makes no sense, or a webhook's or policy's rule denies it.
    #[error("the API server denies it ({0}): {1}")]
    Invalid(u16, String),
    /// 429, with the time that the server asks to be left alone.
    #[error("the API server asks for patience (429)")]
    Throttled(Option<Duration>),
    /// 5xx, or a webhook that cannot be reached.
    #[error("the API server failed ({0}): {1}")]
    Server(u16, String),
    /// No connection, or it broke.
    #[error("the API server cannot be reached: {0}")]
    Unreachable(String),
    /// No answer in time.
    #[error("the API server did not answer in time")]
    TimedOut,
    /// The answer or request cannot be coded.
    #[error("cannot make sense of the answer: {0}")]
    Undecodable(String),
}

impl Trouble {
    /// Sorts an answer that is no success.
    #[must_use]
    pub fn of(code: u16, headers: &HeaderMap, body: &[u8]) -> Self {
        // Not every 4xx and 5xx comes with a Status: proxies and early filters send text.
        let status: Option<Status> = serde_json::from_slice(body).ok();
        let text = match &status {
            Some(status) => clean(&status.message),
            None => clean(&String::from_utf8_lossy(body)),
        };
        let details = status.as_ref().and_then(|s| s.details.as_ref());
        match code {
            401 => Self::Unauthorized,
            403 if text.contains("being syncing and please retry later") => Self::Syncing,
            403 => Self::Forbidden(text),
            404 if details.is_some_and(|d| !d.name.is_empty()) => Self::NotFound,
            404 => Self::NoResource,
            409 if details
                .is_some_and(|d| d.causes.iter().any(|c| c.reason == "FieldManagerConflict")) =>
            {
                Self::OwnedByOther(text)
            }
            409 => Self::Conflict(text),
            410 => Self::Expired,
            429 => {
                let header = headers.get(RETRY_AFTER).and_then(|v| v.to_str().ok());
                let asked = header.and_then(|v| v.parse().ok());
                let body = details
                    .map(|d| u64::from(d.retry_after_seconds))
                    .filter(|s| *s > 0);
                let asked = asked.or(body).map(Duration::from_secs);
                Self::Throttled(asked.map(|asked: Duration| asked.min(LONGEST_ASKED)))
            }
            500.. => Self::Server(code, text),
            _ => Self::Invalid(code, text),
        }
    }

    /// A connection that could not be made or broke.
    #[must_use]
    pub fn lost(error: &dyn std::error::Error) -> Self {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            // Writing to a string does not fail.
            if write!(text, ": {error}").is_err() {
                break;
            }
            cause = error.source();
        }
        Self::Unreachable(clean(&text))
    }

    /// A request that could not be built.
    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "is the argument of map_err")]
    pub fn request(error: kube::core::request::Error) -> Self {
        Self::Undecodable(error.to_string())
    }

    /// Whether the same request may succeed in a moment.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Throttled(_) | Self::Server(..) | Self::Unreachable(_) | Self::TimedOut => true,
            Self::Unauthorized
            | Self::Forbidden(_)
            | Self::Syncing
            | Self::NotFound
            | Self::NoResource
            | Self::Conflict(_)
            | Self::OwnedByOther(_)
            | Self::Expired
            | Self::Invalid(..)
            | Self::Undecodable(_) => false,
        }
    }

    /// How long to leave it alone after it ended a call for the `failures`th time in a row (from 1), before
    /// jitter. Nothing is tried in a hot loop.
    #[must_use]
    pub fn rest(&self, failures: u32) -> Duration {
        let doubling = |first: u64, most: u64| {
            let factor = 1_u64
                .checked_shl(failures.saturating_sub(1))
                .unwrap_or(u64::MAX);
            Duration::from_secs(first.saturating_mul(factor).min(most))
        };
        match self {
            // The watch tells when it is over; this is for a watch that is down.
            Self::Syncing => Duration::from_secs(15),
            Self::Conflict(_) | Self::Expired => doubling(1, 30),
            Self::Throttled(Some(after)) => *after,
            // As Kubernetes' own clients: what waits for a server that was away goes on within a minute.
            Self::Throttled(None) | Self::Server(..) | Self::Unreachable(_) | Self::TimedOut => {
                doubling(2, 30)
            }
            Self::Unauthorized => doubling(5, 60),
            // An API server that starts forbids everything until it has read its roles.
            Self::Forbidden(_) => doubling(2, 600),
            Self::NotFound
            | Self::NoResource
            | Self::OwnedByOther(_)
            | Self::Invalid(..)
            | Self::Undecodable(_) => doubling(30, 600),
        }
    }

    /// [`Self::rest`] with jitter: `drawn` is from 0 to 1. What the server asks for is only ever drawn out.
    #[must_use]
    pub fn spread_rest(&self, failures: u32, drawn: f64) -> Duration {
        let least = match self {
            Self::Throttled(Some(_)) => 1.0,
            _ => 0.5,
        };
        self.rest(failures).mul_f64(least + drawn)
    }

    /// One word for metrics.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Unauthorized => "unauthorized",
            Self::Forbidden(_) => "forbidden",
            Self::Syncing => "syncing",
            Self::NotFound => "not-found",
            Self::NoResource => "no-resource",
            Self::Conflict(_) => "conflict",
            Self::OwnedByOther(_) => "owned-by-other",
            Self::Expired => "expired",
            Self::Invalid(..) => "invalid",
            Self::Throttled(_) => "throttled",
            Self::Server(..) => "server-error",
            Self::Unreachable(_) => "unreachable",
            Self::TimedOut => "timed-out",
            Self::Undecodable(_) => "undecodable",
        }
    }
}

/// One line, at most 400 characters.
fn clean(text: &str) -> String {
    let line = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    line.take(400).collect::<String>().trim().to_owned()
}
