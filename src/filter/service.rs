//! The Service: `spec.clusterIP`, `spec.clusterIPs` and the https port.
//!
//! A Service has one port for all its addresses, so a family that we have no address of leaves the Service, and
//! `clusterIPs`, `ipFamilies` and `ipFamilyPolicy` stay consistent (the validation rules of kube-apiserver). If we have
//! none of its first family, whose address kubelet takes, all of it stays as it is.

use std::net::IpAddr;

use super::{Local, with_port};
use crate::wire::edit::{Edited, Field, Message, Value};

const SPEC: Field = Field::new("spec", 2);

const PORTS: Field = Field::new("ports", 1);
const CLUSTER_IP: Field = Field::new("clusterIP", 3);
const IP_FAMILY_POLICY: Field = Field::new("ipFamilyPolicy", 17);
const CLUSTER_IPS: Field = Field::new("clusterIPs", 18);
const IP_FAMILIES: Field = Field::new("ipFamilies", 19);

const PORT_NAME: Field = Field::new("name", 1);
const PORT_NUMBER: Field = Field::new("port", 3);

pub(super) fn edited(service: Message<'_>, local: &Local) -> Edited {
    let Some(spec) = service.message(SPEC)? else {
        return Ok(None);
    };
    let ours = |theirs: &str| theirs.parse::<IpAddr>().ok().and_then(|ip| local.like(ip));
    // "None" and "" are no addresses.
    let Some(first) = ours(&spec.text(CLUSTER_IP)?) else {
        return Ok(None);
    };
    let mut changes = vec![(CLUSTER_IP, Value::Text(first.to_string()))];
    let theirs = spec.texts(CLUSTER_IPS)?;
    let kept: Vec<IpAddr> = theirs.iter().filter_map(|ip| ours(ip)).collect();
    if !theirs.is_empty() {
        changes.push((CLUSTER_IPS, texts(&kept, IpAddr::to_string)));
    }
    if kept.len() < theirs.len() {
        changes.push((IP_FAMILIES, texts(&kept, |ip| family(ip).to_owned())));
        if spec.text(IP_FAMILY_POLICY)? == "RequireDualStack" {
            changes.push((IP_FAMILY_POLICY, Value::Text("SingleStack".to_owned())));
        }
    }
    let ports = with_port(&spec.messages(PORTS)?, PORT_NAME, PORT_NUMBER, local.port)?;
    if !ports.is_empty() {
        changes.push((PORTS, Value::Messages(ports)));
    }
    let spec = spec.with(&changes)?;
    service.with(&[(SPEC, Value::Message(spec))]).map(Some)
}

fn texts(ips: &[IpAddr], text: impl Fn(&IpAddr) -> String) -> Value {
    Value::Texts(ips.iter().map(text).collect())
}

fn family(ip: &IpAddr) -> &'static str {
    match ip {
        IpAddr::V4(_) => "IPv4",
        IpAddr::V6(_) => "IPv6",
    }
}
