//! Upgrades (exec, attach, port-forward over WebSocket and SPDY): HTTP/1.1 upstream, then bytes both ways.
//!
//! A refusal by the apiserver is passed on as it is: kubectl parses it to decide on its fallback (wire
//! contract 8.2).

use http::{HeaderValue, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use crate::kube::status::Status;
use crate::runtime::body::{self, Body};
use crate::upstream::{Lifeline, LinkState};

use super::exchange::Exchange;
use super::headers::strip_response;
use super::refuse::{away, unanswered};

pub(super) async fn handle(mut exchange: Exchange, body: Incoming) -> Response<Body> {
    if exchange.proxy.link.state() == LinkState::Offline {
        return exchange.refuse(&away(&exchange));
    }
    let Some(client) = exchange.head.extensions.remove::<OnUpgrade>() else {
        return exchange.refuse(&Status::bad_request("upgrades need HTTP/1.1"));
    };
    if exchange.caller.shows_nothing() {
        // No cluster allows this to everybody, and each attempt would cost a connection of its own.
        return exchange.refuse(&Status::unauthorized("edgehold: an upgrade needs a credential"));
    }
    let unknown = exchange.caller.is_unknown(&exchange.proxy);
    let admitted = unknown.then(|| exchange.proxy.strangers.upgrade());
    if matches!(admitted, Some(None)) {
        let message = "edgehold: too many callers without a known credential ask for upgrades";
        return exchange.refuse(&Status::too_many_requests(message));
    }
    let request = exchange.request(body::incoming(body));
    let sent = match exchange.upstream() {
        Ok(transport) => {
            let _under_way = exchange.on_the_way.under_way();
            transport.send_alone(request, exchange.caller.holder()).await
        }
        Err(error) => Err(error),
    };
    let mut response = match sent {
        Ok(response) => response,
        Err(error) => {
            exchange.failed(&error);
            return exchange.refuse(&unanswered(&exchange, &error));
        }
    };
    drop(admitted);
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return exchange.passed_on(response.map(body::incoming)).await;
    }
    let upstream = hyper::upgrade::on(&mut response);
    let lifeline = response.extensions_mut().remove::<Lifeline>();
    let copying = async move {
        let lost = async {
            match &lifeline {
                Some(lifeline) => lifeline.lost().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = splice(client, upstream) => {}
            // Cut off without a close: neither side meant to end it.
            () = lost => tracing::debug!("an upgraded connection is lost with the cloud"),
        }
    };
    let tasks = exchange.proxy.tasks.clone();
    tasks.spawn("upgrade", exchange.drain.tunnel(copying));
    let (mut head, _) = response.into_parts();
    exchange.noted(&head).await;
    let agreed = head.headers.get(header::UPGRADE).cloned();
    strip_response(&mut head.headers);
    head.headers
        .insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    if let Some(agreed) = agreed {
        head.headers.insert(header::UPGRADE, agreed);
    }
    Response::from_parts(head, body::empty())
}

/// Copies both ways; the end of one side is passed on as a half-close.
async fn splice(client: OnUpgrade, upstream: OnUpgrade) {
    let (client, upstream) = match tokio::try_join!(client, upstream) {
        Ok(both) => both,
        Err(error) => {
            tracing::debug!(%error, "an upgrade was not completed");
            return;
        }
    };
    let (mut client, mut upstream) = (TokioIo::new(client), TokioIo::new(upstream));
    if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut upstream).await {
        tracing::debug!(%error, "an upgraded connection broke");
    }
}
