//! `inCluster`: what clients of this node see of the Service `default/kubernetes`.

use std::net::SocketAddr;

use super::error::{Fault, quoted};
use super::object::{Field, Object, distinct};
use super::reference::Names;
use super::{address, text};

const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// `inCluster`: what clients of this node see of the Service `default/kubernetes` and of its endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InCluster {
    /// Where pods reach edgehold: one address, or one of each family with the same port.
    pub addresses: Vec<SocketAddr>,
    /// Users that see the Service with these addresses: a common name of `clients`, or
    /// `system:serviceaccount:NAMESPACE:NAME`.
    pub service_for: Vec<String>,
    /// Users that see its endpoints so.
    pub endpoints_for: Vec<String>,
}

impl InCluster {
    /// A sentence for each address that pods are told of and nothing listens at, given where edgehold listens.
    pub fn unserved(&self, listen: &[SocketAddr]) -> Vec<String> {
        let serves = |own: &SocketAddr, address: &SocketAddr| {
            // `[::]` takes IPv4 too.
            let any = own.ip().is_unspecified() && (own.is_ipv6() || address.is_ipv4());
            own.port() == address.port() && (own.ip() == address.ip() || any)
        };
        let unserved = self
            .addresses
            .iter()
            .filter(|address| !listen.iter().any(|own| serves(own, address)));
        unserved
            .map(|address| format!("inCluster: nothing listens at {address}; add it to listen.addresses"))
            .collect()
    }
}

pub(super) fn read(field: &Field<'_>, names: &Names) -> Option<InCluster> {
    field.object(|in_cluster| {
        let addresses = read_addresses(in_cluster);
        let mut users = |name| {
            in_cluster.or(name, Vec::new(), |field| {
                Some(distinct(&field.items(), |text| user(text, names)))
            })
        };
        let (service_for, endpoints_for) = (users("serviceFor"), users("endpointsFor"));
        Some(InCluster {
            addresses: addresses?,
            service_for,
            endpoints_for,
        })
    })
}

/// `address`, or `addresses` with one of each family.
fn read_addresses(in_cluster: &mut Object<'_>) -> Option<Vec<SocketAddr>> {
    let [one, several] = ["address", "addresses"].map(|name| in_cluster.get(name));
    let Some(several) = several else {
        let address = in_cluster.required("address")?.parse(reachable)?;
        return Some(vec![address]);
    };
    if one.is_some() {
        several.refuse(Fault::new("is given beside `address`", "keep one of them"));
        return None;
    }
    let items = several.items();
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for item in &items {
        let Some(address) = item.parse(reachable) else {
            continue;
        };
        match addresses.first().and_then(|first| second(first, &address)) {
            Some(fault) => item.refuse(fault),
            None => addresses.push(address),
        }
    }
    if !(1..=2).contains(&items.len()) {
        several.refuse(Fault::new(
            "does not have one or two addresses",
            "write one IPv4 address, one IPv6 address, or both",
        ));
    }
    Some(addresses)
}

/// What is wrong with a second address.
fn second(first: &SocketAddr, address: &SocketAddr) -> Option<Fault> {
    let shown = quoted(&address.to_string());
    if first.is_ipv4() == address.is_ipv4() {
        let wrong = format!("{shown} is of the same family as the first");
        return Some(Fault::new(wrong, "write one IPv4 and one IPv6 address at most"));
    }
    (first.port() != address.port()).then(|| {
        let wrong = format!("{shown} has another port than the first");
        Fault::new(wrong, "use one port: a Service has one for all its addresses")
    })
}

/// An address that pods can connect to.
fn reachable(text: &str) -> Result<SocketAddr, Fault> {
    let address = address::listen(text)?;
    if address.ip().is_unspecified() || address.ip().is_multicast() || address.port() == 0 {
        let wrong = format!("{} is no address that a pod can connect to", quoted(text));
        return Err(Fault::new(wrong, "write it like 169.254.20.11:51003"));
    }
    Ok(address)
}

