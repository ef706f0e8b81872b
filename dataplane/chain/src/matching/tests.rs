//! Rules over hosts and paths, and what else they ask.

use http::{HeaderMap, HeaderName, Method};
use sluice_config::{HeaderMatch, PercentBy, PercentMatch, UnitKind};

use super::*;

fn place(host: &str, path: &str) -> Place {
    Place { host: host.into(), path: path.into() }
}

fn rule(hosts: &[&str], paths: &[&str]) -> MatchRule {
    MatchRule {
        hosts: hosts.iter().map(ToString::to_string).collect(),
        paths: paths.iter().map(ToString::to_string).collect(),
        ..MatchRule::default()
    }
}

fn asking(paths: &[&str], methods: &[&str], headers: &[(&str, &str)]) -> MatchRule {
    let header = |(name, value): &(&str, &str)| HeaderMatch { name: (*name).to_owned(), value: (*value).to_owned() };
    MatchRule {
        methods: methods.iter().map(ToString::to_string).collect(),
        headers: headers.iter().map(header).collect(),
        ..rule(&[], paths)
    }
}

/// A router for one worker a list of rules.
fn router(workers: &[&[MatchRule]]) -> WorkerRouter {
    let mut router = WorkerRouter::new(workers.len());
    for (worker, rules) in workers.iter().enumerate() {
        router.add(worker, &UnitRef::new(UnitKind::Worker, "team", format!("worker-{worker}")), rules);
    }
    router
}

fn matched(router: &WorkerRouter, host: &str, path: &str) -> Vec<usize> {
    asked(router, &place(host, path), "GET", &[])
}

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap())).collect()
}

fn asked(router: &WorkerRouter, place: &Place, method: &str, pairs: &[(&str, &str)]) -> Vec<usize> {
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    let client = Client { method: &method, headers: &headers(pairs), address: [192, 0, 2, 1].into() };
    let set = router.matches(place, &client);
    let mut found = Vec::new();
    while let Some(worker) = set.first_from(found.last().map_or(0, |w| w + 1)) {
        found.push(worker);
    }
    found
}

#[test]
fn any_rule_of_a_worker_suffices() {
    let router = router(&[
        &[],
        &[rule(&["shop.example"], &["/checkout/*"])],
        &[rule(&["*.shop.example"], &[]), rule(&[], &["/health"])],
        &[rule(&[], &["/checkout", "/cart/*"])],
    ]);
    for (host, path, expected) in [
        ("other.example", "/", &[0][..]),
        ("shop.example", "/checkout", &[0, 1, 3]),
        ("shop.example", "/checkout/", &[0, 1]),
        ("shop.example", "/checkout/a/b", &[0, 1]),
        ("shop.example", "/checkouts", &[0]),
        ("a.shop.example", "/", &[0, 2]),
        ("b.a.shop.example", "/cart/1", &[0, 2, 3]),
        ("xshop.example", "/health", &[0, 2]),
        ("x", "/health/", &[0]),
    ] {
        assert_eq!(matched(&router, host, path), expected, "{host}{path}");
    }
}

#[test]
fn a_route_is_the_most_specific_host_then_exact_then_longest_prefix() {
    let mut router = RouteRouter::default();
    for (rule, (host, path)) in [
        ("*.example", "/*"),
        ("*.shop.example", "/*"),
        ("a.shop.example", "/only/*"),
        ("shop.example", "/*"),
        ("shop.example", "/cart/*"),
        ("shop.example", "/cart"),
        ("shop.example", "/cart/special/*"),
    ]
    .into_iter()
    .enumerate()
    {
        assert!(router.add(host, path, rule));
    }
    assert!(!router.add("shop.example", "/cart", 99));
    for (host, path, expected) in [
        ("x.example", "/", Some(0)),
        ("b.shop.example", "/", Some(1)),
        ("c.b.shop.example", "/", Some(1)),
        ("a.shop.example", "/only/x", Some(2)),
        ("a.shop.example", "/", None),
        ("shop.example", "/x", Some(3)),
        ("shop.example", "/cart", Some(5)),
        ("shop.example", "/cart/", Some(4)),
        ("shop.example", "/cart/1", Some(4)),
        ("shop.example", "/cart/special", Some(6)),
        ("shop.example", "/carts", Some(3)),
        ("example", "/", None),
        ("elsewhere", "/", None),
    ] {
        assert_eq!(router.find(&place(host, path)), expected, "{host}{path}");
    }
}

