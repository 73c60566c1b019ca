#![forbid(unsafe_code)]
//! The three paths, and what is said there.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Response, StatusCode};
use serde_json::json;
use tokio::time::Instant;

use super::live::Live;
use super::sources::Sources;
use crate::metrics::Exporter;

/// Prometheus' text format, version 0.0.4.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

const JSON: &str = "application/json";

/// All who ask within this time get the same numbers: who asks without end costs no more than
/// ten readings a second.
const FRESH: Duration = Duration::from_millis(100);

/// Answers those who watch.
pub(super) struct Answers {
    sources: Sources,
    exporter: Exporter,
    last: Mutex<Option<(Instant, String)>>,
    live: Live,
}

impl Answers {
    pub(super) fn new(sources: Sources, exporter: Exporter) -> Self {
        let live = Live::new(sources.counters.clone());
        Self { sources, exporter, last: Mutex::new(None), live }
    }

    /// What is to be done every second.
    pub(super) fn upkeep(&self) {
        self.exporter.upkeep();
        self.live.look();
    }

    /// The answer to a request of that method for that path.
    pub(super) fn to(&self, method: &Method, path: &str) -> Response<String> {
        let answer: fn(&Self) -> Response<String> = match path {
            "/metrics" => Self::metrics,
            "/livez" => Self::livez,
            "/readyz" => Self::readyz,
            _ => {
                let what = "there are /metrics, /livez and /readyz\n".to_owned();
                return response(StatusCode::NOT_FOUND, TEXT, what);
            }
        };
        if method == Method::GET {
            return answer(self);
        }
        let mut refusal =
            response(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET is allowed\n".to_owned());
        refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        refusal
    }

    fn metrics(&self) -> Response<String> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let text = match &*last {
            Some((at, text)) if at.elapsed() < FRESH => text.clone(),
            _ => {
                let text = self.exporter.render(&self.sources.scrape());
                *last = Some((Instant::now(), text.clone()));
                text
            }
        };
        response(StatusCode::OK, TEXT, text)
    }

    fn livez(&self) -> Response<String> {
        let live = self.live.look();
        let status = if live { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        response(status, JSON, json!({ "live": live }).to_string())
    }

    fn readyz(&self) -> Response<String> {
        let unready = self.sources.health.unready();
        let reasons: Vec<_> = unready
            .iter()
            .map(|(reason, message)| json!({ "id": reason.id(), "message": message }))
            .collect();
        let ready = reasons.is_empty();
        let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        response(status, JSON, json!({ "ready": ready, "reasons": reasons }).to_string())
    }
}

fn response(status: StatusCode, kind: &'static str, body: String) -> Response<String> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
