//! What a daemon tells those who run it, over HTTP: `/livez`, `/readyz`, `/healthz`, `/metrics`.

use crate::http::get_only;
use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use std::sync::Arc;

/// The text format that `/metrics` speaks: OpenMetrics 1.0, which Prometheus and its kin read.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A daemon that can be asked how it is.
pub trait Operable: Send + Sync + 'static {
    /// Whether it does its whole work now.
    fn readiness(&self) -> Readiness;

    /// Its metrics, read as they are at this moment.
    fn metrics(&self) -> &Registry;
}

/// Whether a daemon does its whole work.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Readiness {
    /// Why it does not, a line each. None: it is ready.
    pub reasons: Vec<String>,
    /// What is to be known beside, a line each; a daemon that is ready is so with these.
    pub notes: Vec<String>,
}

/// The routes: `/livez` is 200 while the process answers at all, `/readyz` (also as `/healthz`) is
/// 200 or 503 with the reasons, both with notes, `/metrics` the counters.
pub fn routes<D: Operable>(daemon: Arc<D>) -> Router {
    let readyz = {
        let daemon = daemon.clone();
        move || async move { readiness(&*daemon) }
    };
    Router::new()
        .route("/livez", get_only(async || "live\n"))
        .route("/readyz", get_only(readyz.clone()))
        .route("/healthz", get_only(readyz))
        .route("/metrics", get_only(move || async move { metrics(&*daemon) }))
}

fn readiness(daemon: &impl Operable) -> Response {
    let Readiness { reasons, notes } = daemon.readiness();
    let (status, first) = match reasons.is_empty() {
        true => (StatusCode::OK, Some("ready".to_owned())),
        false => (StatusCode::SERVICE_UNAVAILABLE, None),
    };
    let lines = first.into_iter().chain(reasons).chain(notes);
    (status, lines.map(|line| line + "\n").collect::<String>()).into_response()
}

fn metrics(daemon: &impl Operable) -> Response {
    let mut text = String::new();
    match encode(&mut text, daemon.metrics()) {
        Ok(()) => ([(header::CONTENT_TYPE, METRICS_TYPE)], text).into_response(),
        Err(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("cannot write the metrics: {error}\n")).into_response()
        }
    }
}
