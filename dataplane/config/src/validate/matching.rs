//! Checks of what a worker's rules ask of a request.

use super::{Invalid, at_most, clip, count, hosts, invalid, limits, paths, range};
use crate::{HeaderMatch, MatchRule, PercentBy, PercentMatch};

pub(super) fn rules(at: &str, rules: &[MatchRule]) -> Result<(), Invalid> {
    count(at, rules.len())?;
    let asking = rules.iter().filter(|r| !r.methods.is_empty() || !r.headers.is_empty() || r.percent.is_some()).count();
    if asking > limits::ASKING_RULES {
        let problem =
            format!("{asking} rules with methods, headers or percent; at most {} are allowed", limits::ASKING_RULES);
        return Err(invalid(at, problem));
    }
    for rule in rules {
        hosts(&format!("{at}.hosts"), &rule.hosts)?;
        paths(&format!("{at}.paths"), &rule.paths)?;
        methods(&format!("{at}.methods"), &rule.methods)?;
        headers(&format!("{at}.headers"), &rule.headers)?;
        if let Some(share) = &rule.percent {
            percent(&format!("{at}.percent"), share)?;
        }
    }
    Ok(())
}

fn methods(field: &str, methods: &[String]) -> Result<(), Invalid> {
    at_most(field, methods.len(), limits::METHODS)?;
    let ok = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
    for method in methods {
        if method.is_empty() || method.len() > limits::METHOD_BYTES || !method.bytes().all(ok) {
            return Err(invalid(
                field,
                format!("`{}` is not a method: write GET, POST or another, in upper case", clip(method)),
            ));
        }
    }
    Ok(())
}

fn headers(at: &str, headers: &[HeaderMatch]) -> Result<(), Invalid> {
    at_most(at, headers.len(), limits::HEADERS)?;
    for HeaderMatch { name, value } in headers {
        header(&format!("{at}.name"), name)?;
        let field = format!("{at}.value");
        range(&field, value.len() as u64, limits::VALUE_BYTES, "bytes")?;
        // No request has it so.
        if value.trim() != value || value.contains(char::is_control) {
            let remedy = "write it without control characters, and without spaces around it";
            return Err(invalid(field, format!("`{}` is no header's value: {remedy}", clip(value))));
        }
    }
    Ok(())
}

fn header(field: &str, name: &str) -> Result<(), Invalid> {
    if name.eq_ignore_ascii_case("host") {
        return Err(invalid(field, format!("`{name}` is matched by another field: write hosts")));
    }
    token(field, name, "a header's name: write for example x-beta")
}

fn percent(at: &str, percent: &PercentMatch) -> Result<(), Invalid> {
    range(&format!("{at}.share"), percent.ppm.into(), 0..=1_000_000, "ppm")?;
    let field = format!("{at}.name");
    match (percent.by, &percent.name) {
        (PercentBy::ClientAddress, None) => Ok(()),
        (PercentBy::ClientAddress, Some(name)) => {
            Err(invalid(field, format!("`{}` belongs to no header and no cookie: leave it out", clip(name))))
        }
        (PercentBy::Header, Some(name)) => token(&field, name, "a header's name: write for example x-user"),
        (PercentBy::Cookie, Some(name)) => token(&field, name, "a cookie's name: write for example session"),
        (PercentBy::Header, None) => Err(invalid(at, "which header is not said: add name, e.g. x-user")),
        (PercentBy::Cookie, None) => Err(invalid(at, "which cookie is not said: add name, e.g. session")),
    }
}

