//! `inCluster`: what clients of this node see of the Service `default/kubernetes`.

use std::net::SocketAddr;

use super::error::{Fault, Problems, quoted};
use super::object::{Field, Object, refuse_repeats};
use super::schema::common_name;
use super::{Client, address};

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

pub(super) fn read(
    field: Option<Field<'_>>,
    clients: Option<&[Client]>,
    out: &mut Problems,
) -> Option<Option<InCluster>> {
    let Some(field) = field else {
        return Some(None);
    };
    let object = field.object(&["address", "addresses", "serviceFor", "endpointsFor"], out)?;
    let addresses = read_addresses(&object, out);
    let service_for = read_users(object.get("serviceFor"), clients, out);
    let endpoints_for = read_users(object.get("endpointsFor"), clients, out);
    Some(Some(InCluster {
        addresses: addresses?,
        service_for: service_for?,
        endpoints_for: endpoints_for?,
    }))
}

/// `address`, or `addresses` with one of each family.
fn read_addresses(object: &Object<'_>, out: &mut Problems) -> Option<Vec<SocketAddr>> {
    let Some(several) = object.get("addresses") else {
        let address = object.required("address", out)?.parse(reachable, out)?;
        return Some(vec![address]);
    };
    if object.get("address").is_some() {
        several.refuse(Fault::new("is given beside `address`", "keep one of them"), out);
        return None;
    }
    let items = several.items(out)?;
    let count = items.len();
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for item in items {
        let Some(address) = item.parse(reachable, out) else {
            continue;
        };
        let fault = addresses.first().and_then(|first| second(first, &address));
        if let Some(fault) = fault {
            item.refuse(fault, out);
            continue;
        }
        addresses.push(address);
    }
    if !(1..=2).contains(&count) {
        several.refuse(
            Fault::new(
                "does not have one or two addresses",
                "write one IPv4 address, one IPv6 address, or both",
            ),
            out,
        );
        return None;
    }
    (addresses.len() == count).then_some(addresses)
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

fn read_users(
    field: Option<Field<'_>>,
    clients: Option<&[Client]>,
    out: &mut Problems,
) -> Option<Vec<String>> {
    let Some(field) = field else {
        return Some(Vec::new());
    };
    let items = field.items(out)?;
    let count = items.len();
    let users: Vec<_> = items
        .into_iter()
        .filter_map(|item| {
            let name = item.parse(|text| user(text, clients), out)?;
            Some((item, name))
        })
        .collect();
    refuse_repeats(&users, out);
    (users.len() == count).then(|| users.into_iter().map(|(_, name)| name).collect())
}

/// A user whose requests edgehold can tell: by a configured certificate, or by a service account's token.
fn user(text: &str, clients: Option<&[Client]>) -> Result<String, Fault> {
    let name = common_name(text)?;
    let known = |clients: &[Client]| clients.iter().any(|client| client.common_name == name);
    if let Some(account) = name.strip_prefix(SERVICE_ACCOUNT) {
        let mut parts = account.split(':');
        let both = (parts.next(), parts.next(), parts.next());
        if !matches!(both, (Some(namespace), Some(account), None) if !namespace.is_empty() && !account.is_empty())
        {
            let wrong = format!("{} does not name a service account", quoted(text));
            return Err(Fault::new(wrong, "write system:serviceaccount:NAMESPACE:NAME"));
        }
    } else if clients.is_some_and(|clients| !known(clients)) {
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
        let config = super::super::parse(&text, "f").map_err(|errors| errors.to_string())?;
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
