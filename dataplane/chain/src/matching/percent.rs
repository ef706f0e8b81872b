//! A share of the clients: the same ones on every node and for every revision of a unit.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, header::COOKIE};
use sha2::{Digest, Sha256};
use sluice_config::{PercentBy, PercentMatch, UnitRef};

use super::condition::{Client, joined};

/// Places that clients are given, from 0; a share of so many parts per million has those below that number, so that a
/// higher share keeps those that a lower one has.
const PLACES: u64 = 1_000_000;

#[derive(Debug)]
pub(super) struct Percent {
    ppm: u32,
    key: Key,
    /// With what makes this unit's places others than those of the next unit.
    salted: Sha256,
}

/// A longer key has no place: each request hashes what its client sends.
const KEY_BYTES_MAX: usize = 4 << 10;

/// What tells one client from another.
#[derive(Debug)]
enum Key {
    Address,
    Header(HeaderName),
    Cookie(Vec<u8>),
    /// What no request has. Such rules are refused before.
    Nothing,
}

impl Percent {
    pub(super) fn of(percent: &PercentMatch, unit: &UnitRef) -> Self {
        let name = percent.name.as_deref().unwrap_or_default().as_bytes();
        let key = match percent.by {
            PercentBy::ClientAddress => Key::Address,
            PercentBy::Header => HeaderName::from_bytes(name).map_or(Key::Nothing, Key::Header),
            PercentBy::Cookie => Key::Cookie(name.to_vec()),
        };
        // Who is in may not depend on the revision, nor on how a unit's name is shown: this never changes.
        let salted = Sha256::new().chain_update(&unit.namespace).chain_update("/").chain_update(&unit.name);
        Self { ppm: percent.ppm, key, salted: salted.chain_update([0_u8]) }
    }

    pub(super) fn reads_headers(&self) -> bool {
        !matches!(self.key, Key::Address)
    }

    /// Whether the client is one of the share.
    pub(super) fn has(&self, client: &Client<'_>) -> bool {
        self.place(client).is_some_and(|place| place < u64::from(self.ppm))
    }

    /// The client's place; none where the request lacks what tells it from others, or has too much of it.
    fn place(&self, client: &Client<'_>) -> Option<u64> {
        let mut hash = self.salted.clone();
        match &self.key {
            Key::Address => match client.address {
                IpAddr::V4(address) => hash.update(address.octets()),
                IpAddr::V6(address) => hash.update(address.octets()),
            },
            Key::Header(name) => {
                let bytes: usize = joined(client.headers, name).map(<[u8]>::len).sum();
                if bytes > KEY_BYTES_MAX || client.headers.get_all(name).iter().all(|value| value.is_empty()) {
                    return None;
                }
                joined(client.headers, name).for_each(|piece| hash.update(piece));
            }
            Key::Cookie(name) => {
                hash.update(cookie(client.headers, name).filter(|value| value.len() <= KEY_BYTES_MAX)?);
            }
            Key::Nothing => return None,
        }
        let first = hash.finalize().iter().take(8).fold(0_u64, |number, byte| (number << 8) | u64::from(*byte));
        u64::try_from((u128::from(first) * u128::from(PLACES)) >> 64).ok()
    }
}

/// What the first cookie of this name says; nothing where that is empty.
fn cookie<'a>(headers: &'a HeaderMap, name: &[u8]) -> Option<&'a [u8]> {
    let mut pairs = headers.get_all(COOKIE).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
    let value = pairs.find_map(|pair| pair.trim_ascii().strip_prefix(name)?.strip_prefix(b"="))?;
    (!value.is_empty()).then_some(value)
}

#[cfg(test)]
mod tests {
    use http::Method;
    use sluice_config::UnitKind;

    use super::*;

    fn percent(unit: (&str, &str), ppm: u32, by: PercentBy, name: Option<&str>) -> Percent {
        let unit = UnitRef::new(UnitKind::Worker, unit.0, unit.1);
        Percent::of(&PercentMatch { ppm, by, name: name.map(str::to_owned) }, &unit)
    }

