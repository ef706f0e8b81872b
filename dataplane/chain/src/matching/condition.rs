//! What a rule asks of a request beside host and path.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, Method, header::COOKIE};
use sluice_config::{MatchRule, UnitRef};

use super::percent::Percent;

/// A client's request as conditions see it, whatever workers in front have made of its headers.
pub(crate) struct Client<'a> {
    /// The client's; or, where a worker in front has put another in its place, that one.
    pub(crate) method: &'a Method,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) address: IpAddr,
}

/// All of it has to hold.
#[derive(Debug)]
pub(super) struct Condition {
    /// None of them means all.
    methods: Vec<String>,
    /// Nothing where one of the names is none, which no request has. Such rules are refused before.
    headers: Option<Vec<(HeaderName, Vec<u8>)>>,
    percent: Option<Percent>,
}

impl Condition {
    /// What a unit's rule asks; nothing where host and path are all.
    pub(super) fn of(rule: &MatchRule, unit: &UnitRef) -> Option<Self> {
        if rule.methods.is_empty() && rule.headers.is_empty() && rule.percent.is_none() {
            return None;
        }
        let headers = rule.headers.iter().try_fold(Vec::<(HeaderName, Vec<u8>)>::new(), |mut headers, header| {
            let name = HeaderName::from_bytes(header.name.as_bytes()).ok()?;
            // The first of a name counts.
            if headers.iter().all(|(other, _)| *other != name) {
                headers.push((name, header.value.clone().into_bytes()));
            }
            Some(headers)
        });
        let percent = rule.percent.as_ref().map(|percent| Percent::of(percent, unit));
        Some(Self { methods: rule.methods.clone(), headers, percent })
    }

    /// Whether it depends on the headers.
    pub(super) fn reads_headers(&self) -> bool {
        self.headers.as_ref().is_none_or(|headers| !headers.is_empty())
            || self.percent.as_ref().is_some_and(Percent::reads_headers)
    }

    pub(super) fn holds(&self, client: &Client<'_>) -> bool {
        self.has_method(client.method)
            && self.headers.as_ref().is_some_and(|all| all.iter().all(|(name, value)| has(client.headers, name, value)))
            && self.percent.as_ref().is_none_or(|percent| percent.has(client))
    }

    /// Some upstreams read `post` as `POST`: that is no way around a rule.
    fn has_method(&self, method: &Method) -> bool {
        self.methods.is_empty() || self.methods.iter().any(|m| m.eq_ignore_ascii_case(method.as_str()))
    }
}

/// Whether a header says this, and nothing else.
fn has(headers: &HeaderMap, name: &HeaderName, value: &[u8]) -> bool {
    let rest = joined(headers, name).try_fold(value, |rest, piece| rest.strip_prefix(piece));
    rest.is_some_and(<[u8]>::is_empty)
}

/// The pieces of what a header says: where it stands there several times, its values and what HTTP joins them by.
pub(super) fn joined<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    let between = if *name == COOKIE { "; " } else { ", " };
    let values = headers.get_all(name).iter().enumerate();
    values.flat_map(move |(number, value)| {
        let before = if number == 0 { "" } else { between };
        [before.as_bytes(), value.as_bytes()]
    })
}
