//! `downpipe health`: one GET, as a container's health check needs it.

use anyhow::{Context, bail, ensure};
use http_body_util::{BodyExt, Limited};
use hyper::client::conn::http1;
use hyper::http::uri::Authority;
use hyper::{Request, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::net::TcpStream;

/// The wait for the whole answer.
const WAIT_MAX: Duration = Duration::from_secs(3);
/// Bytes of the answer that are read.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Whether the daemon at `url` says that it is ready. No path means `/readyz`.
///
/// # Errors
/// It is not ready, or does not answer; with what it said.
pub(crate) async fn check(url: &Uri) -> anyhow::Result<()> {
    let Some(address) = url.authority() else { bail!("the URL {url} has no host") };
    let path = match url.path_and_query() {
        Some(path) if path.as_str() != "/" => path.as_str(),
        _ => "/readyz",
    };
    let url = format!("http://{address}{path}");
    let answer = tokio::time::timeout(WAIT_MAX, get(address, path)).await;
    let (status, body) = answer
        .with_context(|| format!("no answer within {WAIT_MAX:?}"))
        .flatten()
        .with_context(|| format!("{url} does not answer"))?;
    ensure!(status == StatusCode::OK, "{url} is not ready ({}): {}", status.as_u16(), one_line(&body));
    Ok(())
}

async fn get(address: &Authority, path: &str) -> anyhow::Result<(StatusCode, String)> {
    // An IPv6 address stands in brackets in a URL, and without them everywhere else.
    let host = address.host().trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((host, address.port_u16().unwrap_or(80))).await?;
    let (mut requests, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);

    let request = Request::get(path).header(header::HOST, address.as_str()).body(String::new())?;
    let answer = requests.send_request(request).await?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|error| anyhow::anyhow!(error))?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

fn one_line(text: &str) -> String {
    text.trim().replace('\n', "; ")
}
