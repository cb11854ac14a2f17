//! Upgrades (exec, attach, port-forward over WebSocket and SPDY): HTTP/1.1 upstream, then bytes both ways.
//!
//! A refusal by the apiserver is passed on as it is: kubectl parses it to decide on its fallback (wire contract 8.2).

use http::{HeaderValue, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use crate::kube::status::Status;
use crate::runtime::body::{self, Body};
use crate::upstream::LinkState;
use crate::upstream::error::Sent;

use super::exchange::Exchange;
use super::headers::strip_response;

pub(super) async fn handle(mut exchange: Exchange, body: Incoming, protocol: HeaderValue) -> Response<Body> {
    if exchange.proxy.link.state() == LinkState::Offline {
        return exchange.refuse(&Status::unavailable("edgehold: the cloud cannot be reached"));
    }
    let Some(client) = exchange.head.extensions.remove::<OnUpgrade>() else {
        return exchange.refuse(&Status::bad_request("upgrades need HTTP/1.1"));
    };
    exchange
        .head
        .headers
        .insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    exchange.head.headers.insert(header::UPGRADE, protocol);
    let request = exchange.request(body::incoming(body));
    let mut response = match exchange.caller.transport.send_alone(request).await {
        Ok(response) => response,
        Err(error) => {
            exchange.failed(&error);
            return exchange.refuse(&match error.sent {
                Sent::No => Status::unavailable("edgehold: the cloud cannot be reached"),
                Sent::Maybe => Status::timeout("edgehold: the connection to the cloud broke"),
            });
        }
    };
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return exchange.passed_on(response.map(body::incoming));
    }
    let upstream = hyper::upgrade::on(&mut response);
    let tasks = exchange.proxy.tasks.clone();
    tasks.spawn("upgrade", exchange.tether.tunnel(splice(client, upstream)));
    let (mut head, _) = response.into_parts();
    exchange.noted(&head);
    let agreed = head.headers.get(header::UPGRADE).cloned();
    strip_response(&mut head.headers);
    head.headers
        .insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    if let Some(agreed) = agreed {
        head.headers.insert(header::UPGRADE, agreed);
    }
    Response::from_parts(head, body::empty())
}

/// Copies both ways; each side's end is passed on as a half-close.
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
