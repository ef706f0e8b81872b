//! The examples do what they say, in each contract.

use sluice_chain::Code;

use crate::harness::*;

fn example(name: &'static str) -> Code {
    Code::Ready(guest(name))
}

#[tokio::test]
async fn each_request_has_an_id() {
    for worker in ["filter-request-id", "request-id", "handler-request-id"] {
        let node = Node::start(vec![Step::new("request-id").code(example(worker))]).await;
        assert_eq!(node.get("").await.header("x-request-id").len(), 32, "{worker}");
    }
}

#[tokio::test]
async fn responses_get_the_headers_of_each_on_their_way_back() {
    let node = Node::start(vec![
        Step::new("request-id").at("edge", 0).code(example("request-id")),
        Step::new("security-headers").at("security", 0).code(example("security-headers-v1")),
    ])
    .await;
    let answer = node.post("", "hello").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.text(), "hello");
    assert_eq!(answer.header("x-request-id").len(), 32);
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    assert_eq!(answer.header("x-sluice-worker"), "security-headers/v1");
}

#[tokio::test]
async fn a_service_answers_and_nobody_else_is_asked() {
    let node = Node::start(vec![Step::new("hello").code(example("handler-hello"))]).await;
    assert_eq!(node.get("").await.text(), "hello\n");
    assert_eq!(node.upstream.count(), 0);
}

#[tokio::test]
async fn visitors_are_divided_and_stay_where_they_are() {
    for worker in ["filter-ab-test", "ab-test"] {
        let node = Node::start(vec![Step::new("ab-test").code(example(worker))]).await;
        for (arm, path) in [("a", "/cart"), ("b", "/b/cart")] {
            let mut request = get("/cart", "");
            request.headers_mut().append("cookie", format!("theme=dark; ab-arm={arm}").parse().unwrap());
            let answer = node.send(request).await;
            assert_eq!(answer.header("x-path"), path, "{worker}");
            assert_eq!(answer.header("set-cookie"), "", "{worker}: it is known already");
        }
        let answer = node.send(get("/cart", "")).await;
        let path = if answer.header("set-cookie").starts_with("ab-arm=b;") { "/b/cart" } else { "/cart" };
        assert_eq!(answer.header("x-path"), path, "{worker}: {answer:?}");
        assert!(answer.header("set-cookie").starts_with("ab-arm="), "{worker}: {answer:?}");
    }
}

#[tokio::test]
async fn a_filter_tells_the_workers_behind_it_the_half() {
    let halves = Step::new("ab-test").code(example("filter-ab-test"));
    let node = Node::start(vec![halves, Step::filter("z-reads").at("route", 0)]).await;
    let mut request = get("/cart", "read-note:team/ab-test/arm");
    request.headers_mut().append("cookie", "ab-arm=b".parse().unwrap());
    assert_eq!(node.send(request).await.header("x-got"), "b");
}

#[tokio::test]
async fn those_who_work_on_the_site_see_it_and_others_see_a_page() {
    for worker in ["filter-maintenance", "maintenance"] {
        let node = Node::start(vec![Step::new("maintenance").code(example(worker))]).await;
        let answer = node.get("").await;
        assert_eq!((answer.status.as_u16(), answer.header("retry-after").as_str()), (503, "600"), "{worker}");
        assert!(answer.text().contains("Back soon"), "{worker}");
        let mut request = get("/", "");
        request.headers_mut().append("cookie", "a=b; maintenance-pass=let-me-in".parse().unwrap());
        assert_eq!(node.send(request).await.status, 200, "{worker}");
        assert_eq!(node.send(get("/healthz", "")).await.status, 200, "{worker}");
    }
}

#[tokio::test]
async fn old_addresses_lead_to_new_ones() {
    for worker in ["filter-redirects", "redirects"] {
        let node = Node::start(vec![Step::new("redirects").code(example(worker))]).await;
        for (path, status, location) in [
            ("/blog/42?x=1", 308, "/news/42?x=1"),
            ("/help", 308, "https://help.shop.example"),
            ("/sale?x", 307, "/offers/summer?x"),
            ("/sales", 200, ""),
        ] {
            let answer = node.send(get(path, "")).await;
            let seen = (answer.status.as_u16(), answer.header("location"));
            assert_eq!(seen, (status, location.to_owned()), "{worker}: {path}");
        }
        assert_eq!(node.upstream.count(), 1, "{worker}");
    }
}