    /// Calls with a client that has this address and these headers.
    fn with<T>(address: &str, pairs: &[(&'static str, &str)], call: impl FnOnce(&Client<'_>) -> T) -> T {
        let header = |&(name, value): &(&'static str, &str)| (HeaderName::from_static(name), value.parse().unwrap());
        let headers: HeaderMap = pairs.iter().map(header).collect();
        call(&Client { method: &Method::GET, headers: &headers, address: address.parse().unwrap() })
    }

    const BETA: (&str, &str) = ("team", "beta");

    /// Pins who is where: a change here takes every share from those who have it, and gives it to others.
    #[test]
    fn the_place_of_a_client_never_changes() {
        let by_address = percent(BETA, 0, PercentBy::ClientAddress, None);
        let place = |address| with(address, &[], |client| by_address.place(client));
        assert_eq!(place("192.0.2.1"), Some(759_653));
        assert_eq!(place("2001:db8::7"), Some(436_473));
        let by_header = |unit| percent(unit, 0, PercentBy::Header, Some("X-User"));
        let by_cookie = percent(BETA, 0, PercentBy::Cookie, Some("session"));
        for (percent, pairs, expected) in [
            (&by_header(BETA), &[("x-user", "ann")][..], Some(599_507)),
            (&by_header(("team", "other")), &[("x-user", "ann")], Some(525_167)),
            (&by_header(("other", "beta")), &[("x-user", "ann")], Some(281_685)),
            (&by_header(BETA), &[("x-user", "a"), ("x-user", "b")], Some(876_225)),
            (&by_header(BETA), &[("x-user", "")], None),
            (&by_header(BETA), &[("x-other", "ann")], None),
            (&by_cookie, &[("cookie", "session=ann")], Some(599_507)),
            (&by_cookie, &[("cookie", "a=b;session=ann ; session=bob")], Some(599_507)),
            (&by_cookie, &[("cookie", "session2=x; SESSION=x"), ("cookie", "session=ann")], Some(599_507)),
            (&by_cookie, &[("cookie", "session=; session=ann")], None),
            (&by_cookie, &[("cookie", "session; xsession=ann")], None),
            (&by_cookie, &[("x-user", "ann")], None),
        ] {
            assert_eq!(with("192.0.2.1", pairs, |client| percent.place(client)), expected, "{pairs:?}");
        }
    }

    const USERS: u32 = 50_000;

    /// The users that a share of this unit has.
    fn has(unit: (&str, &str), ppm: u32) -> Vec<bool> {
        let percent = percent(unit, ppm, PercentBy::Header, Some("x-user"));
        let users = (0..USERS).map(|user| format!("user-{user}"));
        users.map(|user| with("192.0.2.1", &[("x-user", &user)], |client| percent.has(client))).collect()
    }

    fn count(users: impl Iterator<Item = bool>) -> f64 {
        f64::from(u32::try_from(users.filter(|has| *has).count()).unwrap())
    }

    #[test]
    fn a_share_is_as_large_as_it_says_and_a_higher_one_keeps_who_was_in() {
        let mut lower = has(BETA, 0);
        for ppm in [0, 1, 1_000, 10_000, 100_000, 333_333, 500_000, 900_000, 999_000, 1_000_000] {
            let users = has(BETA, ppm);
            assert!(lower.iter().zip(&users).all(|(before, now)| !before || *now), "{ppm} ppm lost somebody");
            let (all, share) = (f64::from(USERS), f64::from(ppm) / 1e6);
            let (found, deviation) = (count(users.iter().copied()), (all * share * (1.0 - share)).sqrt());
            assert!((found - all * share).abs() <= 4.0 * deviation, "{found} of {USERS} are no {ppm} ppm");
            lower = users;
        }
    }

    #[test]
    fn a_key_that_is_too_long_has_no_place() {
        for (by, name, header) in
            [(PercentBy::Header, "x-user", ("x-user", "")), (PercentBy::Cookie, "user", ("cookie", "user="))]
        {
            let all = percent(BETA, 1_000_000, by, Some(name));
            for (bytes, expected) in [(KEY_BYTES_MAX, true), (KEY_BYTES_MAX + 1, false)] {
                let value = format!("{}{}", header.1, "v".repeat(bytes));
                let has = with("192.0.2.1", &[(header.0, &value)], |client| all.has(client));
                assert_eq!(has, expected, "{bytes} bytes of {name}");
            }
        }
        let all = percent(BETA, 1_000_000, PercentBy::Header, Some("x-user"));
        let half = "v".repeat(KEY_BYTES_MAX / 2);
        assert!(
            !with("192.0.2.1", &[("x-user", &half), ("x-user", &half)], |client| all.has(client)),
            "joined by `, `"
        );
    }

    #[test]
    fn two_units_have_different_users() {
        for other in [("team", "other"), ("other", "beta")] {
            let both = count(has(BETA, 100_000).iter().zip(has(other, 100_000)).map(|(a, b)| *a && b));
            let expected = f64::from(USERS) / 100.0;
            assert!((both - expected).abs() < expected / 5.0, "{both} users are in both tenths");
        }
    }
}
