//! What goes past the proxy, as in `NO_PROXY`. Pure.
//!
//! The rules are those of Go's `httpproxy`, so that a list which kubelet or curl has is right here too, with one
//! exception: the loopback is nothing special.

use std::net::IpAddr;

/// One entry of such a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bypass {
    hosts: Hosts,
    /// `None`: any.
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Hosts {
    /// `*`
    All,
    /// `example.com`: this name and those below it.
    Name(String),
    /// `.example.com` and `*.example.com`: the names below it only.
    Below(String),
    /// An address, or a block of them; compared with addresses only, names are not looked up for it.
    Block(IpAddr, u8),
}

impl Bypass {
    /// `*`, a host, `.domain`, an IP address, each with an optional `:PORT`, or a CIDR; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some((address, length)) = text.split_once('/') {
            let address: IpAddr = address.parse().ok()?;
            let digits = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
            let length: u8 = length
                .parse()
                .ok()
                .filter(|length| digits && *length <= bits(address))?;
            return Some(Self {
                hosts: Hosts::Block(address, length),
                port: None,
            });
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Some(Self {
                hosts: Hosts::Block(address, bits(address)),
                port: None,
            });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse().ok().filter(|port| *port != 0)?)),
            None => (text, None),
        };
        Some(Self {
            hosts: hosts(host)?,
            port,
        })
    }

    /// Whether a server (a name in lower case or an address, without brackets) at this port is meant.
    pub(super) fn covers(&self, host: &str, port: u16) -> bool {
        if self.port.is_some_and(|only| only != port) {
            return false;
        }
        let below = |domain: &String| {
            let rest = host.strip_suffix(domain.as_str());
            rest.is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
        };
        match &self.hosts {
            Hosts::All => true,
            Hosts::Name(name) => host == name || below(name),
            Hosts::Below(domain) => below(domain),
            Hosts::Block(block, length) => host
                .parse()
                .is_ok_and(|address| same_start(*block, address, *length)),
        }
    }
}

fn hosts(text: &str) -> Option<Hosts> {
    if text == "*" {
        return Some(Hosts::All);
    }
    if let Some(v6) = text.strip_prefix('[') {
        let address: IpAddr = v6.strip_suffix(']')?.parse().ok()?;
        return address.is_ipv6().then(|| Hosts::Block(address, bits(address)));
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return address.is_ipv4().then(|| Hosts::Block(address, bits(address)));
    }
    let domain = text.strip_prefix('*').unwrap_or(text);
    let below = domain.strip_prefix('.');
    if below.is_none() && domain.len() != text.len() {
        return None;
    }
    let name = below.unwrap_or(domain);
    let letters = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    let labels = |label: &str| !label.is_empty() && label.bytes().all(letters);
    let name = name.split('.').all(labels).then(|| name.to_ascii_lowercase())?;
    Some(if below.is_some() {
        Hosts::Below(name)
    } else {
        Hosts::Name(name)
    })
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// Whether two addresses of one family have their first bits in common.
fn same_start(a: IpAddr, b: IpAddr, length: u8) -> bool {
    let same = |different: u128, bits: u8| different.checked_shr(u32::from(bits - length)).unwrap_or(0) == 0;
    match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => same(u128::from(u32::from(a) ^ u32::from(b)), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => same(u128::from(a) ^ u128::from(b), 128),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_covered_as_by_no_proxy() {
        for (entry, server, port, covered) in [
            ("*", "kube.example", 6443, true),
            ("*:6443", "kube.example", 6443, true),
            ("*:443", "kube.example", 6443, false),
            ("kube.example", "kube.example", 6443, true),
            ("Kube.Example", "kube.example", 6443, true),
            ("example", "kube.example", 6443, true),
            ("example", "kubeexample", 6443, false),
            ("example", "myexample", 6443, false),
            (".example", "kube.example", 6443, true),
            (".example", "a.kube.example", 6443, true),
            (".example", "example", 6443, false),
            ("*.example", "kube.example", 6443, true),
            ("*.example", "example", 6443, false),
            ("kube.example:6443", "kube.example", 6443, true),
            ("kube.example:6443", "kube.example", 443, false),
            ("10.1.2.3", "10.1.2.3", 1, true),
            ("10.1.2.3", "10.1.2.4", 1, false),
            ("10.1.2.3", "10.1.2.3.example", 1, false),
            ("10.1.2.3:443", "10.1.2.3", 443, true),
            ("10.1.2.3:443", "10.1.2.3", 6443, false),
            ("10.0.0.0/8", "10.255.0.1", 1, true),
            ("10.0.0.0/8", "11.0.0.1", 1, false),
            ("10.9.9.9/8", "10.1.1.1", 1, true),
            ("10.0.0.0/8", "kube.example", 1, false),
            ("10.1.2.3/32", "10.1.2.3", 1, true),
            ("10.1.2.3/32", "10.1.2.2", 1, false),
            ("0.0.0.0/0", "203.0.113.1", 1, true),
            ("0.0.0.0/0", "2001:db8::1", 1, false),
            ("::/0", "2001:db8::1", 1, true),
            ("2001:db8::/32", "2001:db8:ffff::1", 1, true),
            ("2001:db8::/32", "2001:db9::1", 1, false),
            ("2001:db8::1", "2001:db8::1", 1, true),
            ("2001:DB8:0::1", "2001:db8::1", 1, true),
            ("[2001:db8::1]:443", "2001:db8::1", 443, true),
            ("[2001:db8::1]:443", "2001:db8::1", 1, false),
        ] {
            let found = Bypass::parse(entry).map(|bypass| bypass.covers(server, port));
            assert_eq!(found, Some(covered), "{entry} {server}:{port}");
        }
    }

    #[test]
    fn anything_else_is_no_entry() {
        for text in [
            "",
            " ",
            ".",
            "*a",
            "*.",
            "a..b",
            "a b",
            "a,b",
            "https://a",
            "a/8",
            "10.0.0.0/33",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "::/129",
            "a:",
            "a:0",
            "a:65536",
            "a:x",
            "[::1",
            "[10.0.0.1]:1",
            "a*b",
            "me@a",
        ] {
            assert_eq!(Bypass::parse(text), None, "{text:?}");
        }
    }
}