#[test]
fn no_spelling_of_a_path_is_a_way_around_a_rule() {
    let router =
        router(&[&[rule(&[], &["/v1/users:export"])], &[rule(&[], &["/caf%C3%A9/*"])], &[rule(&[], &["/admin/*"])]]);
    let matched = |raw: &str| {
        let path = crate::place::path(raw).unwrap();
        matched(&router, "shop.example", &path)
    };
    for (raw, worker) in [
        ("/v1/users:export", 0),
        ("/v1/users%3Aexport", 0),
        ("/v1/users%3aexport;v=1", 0),
        ("/caf%c3%a9/x", 1),
        ("/caf\u{e9}/x", 1),
        ("/admin;x/y", 2),
        ("/admin%3Bx/y", 2),
        ("//admin/;/y", 2),
    ] {
        assert_eq!(matched(raw), [worker], "{raw}");
    }
}

#[test]
fn all_that_a_rule_asks_has_to_hold_and_any_rule_suffices() {
    let router = router(&[
        &[asking(&["/cart/*"], &["POST", "PUT"], &[("x-beta", "1")])],
        &[asking(&["/cart/*"], &["DELETE"], &[]), asking(&["/cart/1"], &[], &[("x-beta", "1")])],
        &[asking(&[], &["POST"], &[]), rule(&[], &["/health"])],
    ]);
    let beta = [("x-beta", "1")];
    for (method, path, pairs, expected) in [
        ("POST", "/cart/1", &beta[..], &[0, 1, 2][..]),
        ("PUT", "/cart/1", &beta, &[0, 1]),
        ("PUT", "/cart/2", &beta, &[0]),
        ("PUT", "/cart/1", &[], &[]),
        ("GET", "/cart/1", &beta, &[1]),
        ("DELETE", "/cart/2", &[], &[1]),
        ("POST", "/", &beta, &[2]),
        ("GET", "/health", &[], &[2]),
        ("GET", "/", &beta, &[]),
    ] {
        assert_eq!(asked(&router, &place("x", path), method, pairs), expected, "{method} {path} {pairs:?}");
    }
}

#[test]
fn methods_are_told_apart_but_not_by_case() {
    let router = router(&[&[asking(&[], &["GET"], &[])], &[asking(&[], &["M-SEARCH"], &[])]]);
    for (method, expected) in
        [("GET", &[0][..]), ("get", &[0]), ("Get", &[0]), ("HEAD", &[]), ("GETS", &[]), ("m-search", &[1])]
    {
        assert_eq!(asked(&router, &place("x", "/"), method, &[]), expected, "{method}");
    }
}

#[test]
fn a_header_says_all_of_its_values() {
    let router = router(&[
        &[asking(&[], &[], &[("X-Beta", "1")])],
        &[asking(&[], &[], &[("accept", "text/html, */*")])],
        &[asking(&[], &[], &[("cookie", "a=1; b=2")])],
        &[asking(&[], &[], &[("x-beta", "1"), ("x-tier", "gold")])],
        &[asking(&[], &[], &[("x-tier", "gold"), ("X-Tier", "silver")])],
    ]);
    for (pairs, expected) in [
        (&[("x-beta", "1")][..], &[0][..]),
        (&[("X-BETA", "1")], &[0]),
        (&[("x-beta", "")], &[]),
        (&[("x-beta", "11")], &[]),
        (&[("x-beta", "1"), ("x-beta", "1")], &[]),
        (&[("x-beta", "2"), ("x-beta", "1")], &[]),
        (&[("accept", "text/html, */*")], &[1]),
        (&[("accept", "text/html"), ("accept", "*/*")], &[1]),
        (&[("accept", "text/html,*/*")], &[]),
        (&[("accept", "*/*"), ("accept", "text/html")], &[]),
        (&[("accept", "text/HTML, */*")], &[]),
        (&[("cookie", "a=1"), ("cookie", "b=2")], &[2]),
        (&[("cookie", "a=1; b=2")], &[2]),
        (&[("x-beta", "1"), ("x-tier", "gold")], &[0, 3, 4]),
        (&[("x-tier", "silver")], &[]),
    ] {
        assert_eq!(asked(&router, &place("x", "/"), "GET", pairs), expected, "{pairs:?}");
    }
}

