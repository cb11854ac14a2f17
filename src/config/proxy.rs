//! `upstream.proxyURL`, `proxyCredentialsFile` and `noProxy`: the proxy on the way.

use crate::upstream::{Bypass, Credentials, UpstreamProxy};

use super::address;
use super::error::{Fault, quoted};
use super::object::Object;

pub(super) fn read(upstream: &mut Object<'_>) -> Option<UpstreamProxy> {
    let [url, file, exceptions] =
        ["proxyURL", "proxyCredentialsFile", "noProxy"].map(|name| upstream.get(name));
    let Some(url) = url else {
        for field in [file, exceptions].into_iter().flatten() {
            field.refuse(Fault::new(
                "is for a proxy, and there is no `proxyURL`",
                "write upstream.proxyURL, or remove it",
            ));
        }
        return None;
    };
    let given = url.parse(address::proxy);
    let from_file = file.and_then(|field| {
        if given.as_ref().is_some_and(|given| given.credentials.is_some()) {
            field.refuse(Fault::new(
                "stands beside a user name in `proxyURL`",
                "keep the file, and take user name and password out of the URL",
            ));
        }
        field.path().map(Credentials::File)
    });
    let exceptions = exceptions.map(|field| field.items()).unwrap_or_default();
    let bypass = exceptions.iter().filter_map(|item| item.parse(bypass)).collect();
    let given = given?;
    Some(UpstreamProxy {
        credentials: from_file.or(given.credentials),
        bypass,
        ..given
    })
}

fn bypass(text: &str) -> Result<Bypass, Fault> {
    Bypass::parse(text).ok_or_else(|| {
        // A URL may have been written, with a password.
        let shown = if text.contains('@') {
            "it".to_owned()
        } else {
            quoted(text)
        };
        Fault::new(
            format!("{shown} is neither a host, a domain, an IP address, a CIDR nor `*`"),
            "write one entry an item, like 203.0.113.10, 10.0.0.0/8, kube.example:6443 or .example",
        )
    })
}
