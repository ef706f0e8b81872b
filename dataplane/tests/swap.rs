//! Changing what runs, under load: no request notices, and nothing goes backwards.
#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping")]

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Instant,
};

use common::{
    client::{Kept, get},
    content::{HOST, assignment, entry, routes, worker, worker_elsewhere},
    guest,
    node::Home,
    until,
    upstream::Upstream,
};
use sluice_config::{
    Digest, ExceptionKind,
    UnitKind::{Routes, Worker},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_requests_during_twenty_swaps_all_succeed() {
    let upstream = Upstream::start().await;
    let home = Home::new();
    let shop = routes(&home.revisions(), "shop", upstream.address);
    let v1 = worker(&home.revisions(), "security-headers", &guest("security-headers-v1"), "closed");
    let v3 = worker(&home.revisions(), "security-headers", &guest("security-headers-v3"), "closed");
    let at = |generation, revision: &Digest| {
        assignment(
            generation,
            vec![
                entry(Worker, "security-headers", revision, Some(&v1), generation),
                entry(Routes, "shop", &shop, None, 1),
            ],
        )
    };
    home.assign(&at(1, &v1));
    let node = home.start();
    node.applied(1).await;

    let (done, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (done, asked, to) = (Arc::clone(&done), Arc::clone(&asked), node.clients);
            tokio::spawn(async move {
                let mut client = Kept::new(to);
                let mut seen = [0_usize; 2];
                while !done.load(Ordering::Relaxed) || asked.load(Ordering::Relaxed) < 10_000 {
                    let answer = client.get(HOST, "/checkout").await.unwrap();
                    assert_eq!(answer.status, 200, "{answer:?}");
                    let marks: Vec<_> = answer.headers.get_all("x-sluice-worker").iter().collect();
                    match marks.as_slice() {
                        [mark] if *mark == "security-headers/v1" => seen[0] += 1,
                        [mark] if *mark == "security-headers/v3" => seen[1] += 1,
                        other => panic!("not one worker's mark: {other:?}"),
                    }
                    asked.fetch_add(1, Ordering::Relaxed);
                }
                assert_eq!(client.connections, 1, "a swap closes no connection");
                seen
            })
        })
        .collect();
    for swap in 1..=20_usize {
        // Spread over the requests, whatever the speed of the machine.
        until("enough requests were made", async || (asked.load(Ordering::Relaxed) >= swap * 450).then_some(())).await;
        let generation = swap as u64 + 1;
        home.assign(&at(generation, if swap % 2 == 1 { &v3 } else { &v1 }));
        node.applied(generation).await;
    }
    done.store(true, Ordering::Relaxed);
    let mut total = [0, 0];
    for client in clients {
        let seen = client.await.unwrap();
        total = [total[0] + seen[0], total[1] + seen[1]];
    }
    assert!(total[0] + total[1] >= 10_000 && total[0] > 0 && total[1] > 0, "{total:?}");

    let counters = node.counters().await;
    assert_eq!((counters.node.as_str(), counters.generation), ("node-1", 21));
    let of = |unit: &str, digest: &Digest| {
        let row = counters.units.iter().find(|r| r.unit.name == unit && r.revision == *digest).unwrap();
        assert_eq!((row.faults, row.errors_self, row.errors_other), (0, 0, 0), "{row:?}");
        assert_eq!(row.latency.iter().sum::<u64>(), row.requests);
        row.requests
    };
    let counted = of("security-headers", &v1) + of("security-headers", &v3);
    assert_eq!(counted, (total[0] + total[1]) as u64, "every request is counted once, for one revision");
    assert_eq!(of("shop", &shop), counted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revert_is_a_swap_of_pointers() {
    let upstream = Upstream::start().await;
    let home = Home::new();
    let shop = entry(Routes, "shop", &routes(&home.revisions(), "shop", upstream.address), None, 1);
    let v1 = worker(&home.revisions(), "security-headers", &guest("security-headers-v1"), "closed");
    let v2 = worker(&home.revisions(), "security-headers", &guest("security-headers-v2"), "closed");
    // Another unit's new revision cannot be had; the way back must not wait for it.
    let missing = worker_elsewhere(&home.revisions(), "other", &Digest::of(b"nowhere"), 7, "open");
    home.assign(&assignment(1, vec![entry(Worker, "security-headers", &v2, Some(&v1), 1), shop.clone()]));
    let node = home.start();
    node.applied(1).await;
    let mut client = Kept::new(node.clients);
    assert_eq!(client.get(HOST, "/checkout").await.unwrap().status, 500);

    home.assign(&assignment(
        2,
        vec![entry(Worker, "security-headers", &v1, Some(&v1), 2), entry(Worker, "other", &missing, None, 2), shop],
    ));
    let begin = Instant::now();
    until("the revert is in force", async || {
        (client.get(HOST, "/checkout").await.unwrap().status == 200).then_some(())
    })
    .await;
    let took = begin.elapsed();
    node.applied(2).await;
    let exceptions = node.report().await.exceptions;
    assert_eq!(exceptions.len(), 1, "{exceptions:?}");
    assert_eq!((exceptions[0].name.as_str(), exceptions[0].reason), ("other", ExceptionKind::LocalTrouble));
    // The file is looked at every 50 ms; the rest is margin for a crowded machine, far below any load.
    assert!(took.as_millis() < 1_000, "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn generations_do_not_go_backwards_and_nonsense_is_refused_whole() {
    let upstream = Upstream::start().await;
    let home = Home::new();
    let shop = entry(Routes, "shop", &routes(&home.revisions(), "shop", upstream.address), None, 1);
    home.assign(&assignment(5, vec![shop.clone()]));
    let node = home.start();
    node.applied(5).await;
    assert_eq!(get(node.clients, HOST, "/").await.unwrap().status, 200);

    let twice = assignment(7, vec![shop.clone(), shop.clone()]);
    let mut other_format = assignment(8, vec![]);
    other_format.format = 99;
    let cases: [(&str, Vec<u8>); 4] = [
        ("older", serde_json::to_vec(&assignment(4, vec![])).unwrap()),
        ("twice", serde_json::to_vec(&twice).unwrap()),
        ("format", serde_json::to_vec(&other_format).unwrap()),
        ("readable", b"{\"format\":".to_vec()),
    ];
    for (why, bytes) in cases {
        home.assign_bytes(&bytes);
        let told = async || node.report().await.last_error.filter(|e| e.contains(why));
        until("the report says why", told).await;
        assert_eq!(node.report().await.applied_generation, 5);
        assert_eq!(get(node.clients, HOST, "/").await.unwrap().status, 200);
    }
    home.assign(&assignment(9, vec![shop]));
    node.applied(9).await;
    assert_eq!(node.report().await.last_error, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_with_nothing_to_run_is_ready() {
    let home = Home::new();
    let node = home.start();
    assert_eq!(get(node.admin, "admin", "/readyz").await.unwrap().status, 503);
    assert_eq!(get(node.admin, "admin", "/healthz").await.unwrap().status, 200);
    assert_eq!(get(node.clients, HOST, "/").await.unwrap().status, 503);
    home.assign(&assignment(1, vec![]));
    node.ready().await;
    node.applied(1).await;
    let metrics = get(node.admin, "admin", "/metrics").await.unwrap();
    assert!(metrics.header("content-type").unwrap().starts_with("application/openmetrics-text"));
    assert!(String::from_utf8_lossy(&metrics.body).contains("sluice_node_applied_generation{group=\"canary\"} 1"));
}
