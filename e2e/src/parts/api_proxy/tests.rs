//! The proxy before a server that answers as an API server would.

use std::convert::Infallible;

use futures::{StreamExt, stream};
use http_body_util::BodyExt;
use hyper::body::Frame;
use serde_json::Value;

use super::*;

const UNITS: &str = "/apis/sluice.dev/v1alpha1/namespaces/team/units";

/// Says in each answer what it was asked for; its watches have two events and do not end.
async fn answer(request: Request<Incoming>) -> Result<Response<Answer>, Infallible> {
    let asked = request.uri().to_string();
    let metadata = json!({"name": "shop-r", "resourceVersion": "7"});
    let whole = json!({"metadata": metadata, "asked": asked}).to_string();
    let body = if asked.contains("watch=true") {
        let event = |kind: &str| format!("{}\n", json!({"type": kind, "object": {"metadata": metadata}}));
        let events = [event("ADDED"), event("MODIFIED")].map(|text| Ok(Frame::data(Bytes::from(text))));
        StreamBody::new(stream::iter(events).chain(stream::pending())).boxed_unsync()
    } else {
        Full::new(Bytes::from(whole)).map_err(|never| match never {}).boxed_unsync()
    };
    Ok(Response::new(body))
}

async fn proxy() -> ApiProxy {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)));
        }
    });
    let config = kube::Config::new(url.parse().expect("a URL"));
    ApiProxy::start(Client::try_from(config).expect("a client")).await.expect("a proxy")
}

async fn put(proxy: &ApiProxy) -> reqwest::Result<Value> {
    let url = format!("http://{}{UNITS}/shop-r", proxy.address);
    reqwest::Client::new().put(url).body("{}").send().await?.json().await
}

async fn get(proxy: &ApiProxy, query: &str) -> String {
    let url = format!("http://{}{UNITS}?{query}", proxy.address);
    reqwest::get(url).await.expect("an answer").text().await.expect("a text")
}

#[tokio::test]
async fn a_cut_comes_after_a_write_is_stored_and_before_it_is_told() {
    let proxy = proxy().await;
    let mut writes = 0;
    proxy.cut_after(move |_| {
        writes += 1;
        writes == 2
    });
    assert_eq!(put(&proxy).await.expect("an answer")["metadata"]["name"], "shop-r");
    assert!(put(&proxy).await.is_err(), "the second write was answered");
    assert!(proxy.is_cut());
    assert!(put(&proxy).await.is_err(), "another write was let through");
    let written: Vec<String> = proxy.writes().iter().map(ToString::to_string).collect();
    assert_eq!(written, ["Update units shop-r", "Update units shop-r"]);
    assert_eq!(proxy.writes()[1].version(), Some(7));
    proxy.mend();
    put(&proxy).await.expect("an answer again");
    assert_eq!(proxy.writes().len(), 3);
}

#[tokio::test]
async fn a_watch_that_lost_an_event_ends_as_too_old() {
    let proxy = proxy().await;
    proxy.lose_event("units", 2);
    let told = get(&proxy, "watch=true").await;
    let kinds: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!((kinds.len(), &kinds[0]["type"], &kinds[1]["object"]["code"]), (2, &json!("ADDED"), &json!(410)));
    assert_eq!(proxy.events("units"), 2);
}

#[tokio::test]
async fn an_api_server_that_lags_lists_the_past() {
    let proxy = proxy().await;
    proxy.lag(5, Duration::from_secs(60));
    let asked = get(&proxy, "limit=500&resourceVersion=0").await;
    assert!(asked.contains("limit=500&resourceVersion=5&resourceVersionMatch=Exact"), "{asked}");
    proxy.forget();
    assert!(!get(&proxy, "limit=500").await.contains("Exact"));
}