/// What HTTP calls a token.
fn token(field: &str, text: &str, what: &str) -> Result<(), Invalid> {
    let ok = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if text.is_empty() || text.len() > limits::TOKEN_BYTES || !text.bytes().all(ok) {
        return Err(invalid(field, format!("`{}` is not {what}", clip(text))));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        Content, Revision,
        tests::{asking_revision, worker_revision},
    };

    /// The worker whose rule asks for something of everything, this value in place of what is there.
    fn with(pointer: &str, value: Value) -> Result<Revision, serde_json::Error> {
        let mut json = serde_json::to_value(asking_revision())?;
        *json.pointer_mut(&format!("/production/worker/match{pointer}")).unwrap() = value;
        serde_json::from_value(json)
    }

    #[test]
    fn what_is_not_asked_for_is_not_written() {
        assert_eq!(serde_json::to_value(MatchRule::default()).unwrap(), json!({}));
    }

    #[test]
    fn what_no_request_has_is_refused_with_the_field_that_is_wrong() {
        let long = |len| "x".repeat(len);
        for (pointer, value, field) in [
            ("/0/methods/0", json!("get"), "methods"),
            ("/0/methods/0", json!(""), "methods"),
            ("/0/methods/0", json!("GET /"), "methods"),
            ("/0/methods/0", json!("X".repeat(33)), "methods"),
            ("/0/methods", json!(vec!["GET"; 17]), "methods"),
            ("/0/headers/0/name", json!(""), "headers.name"),
            ("/0/headers/0/name", json!("x beta"), "headers.name"),
            ("/0/headers/0/name", json!("x-beta:"), "headers.name"),
            ("/0/headers/0/name", json!("Host"), "headers.name"),
            ("/0/headers/0/name", json!(long(257)), "headers.name"),
            ("/0/headers/0/value", json!(""), "headers.value"),
            ("/0/headers/0/value", json!(" 1"), "headers.value"),
            ("/0/headers/0/value", json!("1\r\n"), "headers.value"),
            ("/0/headers/0/value", json!("a\u{0}b"), "headers.value"),
            ("/0/headers/0/value", json!(long(4_097)), "headers.value"),
            ("/0/headers", json!(vec![json!({"name": "x", "value": "1"}); 17]), "headers"),
            ("/0/percent/ppm", json!(1_000_001), "percent.share"),
            ("/0/percent/ppm", json!(u32::MAX), "percent.share"),
            ("/0/percent/name", json!(null), "percent"),
            ("/0/percent/name", json!("a=b"), "percent.name"),
            ("/0/percent/name", json!(long(257)), "percent.name"),
            ("/0/percent", json!({"ppm": 1, "by": "header"}), "percent"),
            ("/0/percent", json!({"ppm": 1, "by": "header", "name": "x user"}), "percent.name"),
            ("/0/percent", json!({"ppm": 1, "by": "clientAddress", "name": "x"}), "percent.name"),
        ] {
            let refused = with(pointer, value.clone()).unwrap().validate().unwrap_err();
            assert_eq!(refused.field, format!("production.match.{field}"), "{pointer} {value}");
        }
        assert!(with("/0/percent/by", json!("path")).is_err());
        assert!(with("/0/percent/ppm", json!(-1)).is_err());
    }

    #[test]
    fn the_largest_that_is_allowed_passes() {
        let headers = vec![json!({"name": "x".repeat(256), "value": "v".repeat(4_096)}); 16];
        for (pointer, value) in [
            ("/0/methods", json!(vec!["VERSION-CONTROL"; 16])),
            ("/0/headers", json!(headers)),
            ("/0/headers/0/value", json!("text/html, */*;q=0.8 caf\u{e9}")),
            ("/0/percent", json!({"ppm": 0, "by": "clientAddress"})),
            ("/0/percent", json!({"ppm": 1_000_000, "by": "header", "name": "X-User"})),
        ] {
            with(pointer, value).unwrap().validate().unwrap();
        }
    }

    #[test]
    fn rules_that_ask_for_more_are_few() {
        let rules = |asking: usize| {
            let mut revision = worker_revision();
            let Content::Worker(worker) = &mut revision.production else { panic!("no worker") };
            worker.match_rules = vec![MatchRule::default(); limits::LIST - asking];
            let rule = MatchRule { methods: vec!["GET".into()], ..MatchRule::default() };
            worker.match_rules.extend(vec![rule; asking]);
            revision.validate()
        };
        assert_eq!(rules(limits::ASKING_RULES), Ok(()));
        let refused = rules(limits::ASKING_RULES + 1).unwrap_err();
        assert_eq!(refused.field, "production.match");
        assert_eq!(refused.problem, "65 rules with methods, headers or percent; at most 64 are allowed");
    }
}
