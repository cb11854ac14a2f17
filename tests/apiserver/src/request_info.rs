//! What a request means to kube-apiserver: verb, group, version, namespace, resource, name, subresource.
//!
//! Mirrors `RequestInfoFactory` of k8s.io/apiserver: split on `/` after percent-decoding, inner empty segments kept.

use http::Method;
use percent_encoding::percent_decode_str;

use crate::query::Query;

/// The attributes kube-apiserver authorizes and routes by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RequestInfo {
    pub is_resource: bool,
    pub path: String,
    pub verb: String,
    pub group: String,
    pub version: String,
    pub namespace: String,
    pub resource: String,
    pub subresource: String,
    pub name: String,
}

/// `GET /api/v1/watch` and the like: a verb prefix with nothing behind it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

impl RequestInfo {
    pub(crate) fn parse(method: &Method, raw_path: &str, query: &Query) -> Result<Self, Malformed> {
        let path = percent_decode_str(raw_path).decode_utf8_lossy().into_owned();
        let mut info = Self {
            verb: method.as_str().to_lowercase(),
            path: path.clone(),
            ..Self::default()
        };
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        if parts.len() < 3 || !matches!(parts[0], "api" | "apis") {
            return Ok(info);
        }
        let mut rest = &parts[1..];
        if parts[0] == "apis" {
            if parts.len() < 4 {
                return Ok(info);
            }
            info.group = rest[0].to_owned();
            rest = &rest[1..];
        }
        info.is_resource = true;
        info.version = rest[0].to_owned();
        rest = &rest[1..];
        let legacy = matches!(rest.first(), Some(&("watch" | "proxy")));
        if legacy {
            if rest.len() < 2 {
                return Err(Malformed);
            }
            info.verb = rest[0].to_owned();
            rest = &rest[1..];
        } else {
            info.verb = verb(method).to_owned();
        }
        rest = info.take_namespace(rest);
        info.take_resource(rest);
        if !legacy {
            info.refine(query);
        }
        Ok(info)
    }

    fn take_namespace<'a>(&mut self, rest: &'a [&'a str]) -> &'a [&'a str] {
        if rest.first() == Some(&"namespaces") && rest.len() > 1 {
            self.namespace = rest[1].to_owned();
            if rest.len() > 2 && !matches!(rest[2], "status" | "finalize") {
                return &rest[2..];
            }
        }
        rest
    }

    fn take_resource(&mut self, rest: &[&str]) {
        let at = |i: usize| rest.get(i).map_or_else(String::new, |s| (*s).to_owned());
        self.resource = at(0);
        self.name = at(1);
        if self.verb != "proxy" {
            self.subresource = at(2);
        }
    }

    fn refine(&mut self, query: &Query) {
        if self.name.is_empty() && self.verb == "get" {
            self.verb = if query.truthy("watch") { "watch" } else { "list" }.to_owned();
            let decodable = query
                .get("limit")
                .is_none_or(|l| l.is_empty() || l.parse::<i64>().is_ok());
            if let (true, Some(name)) = (decodable, query.selected_name()) {
                self.name = name;
            }
        } else if self.name.is_empty() && self.verb == "delete" {
            self.verb = "deletecollection".to_owned();
        }
    }
}

fn verb(method: &Method) -> &'static str {
    match method.as_str() {
        "POST" => "create",
        "GET" | "HEAD" => "get",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" => "delete",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(line: &str) -> String {
        let (method, target) = line.split_once(' ').unwrap();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        match RequestInfo::parse(&method.parse().unwrap(), path, &Query::parse(query)) {
            Err(Malformed) => "error".into(),
            Ok(i) if !i.is_resource => format!("- {}", i.verb),
            Ok(i) => format!(
                "{} {}/{} {} {}/{} {}",
                i.verb, i.group, i.version, i.namespace, i.resource, i.subresource, i.name
            ),
        }
    }

    #[test]
    fn the_vectors_of_the_real_factory_hold() {
        for (line, want) in [
            ("GET /api/v1", "- get"),
            ("GET /apis/apps/v1", "- get"),
            ("GET /openapi/v3/apis/apps/v1", "- get"),
            ("GET /apis/apps/v1/deployments", "list apps/v1  deployments/ "),
            ("GET /api/v1/namespaces/foo", "get /v1 foo namespaces/ foo"),
            (
                "PUT /api/v1/namespaces/foo/finalize",
                "update /v1 foo namespaces/finalize foo",
            ),
            ("GET /api/v1/namespaces/status/pods", "list /v1 status pods/ "),
            (
                "GET /apis/g.io/v1/namespaces/foo/bars/x/y/z",
                "get g.io/v1 foo bars/y x",
            ),
            ("GET /api/v1/pods?watch", "watch /v1  pods/ "),
            ("GET /api/v1/pods?watch=no", "watch /v1  pods/ "),
            ("GET /api/v1/pods?watch=False", "list /v1  pods/ "),
            (
                "GET /api/v1/namespaces/foo/pods/p?watch=true",
                "get /v1 foo pods/ p",
            ),
            (
                "GET /api/v1/namespaces/foo/secrets?fieldSelector=metadata.name%3Ds1",
                "list /v1 foo secrets/ s1",
            ),
            (
                "GET /api/v1/nodes?fieldSelector=metadata.name%3Da%2Fb",
                "list /v1  nodes/ ",
            ),
            (
                "GET /api/v1/pods?fieldSelector=metadata.name%21%3Ds1",
                "list /v1  pods/ ",
            ),
            (
                "GET /api/v1/pods?limit=abc&watch=true&fieldSelector=metadata.name%3Dx",
                "watch /v1  pods/ ",
            ),
            ("GET /api/v1/watch/namespaces/foo/pods/p", "watch /v1 foo pods/ p"),
            (
                "GET /api/v1/watch/namespaces/foo",
                "watch /v1 foo namespaces/ foo",
            ),
            ("GET /api/v1/watch", "error"),
            (
                "DELETE /api/v1/namespaces/foo/pods",
                "deletecollection /v1 foo pods/ ",
            ),
            ("HEAD /api/v1/pods", "list /v1  pods/ "),
            ("GET //api/v1/pods/", "list /v1  pods/ "),
            ("GET /api/v1//pods", "get /v1  / pods"),
        ] {
            assert_eq!(info(line), want, "{line}");
        }
    }
}
