//! An HTTP/1.1 server with limits, for an axum router.
//!
//! `axum::serve` bounds neither the number of connections nor the wait for a request's head, and
//! its graceful shutdown waits for ever for a client that stalls in the middle of one. This is the
//! same loop over hyper with those three bounds, each named below.

mod heads;

use axum::Router;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use futures_util::future::{AbortHandle, AbortRegistration, Abortable, pending};
use heads::Heads;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use std::collections::HashMap;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// Connections served at once; more wait in the listener's backlog.
pub const CONNECTIONS_MAX: usize = 1024;
/// The wait for a request's head to be complete, on an idle connection too.
pub const HEAD_WAIT_MAX: Duration = Duration::from_secs(30);
/// The wait for requests in hand at shutdown.
pub const DRAIN_WAIT_MAX: Duration = Duration::from_secs(2);
/// Bytes of a request's head; a longer one is answered 431.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;
/// The pause after an `accept` that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves `router` until `shutdown`, then finishes the requests in hand, for at most
/// [`DRAIN_WAIT_MAX`]. When this returns, no connection is left, and nothing is answered any more.
pub async fn serve(listener: TcpListener, router: Router, shutdown: CancellationToken) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let (mut connections, mut stops) = (JoinSet::new(), HashMap::new());
    while let Some(stream) = accept(&listener, &shutdown).await {
        let Some(Ok(slot)) = shutdown.run_until_cancelled(slots.clone().acquire_owned()).await else { break };
        let (stop, stopped) = AbortHandle::new_pair();
        let connection = serve_connection(stream, router.clone(), stopped, slot);
        stops.insert(connections.spawn(connection).id(), stop);
        while let Some(ended) = connections.try_join_next_with_id() {
            stops.remove(&ended.map_or_else(|error| error.id(), |(id, ())| id));
        }
    }

    drop(listener);
    stops.values().for_each(AbortHandle::abort);
    let all_ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN_WAIT_MAX, all_ended).await.is_err() {
        connections.shutdown().await;
        warn!(waited = ?DRAIN_WAIT_MAX, "http clients still had requests open, closed them");
    }
}

/// Serves a connection until it ends, a head is late, or it is told to stop and has answered what it has in hand.
///
/// How it is told costs nothing while it is not: of the notifications of a token or a channel each look takes a lock, in
/// each request, that all connections share.
async fn serve_connection(stream: TcpStream, router: Router, stopped: AbortRegistration, _slot: OwnedSemaphorePermit) {
    let heads = Heads::new();
    let mut server = http1::Builder::new();
    server.timer(heads.clone()).header_read_timeout(HEAD_WAIT_MAX).max_buf_size(HEAD_BYTES_MAX);
    let mut connection = pin!(server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)));
    let mut late = pin!(heads.late(HEAD_WAIT_MAX));
    let mut stopped = Abortable::new(pending::<()>(), stopped);
    let mut is_told = false;
    loop {
        tokio::select! {
            biased;
            ended = &mut connection => {
                if let Err(error) = ended {
                    debug!(%error, "http connection ended");
                }
                return;
            }
            () = &mut late => return debug!("http client sent no request in time"),
            _ = &mut stopped, if !is_told => {
                is_told = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// The next connection; `None` at shutdown.
async fn accept(listener: &TcpListener, shutdown: &CancellationToken) -> Option<TcpStream> {
    let mut warned = false;
    loop {
        match shutdown.run_until_cancelled(listener.accept()).await? {
            Ok((stream, _)) => {
                // Answers are small: waiting for more to send only delays them.
                if let Err(error) = stream.set_nodelay(true) {
                    debug!(%error, "cannot set TCP_NODELAY");
                }
                return Some(stream);
            }
            Err(error) if is_of_one_connection(&error) => debug!(%error, "http client left before it was accepted"),
            Err(error) => {
                if !std::mem::replace(&mut warned, true) {
                    warn!(%error, "cannot accept http connections, trying until it can");
                }
                shutdown.run_until_cancelled(tokio::time::sleep(ACCEPT_PAUSE)).await?;
            }
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Routes GET, and only GET, to `handler`: axum's own `get` answers HEAD as well.
pub fn get_only<H, T, S>(handler: H) -> MethodRouter<S>
where
    H: axum::handler::Handler<T, S>,
    T: 'static,
    S: Clone + Send + Sync + 'static,
{
    get(handler).head(method_not_allowed).fallback(method_not_allowed)
}

async fn method_not_allowed() -> Response {
    let mut response = (StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here\n").into_response();
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
    response
}
