//! The metrics of `edgehold approve --watch`: one path, few connections, each short. They name nobody.

use std::convert::Infallible;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http::{Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};

use crate::runtime::body::{self, Body};

/// Connections at once.
const MOST: usize = 8;

/// A connection lives no longer.
const LONGEST: Duration = Duration::from_secs(5);

/// Tells them to whoever asks. Does not end.
pub(super) async fn tell(listener: TcpListener, registry: &Registry) {
    let mut open = FuturesUnordered::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if open.len() < MOST => match accepted {
                Ok((stream, _)) => open.push(serve(stream, registry)),
                Err(error) => {
                    tracing::debug!(%error, "nobody could ask for metrics");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            },
            Some(()) = open.next() => {}
        }
    }
}

async fn serve(stream: TcpStream, registry: &Registry) {
    let service = service_fn(move |request| async move { Ok::<_, Infallible>(answer(&request, registry)) });
    let serving = http1::Builder::new()
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    if let Ok(Err(error)) = tokio::time::timeout(LONGEST, serving).await {
        tracing::debug!(%error, "a connection for metrics broke");
    }
}

fn answer(request: &Request<Incoming>, registry: &Registry) -> Response<Body> {
    let mut said = String::new();
    let told = request.uri().path() == "/metrics"
        && prometheus_client::encoding::text::encode(&mut said, registry).is_ok();
    let mut response = Response::new(body::full(said.into_bytes()));
    if !told {
        *response.status_mut() = StatusCode::NOT_FOUND;
    }
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let kind = http::HeaderValue::from_static(kind);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
