//! One request from arrival to answer: record, fault, authenticate, authorize, route.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::Value;

use crate::auth::{self, User};
use crate::body::{self, Body, BoxError};
use crate::fault::Fault;
use crate::kinds::{Kind, Origin};
use crate::negotiate::{self, Format, Negotiated, Offer};
use crate::query::Query;
use crate::request_info::RequestInfo;
use crate::seen::{Protocol, Seen};
use crate::server::{Conn, Shared, Tasks};
use crate::status::Status;
use crate::{clock, debug, discovery, gzip, json, proto, resource};

/// The largest request body of the API; `/debug/echo` takes more.
const BODY_LIMIT: usize = 3 << 20;

/// A request on its way through the handlers.
pub(crate) struct Call {
    pub shared: Arc<Shared>,
    pub user: User,
    pub info: RequestInfo,
    pub query: Query,
    pub method: Method,
    pub target: String,
    pub headers: HeaderMap,
    pub body: Option<Incoming>,
    pub upgrade: Option<hyper::upgrade::OnUpgrade>,
    pub conn: Arc<Conn>,
}

pub(crate) type Answer = Result<Response<Body>, Status>;

/// The service function of every connection.
pub(crate) async fn handle(
    shared: Arc<Shared>,
    conn: Arc<Conn>,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, BoxError> {
    if !below(shared.options.base, request.uri_mut()) {
        return Ok(gateway_page(404));
    }
    let target = request
        .uri()
        .path_and_query()
        .map_or_else(String::new, |p| p.as_str().to_owned());
    let method = request.method().clone();
    let user = auth::authenticate(&conn.certificate, request.headers(), &shared.cluster.tokens);
    let open = shared
        .recorder
        .request(seen(&conn, &request, &target, user.as_ref().ok()));
    let (delay, fault) = shared.faults.for_request(method.as_str(), &target);
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    let accept = first(request.headers(), &ACCEPT).to_owned();
    let audit = audit_id(request.headers());
    let mut response = match fault {
        Some(Fault::Stall) => {
            let _body = request.into_body().collect().await;
            std::future::pending().await
        }
        Some(Fault::Reset) => {
            conn.listed.control.cut();
            return Err("reset on command".into());
        }
        Some(Fault::ResetStream) => return Err("reset on command".into()),
        Some(Fault::GatewayPage(code)) => return Ok(body_guard(gateway_page(code), open)),
        Some(Fault::PassedPage(code)) => gateway_page(code),
        Some(Fault::Status(code)) => refusal(&Status::of_code(code), &accept),
        _ if is_preflight(&request) => preflight(),
        _ => match user {
            Err(status) => {
                leave(&shared, &conn);
                refusal(&status, &accept)
            }
            Ok(user) => {
                if user.is_anonymous() {
                    leave(&shared, &conn);
                }
                routed(shared.clone(), conn.clone(), user, request, target).await
            }
        },
    };
    match fault {
        Some(Fault::CutBody { after_bytes }) => response = response.map(|b| body::cut(b, after_bytes)),
        Some(Fault::ShortBody) => response = short(response, &shared.tasks).await,
        _ => {}
    }
    decorate(response.headers_mut(), audit);
    if fault == Some(Fault::Unaudited) {
        response.headers_mut().remove("audit-id");
    }
    let skew = shared.skew.load(std::sync::atomic::Ordering::Relaxed);
    if skew != 0 {
        response
            .headers_mut()
            .entry(http::header::DATE)
            .or_insert(clock::http_date(clock::unix() + skew));
    }
    if method == Method::HEAD {
        response = response.map(|_| body::empty());
    }
    Ok(body_guard(response, open))
}

/// Takes what stands before every path off; whether it stood there.
fn below(base: &str, uri: &mut http::Uri) -> bool {
    if base.is_empty() {
        return true;
    }
    let mut parts = uri.clone().into_parts();
    let whole = parts.path_and_query.as_ref().map_or("", |whole| whole.as_str());
    let Some(rest) = whole.strip_prefix(base).filter(|rest| rest.starts_with('/')) else {
        return false;
    };
    parts.path_and_query = rest.parse().ok();
    *uri = http::Uri::from_parts(parts).unwrap_or_default();
    true
}

fn body_guard(response: Response<Body>, open: crate::seen::Open) -> Response<Body> {
    response.map(|b| body::guarded(b, open))
}

fn leave(shared: &Shared, conn: &Conn) {
    if conn.protocol == Protocol::Http2 && shared.options.goaway_unauthenticated {
        conn.leave.notify_one();
    }
}

fn seen(conn: &Conn, request: &Request<Incoming>, target: &str, user: Option<&User>) -> Seen {
    Seen {
        number: 0,
        method: request.method().to_string(),
        target: target.to_owned(),
        authority: request.uri().authority().map_or_else(
            || first(request.headers(), &http::header::HOST).to_owned(),
            ToString::to_string,
        ),
        headers: request.headers().clone(),
        peer_cn: conn.certificate.cn().map(str::to_owned),
        token: auth::bearer(request.headers()).map(str::to_owned),
        user: user.map(|u| u.name.clone()),
        protocol: conn.protocol,
        connection_id: conn.listed.id,
    }
}

async fn routed(
    shared: Arc<Shared>,
    conn: Arc<Conn>,
    user: User,
    mut request: Request<Incoming>,
    target: String,
) -> Response<Body> {
    let accept = first(request.headers(), &ACCEPT).to_owned();
    if let Some(replay) = &shared.replay {
        let recorded = replay.answer(request.method(), &target, request.headers());
        // Nobody records a probe, but whoever asks must be able to see that the server is up.
        let probe = (target == "/readyz").then(|| Response::new(body::full("ok")));
        return recorded
            .or(probe)
            .unwrap_or_else(|| refusal(&Status::unknown_resource(), &accept));
    }
    let upgrade = request
        .headers()
        .contains_key("upgrade")
        .then(|| hyper::upgrade::on(&mut request));
    let (parts, body) = request.into_parts();
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    let Ok(info) = RequestInfo::parse(&parts.method, parts.uri.path(), &query) else {
        let message = "unable to determine kind and namespace from url";
        return refusal(&Status::new(500, "InternalError", message), &accept);
    };
    let method = parts.method;
    let call = Call {
        shared,
        user,
        info,
        query,
        method,
        target,
        headers: parts.headers,
        body: Some(body),
        upgrade,
        conn,
    };
    match route(call).await {
        Ok(response) => response,
        Err(status) => refusal(&status, &accept),
    }
}

async fn route(call: Call) -> Answer {
    if call.info.path.starts_with("/debug/") {
        return debug::answer(call).await;
    }
    let rbac = call.shared.cluster.rbac.lock().clone();
    rbac.authorize(&call.user, &call.info)?;
    if call.info.is_resource {
        resource::answer(call).await
    } else {
        discovery::answer(&call)
    }
}

impl Call {
    pub(crate) fn accept(&self) -> &str {
        first(&self.headers, &ACCEPT)
    }

    /// The negotiated form for `kind`, or 406.
    pub(crate) fn negotiate(&self, kind: &Kind, single: bool) -> Result<Negotiated, Status> {
        let offer = Offer {
            protobuf: kind.origin == Origin::BuiltIn,
            single,
        };
        let mut form = negotiate::negotiate(self.accept(), offer).ok_or_else(Status::not_acceptable)?;
        form.pretty |= self.wants_indented();
        Ok(form)
    }

    fn wants_indented(&self) -> bool {
        let agent = first(&self.headers, &USER_AGENT);
        self.query.truthy("pretty")
            || ["curl", "Wget", "Mozilla/5.0"]
                .iter()
                .any(|a| agent.starts_with(a))
    }

    /// The whole request body, or 413.
    pub(crate) async fn read_body(&mut self) -> Result<Bytes, Status> {
        let Some(body) = self.body.take() else {
            return Ok(Bytes::new());
        };
        let limited = http_body_util::Limited::new(body, BODY_LIMIT).collect().await;
        let too_large = || {
            Status::new(
                413,
                "RequestEntityTooLarge",
                "Request entity too large: limit is 3145728",
            )
        };
        Ok(limited.map_err(|_| too_large())?.to_bytes())
    }

    /// The request body as an object, by its Content-Type; an empty body is `None`.
    pub(crate) async fn read_object(&mut self) -> Result<Option<Value>, Status> {
        let media = first(&self.headers, &CONTENT_TYPE)
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_owned();
        let bytes = self.read_body().await?;
        if bytes.is_empty() {
            return Ok(None);
        }
        let decoded = match media.as_str() {
            "" | "application/json" => serde_json::from_slice(&bytes).ok(),
            "application/vnd.kubernetes.protobuf" => proto::decode(&bytes),
            other => return Err(Status::unsupported_media_type(other)),
        };
        decoded
            .map(Some)
            .ok_or_else(|| Status::bad_request("the object provided is unrecognized"))
    }

    /// An answer that may be compressed.
    pub(crate) fn respond(&self, code: StatusCode, form: &Negotiated, bytes: Vec<u8>) -> Response<Body> {
        let response = Response::builder()
            .status(code)
            .header(CONTENT_TYPE, form.content_type());
        if bytes.len() > self.shared.options.gzip_above && self.accepts_gzip() {
            let response = response
                .header("Content-Encoding", "gzip")
                .header("Vary", "Accept-Encoding");
            return response.body(body::whole(gzip::compress(&bytes))).expect("valid");
        }
        response.body(body::whole(bytes)).expect("valid")
    }

    pub(crate) fn accepts_gzip(&self) -> bool {
        // The bare word: with a weight it is not known.
        first(&self.headers, &ACCEPT_ENCODING)
            .split(',')
            .any(|token| token.trim() == "gzip")
    }
}

/// The first value of a header as text, or nothing.
pub(crate) fn first<'a>(headers: &'a HeaderMap, name: &http::HeaderName) -> &'a str {
    headers
        .get(name)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default()
}