/// Tokens by the key in `rules` (one by another), and whose each is, or what is wrong with it.
const TOKENS: &str = include_str!("tokens.txt");
/// Those that hold until 2100, the second for several audiences.
const SUBJECTS: [&str; 2] = ["ada", "grace"];

fn with_token(token: &str) -> http::Request<TestBody> {
    let mut request = get("/", "read-note:team/jwt/user");
    request.headers_mut().append("authorization", format!("Bearer {token}").parse().unwrap());
    request.headers_mut().append("x-user", "root".parse().unwrap());
    request
}

#[tokio::test]
async fn a_token_is_checked_and_tells_whose_it_is() {
    let tokens: Vec<(&str, &str)> = TOKENS.lines().filter_map(|line| line.split_once(": ")).collect();
    assert_eq!(tokens.len(), 10);
    for worker in ["filter-jwt", "jwt"] {
        let node =
            Node::start(vec![Step::new("jwt").code(example(worker)), Step::filter("z-reads").at("route", 0)]).await;
        for (says, token) in &tokens {
            let answer = node.send(with_token(token)).await;
            if SUBJECTS.contains(says) {
                assert_eq!(answer.status, 200, "{worker}: {answer:?}");
                assert_eq!(answer.header("x-got-user"), *says, "{worker}: the client said root");
                let noted = if worker == "filter-jwt" { says } else { "none" };
                assert_eq!(answer.header("x-got"), noted, "{worker}");
            } else {
                assert_eq!((answer.status.as_u16(), answer.text().trim()), (401, *says), "{worker}: {answer:?}");
                assert!(answer.header("www-authenticate").contains("invalid_token"), "{worker}: {answer:?}");
            }
        }
        let mut two = with_token(tokens[0].1);
        two.headers_mut().append("authorization", format!("Bearer {}", tokens[1].1).parse().unwrap());
        assert_eq!(node.send(two).await.text(), "send one token\n", "{worker}");
        assert_eq!(node.get("").await.status, 401, "{worker}");
        assert_eq!(node.upstream.count(), SUBJECTS.len(), "{worker}: no other went on");
    }
}

#[tokio::test]
async fn links_of_a_page_are_replaced() {
    let old = "<a href=\"http://legacy.shop.example/a\">a</a> <img src='http://legacy.shop.example'>";
    let new = "<a href=\"https://shop.example/a\">a</a> <img src='https://shop.example'>";
    for (worker, is_streamed) in [("filter-links", false), ("links", true)] {
        let node = Node::start(vec![Step::new("links").code(example(worker))]).await;
        let seen = async |content_type: &str, page: &str| {
            let mut request = post("/", "", page.to_owned());
            request.headers_mut().append("content-type", content_type.parse().unwrap());
            node.send(request).await
        };
        assert_eq!(seen("text/html; charset=utf-8", old).await.text(), new, "{worker}");
        for (content_type, page) in [("text/plain", old), ("text/html", "no links"), ("text/html", "http://legacy.s")] {
            assert_eq!(seen(content_type, page).await.text(), page, "{worker}");
        }
        // More than a filter reads, and in pieces that end anywhere.
        let large = seen("text/html", &old.repeat(8_000)).await;
        let expected = if is_streamed { new } else { old }.repeat(8_000);
        assert!(large.text() == expected, "{worker}: {} bytes", large.text().len());
    }
}

#[tokio::test]
async fn a_client_that_asks_too_often_is_told_when_to_come_again() {
    let mut limit = Step::new("rate-limit").code(example("filter-rate-limit"));
    let kind = sluice_config::BindingKind::Rate { requests: 2, per_ms: 86_400_000 };
    limit.bindings.push(sluice_config::Binding { name: "clients".into(), kind });
    let node = Node::start(vec![limit]).await;
    let from = async |address: &str| {
        let client = sluice_chain::ClientInfo::new(address.parse().unwrap(), false);
        Answer::of(node.snapshot.clone().handle(get("/", ""), &client).await).await
    };
    for address in ["[2001:db8::1]:1", "[2001:db8::ffff]:2"] {
        assert_eq!(from(address).await.status, 200);
    }
    let answer = from("[2001:db8:0:0:7::]:3").await;
    assert_eq!(answer.status, 429, "its network has had both");
    let seconds: u64 = answer.header("retry-after").parse().unwrap();
    assert!((1..=43_200).contains(&seconds), "{seconds}");
    assert_eq!(from("[2001:db8:0:1::1]:1").await.status, 200, "another network");
    assert_eq!(from("192.0.2.1:1").await.status, 200);
}
