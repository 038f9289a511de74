//! A way to a publisher that can be cut.

use net::Endpoint;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What goes through it goes on until this is dropped.
pub(super) struct Proxy {
    pub(super) at: Endpoint,
    shared: Arc<Shared>,
    _end: tokio_util::sync::DropGuard,
}

struct Shared {
    to: String,
    /// Ends the connections of today.
    cut: Mutex<CancellationToken>,
    /// After as many bytes from the publisher the next connection is cut.
    cut_after_bytes: Mutex<Option<u64>>,
    open: watch::Sender<usize>,
}

impl Proxy {
    pub(super) async fn to(endpoint: &Endpoint) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap().into();
        let end = CancellationToken::new();
        let shared = Arc::new(Shared {
            to: endpoint.address().to_string(),
            cut: Mutex::new(end.child_token()),
            cut_after_bytes: Mutex::new(None),
            open: watch::Sender::new(0),
        });
        tokio::spawn(end.clone().run_until_cancelled_owned(accept(listener, shared.clone())));
        Self { at, shared, _end: end.drop_guard() }
    }

    /// Cuts all connections there are.
    pub(super) fn cut(&self) {
        let mut cut = self.shared.cut.lock().unwrap();
        cut.cancel();
        *cut = CancellationToken::new();
    }

    /// Cuts the next connection when the publisher has sent as many bytes.
    pub(super) fn cut_after(&self, bytes: u64) {
        *self.shared.cut_after_bytes.lock().unwrap() = Some(bytes);
    }

    /// Waits for a number of open connections.
    pub(super) async fn has_open(&self, count: usize) {
        self.shared.open.subscribe().wait_for(|open| *open == count).await.unwrap();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let cut = shared.cut.lock().unwrap().clone();
        let shared = shared.clone();
        tokio::spawn(async move {
            shared.open.send_modify(|open| *open += 1);
            cut.run_until_cancelled(forward(client, &shared)).await;
            shared.open.send_modify(|open| *open -= 1);
        });
    }
}

async fn forward(mut client: TcpStream, shared: &Shared) {
    let Ok(mut publisher) = TcpStream::connect(&shared.to).await else { return };
    let (mut from_client, mut to_client) = client.split();
    let (from_publisher, mut to_publisher) = publisher.split();
    let cut_after_bytes = shared.cut_after_bytes.lock().unwrap().take();
    let mut from_publisher = from_publisher.take(cut_after_bytes.unwrap_or(u64::MAX));
    // Whatever ends first ends both.
    tokio::select! {
        _ = copy(&mut from_client, &mut to_publisher) => {}
        _ = copy(&mut from_publisher, &mut to_client) => {}
    }
    let _ = to_client.shutdown().await;
}
