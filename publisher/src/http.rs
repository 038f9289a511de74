//! The HTTP face of the publisher: the service itself, and what operators ask.

use crate::Shared;
use crate::downcase::{self, QueryError};
use crate::journal::{AppendError, Health};
use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use net::http::get_only;
use net::operations::{self, Operable, Readiness};
use prometheus_client::registry::Registry;
use std::sync::Arc;

/// The topic of the records that answers are.
const TOPIC: &str = "downcase";

/// All that the publisher serves.
pub(crate) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/downcase", get_only(downcase))
        .route("/downcase/", get_only(downcase))
        .with_state(shared.clone())
        .merge(operations::routes(shared))
}

/// Why a request to `/downcase` was refused.
#[derive(Debug, thiserror::Error)]
enum DowncaseError {
    #[error(transparent)]
    Query(#[from] QueryError),
    #[error("cannot keep the answer: {0}")]
    Append(#[from] AppendError),
}

async fn downcase(State(shared): State<Arc<Shared>>, RawQuery(query): RawQuery) -> Response {
    let answer = publish_answer(&shared, query.as_deref().unwrap_or_default()).await;
    let response = answer.into_response();
    shared.metrics.answered(response.status());
    response
}

/// Who is answered 200 has a record on disk.
async fn publish_answer(shared: &Shared, query: &str) -> Result<String, DowncaseError> {
    let answer = downcase::answer(query)?;
    shared.journal.append(TOPIC, &[&answer]).await?;
    Ok(answer)
}

impl IntoResponse for DowncaseError {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::Query(QueryError::Missing | QueryError::NotUtf8) => StatusCode::BAD_REQUEST,
            Self::Query(QueryError::TooLong(_)) => StatusCode::URI_TOO_LONG,
            Self::Append(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        (status, format!("{self}\n")).into_response()
    }
}

impl Operable for Shared {
    /// Whether records are taken. Damage is said beside: it stops nothing new.
    fn readiness(&self) -> Readiness {
        let mut reasons = Vec::new();
        match self.journal.health() {
            Health::Writing => {}
            Health::Waiting(reason) => reasons.push(format!("the journal waits: {reason}")),
            Health::Failed(reason) => reasons.push(format!("the journal takes nothing until a restart: {reason}")),
        }
        if let Some(taken) = self.journal.slow_commit() {
            reasons.push(format!("the disk has been at work on a commit for {:.1} s", taken.as_secs_f64()));
        }
        let damage = self.journal.damage();
        let notes = damage.iter().map(|(from, to)| format!("records {from} to {} are damaged", to - 1)).collect();
        Readiness { reasons, notes }
    }

    fn metrics(&self) -> &Registry {
        self.metrics.read(self)
    }
}