/// A `Status` in the form that the client accepts.
pub(crate) fn refusal(status: &Status, accept: &str) -> Response<Body> {
    let form = negotiate::for_error(accept);
    let value = status.value();
    let bytes = match form.format {
        Format::Json => json::bytes(&value, Origin::BuiltIn, form.pretty),
        Format::Protobuf => proto::status(&value),
    };
    let mut response = Response::builder()
        .status(status.code)
        .header(CONTENT_TYPE, form.content_type());
    if status.code == 403 {
        response = response.header("X-Content-Type-Options", "nosniff");
    }
    let retry = status
        .details
        .as_ref()
        .and_then(|d| d["retryAfterSeconds"].as_u64());
    if let Some(seconds) = retry {
        response = response.header("Retry-After", seconds.to_string());
    }
    response.body(body::whole(bytes)).expect("valid")
}

/// As kube-apiserver with `--cors-allowed-origins=.*`: answered before anybody is authenticated.
fn is_preflight(request: &Request<Incoming>) -> bool {
    request.method() == Method::OPTIONS && request.headers().contains_key("origin")
}

fn preflight() -> Response<Body> {
    let response = Response::builder().status(StatusCode::NO_CONTENT);
    response.body(body::empty()).expect("valid")
}

fn gateway_page(code: u16) -> Response<Body> {
    let code = StatusCode::from_u16(code).unwrap_or(StatusCode::BAD_GATEWAY);
    let reason = code.canonical_reason().unwrap_or("Error");
    let page = format!(
        "<html>\r\n<head><title>{0} {reason}</title></head>\r\n<body>\r\n<center><h1>{0} {reason}</h1></center>\r\n\
         <hr><center>gateway</center>\r\n</body>\r\n</html>\r\n",
        code.as_u16()
    );
    let response = Response::builder()
        .status(code)
        .header(CONTENT_TYPE, "text/html")
        .header("Server", "gateway");
    response.body(body::full(page)).expect("valid")
}

/// Promises more than there is: the first piece of the body, and an end.
async fn short(response: Response<Body>, tasks: &Tasks) -> Response<Body> {
    let (mut parts, mut body) = response.into_parts();
    let first = match body.frame().await {
        Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
        _ => Bytes::new(),
    };
    parts.headers.insert(
        http::header::CONTENT_LENGTH,
        HeaderValue::from(first.len() + 1000),
    );
    Response::from_parts(parts, body::short(first, tasks))
}

fn audit_id(headers: &HeaderMap) -> HeaderValue {
    let sent = headers.get("audit-id").cloned();
    sent.unwrap_or_else(|| uuid::Uuid::new_v4().to_string().parse().expect("text"))
}

fn decorate(headers: &mut HeaderMap, audit: HeaderValue) {
    headers.entry("audit-id").or_insert(audit);
    headers
        .entry(CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-cache, private"));
    for (name, value) in [
        (
            "x-kubernetes-pf-flowschema-uid",
            "1d974361-4b39-41bb-b5e5-2d609030037c",
        ),
        (
            "x-kubernetes-pf-prioritylevel-uid",
            "ec8c054c-873d-4810-be2a-c535c2035413",
        ),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
}
