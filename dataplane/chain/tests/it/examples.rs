//! The example filters do what they say.

use sluice_chain::Code;

use crate::harness::*;

fn example(name: &'static str) -> Code {
    Code::Ready(guest(name))
}

#[tokio::test]
async fn ids_halves_and_maintenance() {
    let node = Node::start(vec![
        Step::new("request-id").code(example("filter-request-id")).at("edge", 0),
        Step::new("ab-test").code(example("filter-ab-test")),
        Step::filter("z-reads").at("route", 0),
    ])
    .await;
    let mut request = get("/cart", "read-note:team/ab-test/arm");
    request.headers_mut().append("cookie", "theme=dark; ab-arm=b".parse().unwrap());
    let answer = node.send(request).await;
    assert_eq!(answer.header("x-path"), "/b/cart");
    assert_eq!(answer.header("x-got"), "b");
    assert_eq!(answer.header("x-request-id").len(), 32);
    assert_eq!(answer.header("set-cookie"), "", "it is known already");
    let answer = node.get("").await;
    assert!(answer.header("set-cookie").starts_with("ab-arm="), "{answer:?}");

    let node = Node::start(vec![Step::new("maintenance").code(example("filter-maintenance"))]).await;
    let answer = node.get("").await;
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("Back soon"));
    let mut request = get("/", "");
    request.headers_mut().append("cookie", "a=b; maintenance-pass=let-me-in".parse().unwrap());
    assert_eq!(node.send(request).await.status, 200);
}

/// Tokens by the key of `filters/jwt` (one by another), and whose each is, or what is wrong with it.
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
    let node =
        Node::start(vec![Step::new("jwt").code(example("filter-jwt")), Step::filter("z-reads").at("route", 0)]).await;
    let tokens: Vec<(&str, &str)> = TOKENS.lines().filter_map(|line| line.split_once(": ")).collect();
    assert_eq!(tokens.len(), 10);
    for (says, token) in &tokens {
        let answer = node.send(with_token(token)).await;
        if SUBJECTS.contains(says) {
            assert_eq!((answer.status.as_u16(), answer.header("x-got").as_str()), (200, *says), "{answer:?}");
            assert_eq!(answer.header("x-got-user"), *says, "the client said root");
        } else {
            assert_eq!((answer.status.as_u16(), answer.text().trim()), (401, *says), "{answer:?}");
            assert!(answer.header("www-authenticate").contains("invalid_token"), "{answer:?}");
        }
    }
    let mut two = with_token(tokens[0].1);
    two.headers_mut().append("authorization", format!("Bearer {}", tokens[1].1).parse().unwrap());
    assert_eq!(node.send(two).await.text(), "send one token\n");
    assert_eq!(node.get("").await.status, 401);
    assert_eq!(node.upstream.count(), SUBJECTS.len(), "no other went on");
}

#[tokio::test]
async fn links_of_a_page_are_replaced() {
    let node = Node::start(vec![Step::new("links").code(example("filter-links"))]).await;
    let page = "<a href=\"http://legacy.shop.example/a\">a</a> <img src='http://legacy.shop.example'>";
    let seen = async |content_type: &str, page: &str| {
        let mut request = post("/", "", page.to_owned());
        request.headers_mut().append("content-type", content_type.parse().unwrap());
        node.send(request).await
    };
    let answer = seen("text/html; charset=utf-8", page).await;
    assert_eq!(answer.text(), "<a href=\"https://shop.example/a\">a</a> <img src='https://shop.example'>");
    assert_eq!(seen("text/plain", page).await.text(), page);
    assert_eq!(seen("text/html", "no links").await.text(), "no links");
    let large = page.repeat(8_000);
    assert_eq!(seen("text/html", &large).await.text(), large, "too large to be read");
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
