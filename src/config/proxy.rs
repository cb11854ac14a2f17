//! `upstream.proxyURL`, `proxyCredentialsFile` and `noProxy`: the proxy on the way.

use crate::upstream::{Bypass, Credentials, UpstreamProxy};

use super::error::{Fault, Problems, quoted};
use super::object::{Object, or_default};
use super::{address, schema};

/// `Some(None)`: there is none. `None`: a problem was reported.
pub(super) fn read(upstream: &Object<'_>, out: &mut Problems) -> Option<Option<UpstreamProxy>> {
    let url = upstream.get("proxyURL");
    let file = upstream.get("proxyCredentialsFile");
    let exceptions = upstream.get("noProxy");
    if url.is_none() {
        for field in [&file, &exceptions].into_iter().flatten() {
            let fault = Fault::new(
                "is for a proxy, and there is no `proxyURL`",
                "write upstream.proxyURL, or remove it",
            );
            field.refuse(fault, out);
        }
        return (file.is_none() && exceptions.is_none()).then_some(None);
    }
    let given = url.and_then(|field| field.parse(address::proxy, out));
    let from_file = or_default(file, None, |field| {
        let path = field.parse(schema::path, out)?;
        if given.as_ref().is_some_and(|given| given.credentials.is_some()) {
            let fault = Fault::new(
                "stands beside a user name in `proxyURL`",
                "keep the file, and take user name and password out of the URL",
            );
            field.refuse(fault, out);
            return None;
        }
        Some(Some(Credentials::File(path)))
    });
    let bypass = or_default(exceptions, Vec::new(), |field| {
        let items = field.items(out)?;
        let count = items.len();
        let entries: Vec<_> = items.iter().filter_map(|item| item.parse(bypass, out)).collect();
        (entries.len() == count).then_some(entries)
    });
    let given = given?;
    Some(Some(UpstreamProxy {
        scheme: given.scheme,
        host: given.host,
        port: given.port,
        credentials: from_file?.or(given.credentials.map(Credentials::Given)),
        bypass: bypass?,
    }))
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
