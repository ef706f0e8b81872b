//! Which origins may be asked for, and which addresses never.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::{EgressError, Origin};

/// The origins that one party (the routes of a snapshot, a worker's `fetch` bindings) may reach.
/// What is not listed is denied; what is listed may resolve to private addresses, never to those
/// that [`check_address`] refuses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    granted: BTreeSet<Origin>,
}

/// Why an address is never connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeDenied {
    /// 127.0.0.0/8, ::1.
    #[error("loopback")]
    Loopback,
    /// 169.254.0.0/16, fe80::/10.
    #[error("link-local")]
    LinkLocal,
    /// Where clouds hand out a node's credentials.
    #[error("metadata service")]
    Metadata,
    /// 224.0.0.0/4, ff00::/8, broadcast.
    #[error("multicast or broadcast")]
    Multicast,
    /// 0.0.0.0/8, ::.
    #[error("unspecified")]
    Unspecified,
    /// 240.0.0.0/4 and other ranges that no host has.
    #[error("reserved")]
    Reserved,
}

impl Policy {
    /// The origins that are granted.
    pub fn new(granted: impl IntoIterator<Item = Origin>) -> Self {
        Self { granted: granted.into_iter().collect() }
    }

    /// Whether an origin may be asked for.
    ///
    /// # Errors
    /// It is not granted.
    pub fn check(&self, origin: &Origin) -> Result<(), EgressError> {
        if self.granted.contains(origin) { Ok(()) } else { Err(EgressError::NotGranted { origin: origin.clone() }) }
    }
}

/// Metadata services outside the link-local range: Alibaba, Azure, Oracle, and AWS over IPv6.
const METADATA_V4: [Ipv4Addr; 3] =
    [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(192, 0, 0, 192)];
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

/// Whether an address may be connected to at all. No grant opens what is refused here; loopback
/// only with [`allow_loopback`](crate::EgressConfig::allow_loopback).
///
/// # Errors
/// Which range forbids it.
pub fn check_address(address: IpAddr, allow_loopback: bool) -> Result<(), RangeDenied> {
    let denied = match address {
        IpAddr::V4(v4) => denied_v4(v4),
        IpAddr::V6(v6) => match embedded_v4(v6) {
            Some(v4) => denied_v4(v4),
            None => denied_v6(v6).or_else(|| perhaps_embedded_v4(v6).into_iter().find_map(denied_if_embedded)),
        },
    };
    match denied {
        None => Ok(()),
        Some(RangeDenied::Loopback) if allow_loopback => Ok(()),
        Some(range) => Err(range),
    }
}

fn denied_v4(address: Ipv4Addr) -> Option<RangeDenied> {
    if METADATA_V4.contains(&address) || address == Ipv4Addr::new(169, 254, 169, 254) {
        Some(RangeDenied::Metadata)
    } else if address.is_loopback() {
        Some(RangeDenied::Loopback)
    } else if address.is_link_local() {
        Some(RangeDenied::LinkLocal)
    } else if address.is_multicast() || address.is_broadcast() {
        Some(RangeDenied::Multicast)
    } else if address.octets()[0] == 0 {
        Some(RangeDenied::Unspecified)
    } else if address.octets()[0] >= 240 {
        Some(RangeDenied::Reserved)
    } else {
        None
    }
}

fn denied_v6(address: Ipv6Addr) -> Option<RangeDenied> {
    if address == METADATA_V6 {
        Some(RangeDenied::Metadata)
    } else if address.is_loopback() {
        Some(RangeDenied::Loopback)
    } else if address.is_unspecified() {
        Some(RangeDenied::Unspecified)
    } else if address.is_multicast() {
        Some(RangeDenied::Multicast)
    } else if address.segments()[0] & 0xffc0 == 0xfe80 {
        Some(RangeDenied::LinkLocal)
    } else {
        None
    }
}

