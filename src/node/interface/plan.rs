//! What has to be done to an interface: from what is wanted and what is there to a list of operations. Pure.

use std::net::IpAddr;

/// What is there under the wanted name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Observed {
    /// No interface of this name.
    Absent,
    /// One, with what it has.
    Present(Present),
}

/// An interface as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Present {
    pub(super) index: u32,
    /// As `ip -details link` shows it; `None` for hardware.
    pub(super) kind: Option<String>,
    pub(super) up: bool,
    pub(super) addresses: Vec<(IpAddr, u8)>,
}

/// One step towards the wanted state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    /// Makes the interface. What comes after it is planned again, with its index.
    Create,
    BringUp {
        index: u32,
    },
    AddAddress {
        index: u32,
        address: IpAddr,
    },
    RemoveAddress {
        index: u32,
        address: IpAddr,
        prefix: u8,
    },
    Remove {
        index: u32,
    },
}

/// An interface of another kind has the name: it is somebody else's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OtherKind(pub(super) Option<String>);

/// What makes `observed` an interface of this kind that is up and has these addresses. Addresses of others on it are
/// left alone, and so is the prefix length of an address that is there: it answers either way.
pub(super) fn ensure(
    kind: &str,
    addresses: &[IpAddr],
    observed: &Observed,
) -> Result<Vec<Operation>, OtherKind> {
    let present = match observed {
        Observed::Absent => return Ok(vec![Operation::Create]),
        Observed::Present(present) => present,
    };
    check_kind(kind, present)?;
    let index = present.index;
    let is_there = |wanted: &IpAddr| present.addresses.iter().any(|(there, _)| there == wanted);
    let missing = addresses.iter().filter(|wanted| !is_there(wanted));
    let mut operations: Vec<Operation> = missing
        .map(|address| Operation::AddAddress {
            index,
            address: *address,
        })
        .collect();
    if !present.up {
        operations.push(Operation::BringUp { index });
    }
    Ok(operations)
}

/// What takes the interface away, or, when others have addresses on it, only ours from it.
pub(super) fn remove(
    kind: &str,
    addresses: &[IpAddr],
    observed: &Observed,
) -> Result<Vec<Operation>, OtherKind> {
    let present = match observed {
        Observed::Absent => return Ok(Vec::new()),
        Observed::Present(present) => present,
    };
    check_kind(kind, present)?;
    let index = present.index;
    let (ours, others): (Vec<_>, Vec<_>) = present
        .addresses
        .iter()
        .filter(|(address, _)| !is_kernels(address))
        .partition(|(address, _)| addresses.contains(address));
    if others.is_empty() {
        return Ok(vec![Operation::Remove { index }]);
    }
    let operation = |(address, prefix): &(IpAddr, u8)| Operation::RemoveAddress {
        index,
        address: *address,
        prefix: *prefix,
    };
    Ok(ours.into_iter().map(operation).collect())
}

/// The kernel gives each interface that is up a link-local IPv6 address by itself.
fn is_kernels(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

fn check_kind(kind: &str, present: &Present) -> Result<(), OtherKind> {
    if present.kind.as_deref() == Some(kind) {
        Ok(())
    } else {
        Err(OtherKind(present.kind.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn present(up: bool, addresses: &[(&str, u8)]) -> Observed {
        Observed::Present(Present {
            index: 7,
            kind: Some("dummy".to_owned()),
            up,
            addresses: addresses
                .iter()
                .map(|(text, prefix)| (ip(text), *prefix))
                .collect(),
        })
    }

    fn of_kind(kind: Option<&str>) -> Observed {
        Observed::Present(Present {
            index: 7,
            kind: kind.map(str::to_owned),
            up: true,
            addresses: Vec::new(),
        })
    }

    fn wanted() -> [IpAddr; 2] {
        [ip("169.254.20.11"), ip("fd00::11")]
    }

    fn add(address: &str) -> Operation {
        Operation::AddAddress {
            index: 7,
            address: ip(address),
        }
    }

    #[test]
    fn an_absent_interface_is_made_first() {
        assert_eq!(
            ensure("dummy", &wanted(), &Observed::Absent),
            Ok(vec![Operation::Create])
        );
    }

    #[test]
    fn only_what_is_missing_is_done() {
        let up = Operation::BringUp { index: 7 };
        for (observed, operations) in [
            (
                present(false, &[]),
                vec![add("169.254.20.11"), add("fd00::11"), up],
            ),
            (present(true, &[("fd00::11", 128)]), vec![add("169.254.20.11")]),
            (present(true, &[("169.254.20.11", 32)]), vec![add("fd00::11")]),
            (
                present(false, &[("169.254.20.11", 32), ("fd00::11", 128)]),
                vec![up],
            ),
            (present(true, &[("169.254.20.11", 32), ("fd00::11", 128)]), vec![]),
        ] {
            assert_eq!(ensure("dummy", &wanted(), &observed), Ok(operations));
        }
    }

    #[test]
    fn foreign_addresses_and_prefixes_are_left_alone() {
        let shared = present(
            true,
            &[("169.254.20.10", 32), ("169.254.20.11", 16), ("fd00::11", 64)],
        );
        assert_eq!(ensure("dummy", &wanted(), &shared), Ok(vec![]));
    }

    #[test]
    fn an_interface_of_another_kind_is_never_touched() {
        for kind in [Some("bridge"), None] {
            let refused = OtherKind(kind.map(str::to_owned));
            assert_eq!(ensure("dummy", &wanted(), &of_kind(kind)), Err(refused.clone()));
            assert_eq!(remove("dummy", &wanted(), &of_kind(kind)), Err(refused));
        }
    }

    #[test]
    fn an_interface_goes_with_our_last_address() {
        let gone = Ok(vec![Operation::Remove { index: 7 }]);
        assert_eq!(remove("dummy", &wanted(), &Observed::Absent), Ok(vec![]));
        assert_eq!(remove("dummy", &wanted(), &present(true, &[])), gone);
        let ours = present(true, &[("169.254.20.11", 32), ("fe80::1234", 64)]);
        assert_eq!(remove("dummy", &wanted(), &ours), gone);
    }

    #[test]
    fn an_interface_that_others_use_loses_our_addresses_only() {
        let shared = present(true, &[("169.254.20.10", 32), ("169.254.20.11", 16)]);
        let operations = vec![Operation::RemoveAddress {
            index: 7,
            address: ip("169.254.20.11"),
            prefix: 16,
        }];
        assert_eq!(remove("dummy", &wanted(), &shared), Ok(operations));
    }
}
