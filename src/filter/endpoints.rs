//! Endpoints and EndpointSlices: one ready endpoint, ours, in place of the apiservers'.
//!
//! An object without endpoints gets ours too: edgehold serves when no apiserver does. What the apiservers' endpoints say
//! of a node, a zone or hints is not true of ours and goes with them; port names stay, because kube-proxy joins
//! a Service and its endpoints by them. Endpoints of a family that we have no address of stay as they are: their
//! clients then reach the apiservers as without edgehold, instead of nobody.

use std::net::IpAddr;

use super::{Local, PORT_NAME, with_port};
use crate::wire::WireError;
use crate::wire::edit::{Edited, Field, Message, Value, message};

const SUBSETS: Field = Field::new("subsets", 2);
const SUBSET_ADDRESSES: Field = Field::new("addresses", 1);
const SUBSET_NOT_READY: Field = Field::new("notReadyAddresses", 2);
const SUBSET_PORTS: Field = Field::new("ports", 3);
const ADDRESS_IP: Field = Field::new("ip", 1);

const ENDPOINTS: Field = Field::new("endpoints", 2);
const PORTS: Field = Field::new("ports", 3);
const ADDRESS_TYPE: Field = Field::new("addressType", 4);
const ADDRESSES: Field = Field::new("addresses", 1);
const CONDITIONS: Field = Field::new("conditions", 2);
const READY: Field = Field::new("ready", 1);

/// Fields of a port.
struct PortFields {
    name: Field,
    number: Field,
    protocol: Field,
}

const SUBSET_PORT: PortFields = PortFields {
    name: Field::new("name", 1),
    number: Field::new("port", 2),
    protocol: Field::new("protocol", 3),
};

const SLICE_PORT: PortFields = PortFields {
    name: Field::new("name", 1),
    protocol: Field::new("protocol", 2),
    number: Field::new("port", 3),
};

/// `v1` Endpoints: all subsets become one.
pub(super) fn edited(endpoints: Message<'_>, local: &Local) -> Edited {
    let subsets = endpoints.messages(SUBSETS)?;
    let mut theirs = Vec::new();
    let mut ports = Vec::new();
    for subset in &subsets {
        for addresses in [SUBSET_ADDRESSES, SUBSET_NOT_READY] {
            for address in subset.messages(addresses)? {
                theirs.push(address.text(ADDRESS_IP)?);
            }
        }
        if ports.is_empty() {
            ports = subset.messages(SUBSET_PORTS)?;
        }
    }
    let mut ours: Vec<IpAddr> = match theirs.is_empty() {
        true => local.any().into_iter().collect(),
        false => theirs
            .iter()
            .filter_map(|ip| local.like(ip.parse().ok()?))
            .collect(),
    };
    ours.sort_unstable();
    ours.dedup();
    if ours.is_empty() {
        return Ok(None);
    }
    let address = |ip: &IpAddr| message(endpoints.encoding(), &[(ADDRESS_IP, Value::Text(ip.to_string()))]);
    let addresses = ours.iter().map(address).collect::<Result<_, _>>()?;
    let ports = ports_of(endpoints, &ports, &SUBSET_PORT, local.port)?;
    let subset = message(
        endpoints.encoding(),
        &[
            (SUBSET_ADDRESSES, Value::Messages(addresses)),
            (SUBSET_PORTS, Value::Messages(ports)),
        ],
    )?;
    endpoints
        .with(&[(SUBSETS, Value::Messages(vec![subset]))])
        .map(Some)
}

/// `discovery.k8s.io/v1` EndpointSlice.
pub(super) fn edited_slice(slice: Message<'_>, local: &Local) -> Edited {
    let ours = match slice.text(ADDRESS_TYPE)?.as_str() {
        "IPv4" => local.v4.map(IpAddr::V4),
        "IPv6" => local.v6.map(IpAddr::V6),
        _ => None,
    };
    let Some(ours) = ours else {
        return Ok(None);
    };
    let encoding = slice.encoding();
    let conditions = message(encoding, &[(READY, Value::True)])?;
    let endpoint = message(
        encoding,
        &[
            (ADDRESSES, Value::Texts(vec![ours.to_string()])),
            (CONDITIONS, Value::Message(conditions)),
        ],
    )?;
    let ports = ports_of(slice, &slice.messages(PORTS)?, &SLICE_PORT, local.port)?;
    slice
        .with(&[
            (ENDPOINTS, Value::Messages(vec![endpoint])),
            (PORTS, Value::Messages(ports)),
        ])
        .map(Some)
}

/// The ports with ours; one such as kube-apiserver writes if there are none.
fn ports_of(
    object: Message<'_>,
    ports: &[Message<'_>],
    fields: &PortFields,
    port: u16,
) -> Result<Vec<Vec<u8>>, WireError> {
    if !ports.is_empty() {
        return with_port(ports, fields.name, fields.number, port);
    }
    let made = message(
        object.encoding(),
        &[
            (fields.name, Value::Text(PORT_NAME.to_owned())),
            (fields.number, Value::Number(port.into())),
            (fields.protocol, Value::Text("TCP".to_owned())),
        ],
    )?;
    Ok(vec![made])
}