/// The IPv4 addresses that an IPv6 one may stand for, depending on what the network is set up for: NAT64 in its
/// local prefix (RFC 8215) with each length that RFC 6052 has, Teredo, ISATAP.
fn perhaps_embedded_v4(address: Ipv6Addr) -> Vec<Ipv4Addr> {
    let o = address.octets();
    let last = Ipv4Addr::new(o[12], o[13], o[14], o[15]);
    match address.segments() {
        [0x64, 0xff9b, 1, ..] => vec![
            Ipv4Addr::new(o[6], o[7], o[9], o[10]),
            Ipv4Addr::new(o[7], o[9], o[10], o[11]),
            Ipv4Addr::new(o[9], o[10], o[11], o[12]),
            last,
        ],
        [0x2001, 0, ..] => vec![Ipv4Addr::from_bits(!last.to_bits())],
        [_, _, _, _, 0 | 0x200, 0x5efe, _, _] => vec![last],
        [..] => vec![],
    }
}

/// Only what nobody can mean: most readings of such an address are not the one that was meant.
fn denied_if_embedded(address: Ipv4Addr) -> Option<RangeDenied> {
    denied_v4(address)
        .filter(|range| matches!(range, RangeDenied::Loopback | RangeDenied::LinkLocal | RangeDenied::Metadata))
}

/// The IPv4 address that an IPv6 one stands for: mapped, compatible, NAT64 and 6to4. Without this each
/// would be a way around the list.
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = address.segments();
    let join = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        Ipv4Addr::new(a, b, c, d)
    };
    match s {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(join(high, low)),
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        [0, 0, 0, 0, 0, 0, high, low] => Some(join(high, low)),
        [0x2002, high, low, ..] => Some(join(high, low)),
        [..] => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_spelling_of_a_forbidden_address_gets_by() {
        for (text, range) in [
            ("127.0.0.1", RangeDenied::Loopback),
            ("127.9.9.9", RangeDenied::Loopback),
            ("::1", RangeDenied::Loopback),
            ("::ffff:127.0.0.1", RangeDenied::Loopback),
            ("::127.0.0.1", RangeDenied::Loopback),
            ("64:ff9b::7f00:1", RangeDenied::Loopback),
            ("2002:7f00:1::", RangeDenied::Loopback),
            ("64:ff9b:1::7f00:1", RangeDenied::Loopback),
            ("64:ff9b:1:a9fe:a9:fe00::", RangeDenied::Metadata),
            ("64:ff9b:1:0:a9:fea9:fe00:0", RangeDenied::Metadata),
            ("2001:0:1:2:3:4:5601:5601", RangeDenied::Metadata),
            ("fd12::5efe:7f00:1", RangeDenied::Loopback),
            ("fd12::200:5efe:a9fe:a9fe", RangeDenied::Metadata),
            ("169.254.169.254", RangeDenied::Metadata),
            ("::ffff:169.254.169.254", RangeDenied::Metadata),
            ("fd00:ec2::254", RangeDenied::Metadata),
            ("100.100.100.200", RangeDenied::Metadata),
            ("169.254.1.1", RangeDenied::LinkLocal),
            ("fe80::1", RangeDenied::LinkLocal),
            ("224.0.0.1", RangeDenied::Multicast),
            ("255.255.255.255", RangeDenied::Multicast),
            ("ff02::1", RangeDenied::Multicast),
            ("0.0.0.0", RangeDenied::Unspecified),
            ("0.1.2.3", RangeDenied::Unspecified),
            ("::", RangeDenied::Unspecified),
            ("240.0.0.1", RangeDenied::Reserved),
        ] {
            assert_eq!(check_address(text.parse().unwrap(), false), Err(range), "{text}");
        }
    }

    #[test]
    fn granted_names_may_be_private_or_public() {
        for text in [
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "fd12::1",
            "93.184.216.34",
            "2606:2800::1",
            "64:ff9b:1::5db8:d822",
        ] {
            assert_eq!(check_address(text.parse().unwrap(), false), Ok(()), "{text}");
        }
    }

    #[test]
    fn only_loopback_opens_for_tests() {
        assert_eq!(check_address("127.0.0.1".parse().unwrap(), true), Ok(()));
        assert_eq!(check_address("::ffff:127.0.0.1".parse().unwrap(), true), Ok(()));
        assert!(check_address("169.254.169.254".parse().unwrap(), true).is_err());
    }

    #[test]
    fn what_is_not_listed_is_denied() {
        let policy = Policy::new(["http://shop".parse().unwrap()]);
        assert!(policy.check(&"http://shop:80".parse().unwrap()).is_ok());
        assert!(policy.check(&"http://shop:81".parse().unwrap()).is_err());
        assert!(Policy::default().check(&"http://shop".parse().unwrap()).is_err());
    }
}