/// A user whose requests edgehold can tell: by a configured certificate, or by a service account's token.
fn user(text: &str, names: &Names) -> Result<String, Fault> {
    let name = text::common_name(text)?;
    if let Some(account) = name.strip_prefix(SERVICE_ACCOUNT) {
        let mut parts = account.split(':');
        let both = (parts.next(), parts.next(), parts.next());
        if !matches!(both, (Some(namespace), Some(account), None) if !namespace.is_empty() && !account.is_empty())
        {
            let wrong = format!("{} does not name a service account", quoted(text));
            return Err(Fault::new(wrong, "write system:serviceaccount:NAMESPACE:NAME"));
        }
    } else if !names.contains(&name) {
        let wrong = format!("no client has the common name {}", quoted(text));
        return Err(Fault::new(
            wrong,
            "write a commonName of `clients`, or system:serviceaccount:NAMESPACE:NAME",
        ));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(in_cluster: &str) -> Result<InCluster, String> {
        let text = format!(
            "apiVersion: edgehold/v1alpha1\nkind: ProxyConfiguration\nlisten: {{tls: {{certFile: /a, keyFile: /b, \
             clientCAFile: /c}}}}\nupstream: {{servers: [\"https://203.0.113.10:6443\"], caFile: /c}}\nclients: \
             [{{commonName: kubelet, certFile: /a, keyFile: /b}}]\ninCluster: {in_cluster}\n"
        );
        let config = crate::config::parse(&text, "f").map_err(|errors| errors.to_string())?;
        Ok(config.in_cluster.expect("inCluster is there"))
    }

    #[test]
    fn one_address_or_one_of_each_family() {
        let one = read("{address: \"169.254.20.11:51003\", serviceFor: [kubelet]}").unwrap();
        assert_eq!(one.addresses, ["169.254.20.11:51003".parse().unwrap()]);
        assert_eq!(
            (one.service_for, one.endpoints_for),
            (vec!["kubelet".to_owned()], vec![])
        );
        let both = read(
            "{addresses: [\"169.254.20.11:51003\", \"[fd00::b]:51003\"], endpointsFor: [\"system:serviceaccount:a:b\"]}",
        );
        let both = both.unwrap();
        assert_eq!((both.addresses.len(), both.endpoints_for.len()), (2, 1));
    }

    #[test]
    fn an_address_that_nothing_listens_at_is_named() {
        let both = read("{addresses: [\"169.254.20.11:51003\", \"[fd00::b]:51003\"], serviceFor: [kubelet]}")
            .unwrap();
        let unserved = |listen: &[&str]| {
            let listen: Vec<SocketAddr> = listen.iter().map(|address| address.parse().unwrap()).collect();
            both.unserved(&listen)
        };
        assert_eq!(
            unserved(&["127.0.0.1:51003", "169.254.20.11:51003"]),
            ["inCluster: nothing listens at [fd00::b]:51003; add it to listen.addresses"]
        );
        assert_eq!(
            unserved(&["169.254.20.11:443", "[fd00::b]:443"]).len(),
            2,
            "another port"
        );
        assert_eq!(unserved(&["[::]:51003"]), Vec::<String>::new());
        assert_eq!(unserved(&["0.0.0.0:51003"]).len(), 1);
    }

    #[test]
    fn what_pods_could_not_use_is_refused() {
        for (text, wanted) in [
            ("{}", "f:6:12: inCluster.address: is missing"),
            (
                "{address: \"0.0.0.0:51003\"}",
                "no address that a pod can connect to",
            ),
            (
                "{address: \"169.254.20.11:0\"}",
                "no address that a pod can connect to",
            ),
            ("{address: \"169.254.20.11\"}", "is not an IP address with a port"),
            ("{addresses: []}", "one or two addresses"),
            (
                "{addresses: [\"10.0.0.1:1\", \"10.0.0.2:1\"]}",
                "same family as the first",
            ),
            (
                "{addresses: [\"10.0.0.1:1\", \"[fd00::1]:2\"]}",
                "another port than the first",
            ),
            (
                "{address: \"10.0.0.1:1\", addresses: [\"10.0.0.1:1\"]}",
                "given beside `address`",
            ),
            (
                "{address: \"10.0.0.1:1\", serviceFor: [kubelt]}",
                "no client has the common name `kubelt`",
            ),
            (
                "{address: \"10.0.0.1:1\", serviceFor: [kubelet, kubelet]}",
                "given twice",
            ),
            (
                "{address: \"10.0.0.1:1\", endpointsFor: [\"system:serviceaccount:dns\"]}",
                "does not name a service account",
            ),
        ] {
            let said = read(text).expect_err(text);
            assert!(said.contains(wanted), "{text}: {said}");
        }
    }
}