#[test]
fn a_share_is_one_condition_among_others() {
    let share = |ppm, by, name: Option<&str>| PercentMatch { ppm, by, name: name.map(str::to_owned) };
    let all = |by, name| MatchRule { percent: Some(share(1_000_000, by, name)), ..rule(&[], &["/a/*"]) };
    let none = MatchRule { percent: Some(share(0, PercentBy::ClientAddress, None)), ..MatchRule::default() };
    let post = MatchRule { methods: vec!["POST".into()], ..all(PercentBy::ClientAddress, None) };
    let router = router(&[
        &[all(PercentBy::ClientAddress, None)],
        &[all(PercentBy::Header, Some("x-user"))],
        &[all(PercentBy::Cookie, Some("session"))],
        &[none],
        &[post],
    ]);
    for (method, path, pairs, expected) in [
        ("GET", "/a", &[][..], &[0][..]),
        ("GET", "/b", &[], &[]),
        ("POST", "/a", &[], &[0, 4]),
        ("GET", "/a", &[("x-user", "ann")], &[0, 1]),
        ("GET", "/a", &[("x-user", "")], &[0]),
        ("GET", "/a", &[("cookie", "theme=dark; session=7")], &[0, 2]),
    ] {
        assert_eq!(asked(&router, &place("x", path), method, pairs), expected, "{method} {path} {pairs:?}");
    }
}

#[test]
fn headers_are_kept_only_where_a_rewrite_could_ask_for_them() {
    let reads = || asking(&["/admin/*"], &[], &[("x-beta", "1")]);
    let by_cookie = PercentMatch { ppm: 1, by: PercentBy::Cookie, name: Some("session".into()) };
    let by_address = PercentMatch { ppm: 1, by: PercentBy::ClientAddress, name: None };
    let percent = |percent| MatchRule { percent: Some(percent), ..rule(&["shop.example"], &[]) };
    let beta = [("x-beta", "1")];
    for (name, workers, pairs, expected) in [
        ("it may", [vec![], vec![reads()]], &[][..], true),
        ("a share of sessions", [vec![], vec![percent(by_cookie)]], &[], true),
        ("a share of addresses", [vec![], vec![percent(by_address)]], &[], false),
        ("nobody is in front of it", [vec![reads()], vec![]], &[], false),
        ("nobody is called", [vec![rule(&[], &["/x"])], vec![reads()]], &[], false),
        ("it is called anyway", [vec![], vec![reads(), asking(&[], &[], &beta)]], &beta, false),
        ("all that it asks is known", [vec![], vec![asking(&[], &[], &beta)]], &[], false),
        ("its method may come", [vec![], vec![asking(&[], &["PUT"], &beta)]], &[], true),
        ("it asks for no header", [vec![], vec![asking(&["/admin/*"], &["PUT"], &[])]], &[], false),
    ] {
        let router = router(&[&workers[0], &workers[1]]);
        let client = Client { method: &Method::GET, headers: &headers(pairs), address: [192, 0, 2, 1].into() };
        let set = router.matches(&place("x", "/"), &client);
        assert_eq!(router.may_read_again(&set), expected, "{name}");
    }
}

#[test]
fn a_condition_is_new_to_a_request_once() {
    let mut tried = Tried::default();
    for condition in [0, 63, 64, 200] {
        assert!(tried.is_new(condition) && !tried.is_new(condition), "{condition}");
    }
    assert!(tried.is_new(1) && tried.is_new(199));
}
