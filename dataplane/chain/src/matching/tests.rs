//! Rules over hosts and paths.

use sluice_config::MatchRule;

use super::*;

fn place(host: &str, path: &str) -> Place {
    Place { host: host.into(), path: path.into() }
}

fn rule(hosts: &[&str], paths: &[&str]) -> MatchRule {
    MatchRule {
        hosts: hosts.iter().map(ToString::to_string).collect(),
        paths: paths.iter().map(ToString::to_string).collect(),
    }
}

fn matched(router: &WorkerRouter, host: &str, path: &str) -> Vec<usize> {
    let set = router.matches(&place(host, path));
    let mut found = Vec::new();
    while let Some(worker) = set.first_from(found.last().map_or(0, |w| w + 1)) {
        found.push(worker);
    }
    found
}

#[test]
fn any_rule_of_a_worker_suffices() {
    let mut router = WorkerRouter::new(4);
    router.add(0, &[]);
    router.add(1, &[rule(&["shop.example"], &["/checkout/*"])]);
    router.add(2, &[rule(&["*.shop.example"], &[]), rule(&[], &["/health"])]);
    router.add(3, &[rule(&[], &["/checkout", "/cart/*"])]);
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
    let mut router = WorkerRouter::new(3);
    router.add(0, &[rule(&[], &["/v1/users:export"])]);
    router.add(1, &[rule(&[], &["/caf%C3%A9/*"])]);
    router.add(2, &[rule(&[], &["/admin/*"])]);
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
