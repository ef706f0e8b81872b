//! Rule 16: the older keeps the name, or the host and path; the younger stalls and names the other.

use sluice_config::{Content, Environment, FORMAT, Revision, RouteRule, Routes, UnitKind, UnitRef, Upstream};
use sluice_operator::source::{Claim, RepositoryId, conflicts};

fn repository(name: &str) -> RepositoryId {
    RepositoryId { namespace: "edge-team".into(), name: name.into() }
}

fn unit(name: &str) -> UnitRef {
    UnitRef::new(UnitKind::Routes, "edge-team", name)
}

fn routes(staging: (&str, &str), production: (&str, &str)) -> Revision {
    let content = |(host, path): (&str, &str)| {
        let url = "http://shop".into();
        let upstream = Upstream { url, connect_timeout_ms: 1, response_timeout_ms: 1 };
        Content::Routes(Routes {
            hosts: vec![host.into()],
            rules: vec![RouteRule {
                paths: vec![path.into()],
                upstream,
                fallback: None,
                alternatives: Default::default(),
            }],
        })
    };
    Revision {
        format: FORMAT,
        kind: UnitKind::Routes,
        name: "x".into(),
        artifact: None,
        staging: content(staging),
        production: content(production),
        gates: vec![],
        together: None,
    }
}

fn said(claims: &[Claim<'_>]) -> Vec<String> {
    conflicts(claims).iter().map(|c| format!("{} of {}: {c}", c.unit, c.repository)).collect()
}

#[test]
fn the_older_keeps_the_name() {
    let (a, b, shop) = (repository("a"), repository("b"), unit("shop"));
    let claim = |repository, accepted_ms| Claim {
        repository,
        unit: &shop,
        environment: Environment::Staging,
        revision: None,
        accepted_ms,
        repository_ms: 7,
    };
    let expected = ["edge-team/shop (routes) of edge-team/a: the name edge-team/shop (routes) belongs to repository \
         edge-team/b: rename the unit, or remove it there first"];
    assert_eq!(said(&[claim(&a, Some(2)), claim(&b, Some(1))]), expected);
    assert_eq!(said(&[claim(&a, None), claim(&b, Some(9))]), expected, "who was never accepted is younger");
    let both_new = conflicts(&[claim(&b, None), claim(&a, None)]);
    assert_eq!(both_new[0].repository, b, "the order of the list decides nothing");
    let in_both = Claim { environment: Environment::Production, ..claim(&a, Some(1)) };
    assert_eq!(said(&[claim(&a, Some(1)), in_both]), [""; 0], "nobody is in its own way");
}

#[test]
fn the_older_keeps_host_and_path_where_they_meet() {
    let (a, b) = (repository("a"), repository("b"));
    let (old, new, third) = (unit("old"), unit("new"), unit("third"));
    let one = routes(("s.example", "/"), ("p.example", "/cart"));
    let two = routes(("p.example", "/cart"), ("p.example", "/cart"));
    let three = routes(("p.example", "/cart"), ("p.example", "/cart/*"));
    let claims: Vec<Claim<'_>> = [(&a, &old, &one, 1), (&b, &new, &two, 2), (&a, &third, &three, 3)]
        .into_iter()
        .flat_map(|(repository, unit, revision, age)| {
            Environment::ALL.map(|environment| Claim {
                repository,
                unit,
                environment,
                revision: Some(revision),
                accepted_ms: Some(age),
                repository_ms: 0,
            })
        })
        .collect();
    assert_eq!(
        said(&claims),
        ["edge-team/new (routes) of edge-team/b: p.example/cart in production belongs to edge-team/old (routes) of \
          repository edge-team/a: choose another host or path, or remove it there first"],
        "who stalls holds nothing, and a prefix is not the path itself"
    );
}
