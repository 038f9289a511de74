//! The HTTP face of the publisher: the service itself, and what operators ask.

use crate::Shared;
use crate::downcase::{self, QueryError};
use crate::live::PublishError;
use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use net::http::get_only;
use net::operations::{self, Operable};
use prometheus_client::registry::Registry;
use std::sync::Arc;
use tracing::warn;

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
    #[error("cannot publish the answer: {0}")]
    Publish(PublishError),
}

async fn downcase(State(shared): State<Arc<Shared>>, RawQuery(query): RawQuery) -> Response {
    let answer = publish_answer(&shared, query.as_deref().unwrap_or_default()).await;
    let response = answer.into_response();
    shared.metrics.answered(response.status());
    response
}

/// Publishes the answer before the client gets it: who was answered 200 was published.
async fn publish_answer(shared: &Shared, query: &str) -> Result<String, DowncaseError> {
    let answer = downcase::answer(query)?;
    match shared.plain.publish(answer.clone()).await {
        Ok(()) => Ok(answer),
        // Best effort, like PUB itself: the drop is counted, and the client is not made to wait.
        Err(PublishError::Dropped(dropped)) => {
            // The first, and again each time their number has doubled.
            if dropped.count.is_power_of_two() {
                warn!(dropped = dropped.count, "the plain feed's budget is full: a subscriber reads too slowly");
            }
            Ok(answer)
        }
        Err(error) => Err(DowncaseError::Publish(error)),
    }
}

impl IntoResponse for DowncaseError {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::Query(QueryError::Missing | QueryError::NotUtf8) => StatusCode::BAD_REQUEST,
            Self::Query(QueryError::TooLong(_)) => StatusCode::URI_TOO_LONG,
            Self::Publish(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        (status, format!("{self}\n")).into_response()
    }
}

impl Operable for Shared {
    /// A publisher that answers at all can publish: subscribers come and go as they please.
    fn readiness(&self) -> Result<(), Vec<String>> {
        Ok(())
    }

    fn metrics(&self) -> &Registry {
        self.metrics.read(&self.plain)
    }
}
