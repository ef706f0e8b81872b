//! Answers 429 to clients that ask too often, and says when to come again. How often is too often, its binding `clients` says; a client
//! is an address, of IPv6 a network of 64 bits: whoever has one has all of its addresses.

use arena as _;

wit_bindgen::generate!({ path: "../../../wit", world: "sluice:worker/request-filter" });

use std::net::{IpAddr, Ipv6Addr};

use exports::sluice::worker::on_request;
use sluice::worker::{
    rate,
    types::{Action, Answer, Request},
};

struct Worker;

export!(Worker);

impl on_request::Guest for Worker {
    fn handle(request: &Request) -> Action {
        let address = request.client_address();
        match rate::take("clients", &client(&address)) {
            None => Action::Next,
            Some(millis) => too_often(millis),
        }
    }
}

fn client(address: &str) -> String {
    match address.parse() {
        Ok(IpAddr::V6(v6)) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).to_string(),
        Ok(IpAddr::V4(_)) | Err(_) => address.to_owned(),
    }
}

fn too_often(millis: u64) -> Action {
    let seconds = millis.div_ceil(1_000).to_string();
    let headers =
        vec![("retry-after".to_owned(), seconds.into_bytes()), ("content-type".to_owned(), b"text/plain".to_vec())];
    Action::Answer(Answer { status: 429, headers, body: b"too many requests\n".to_vec() })
}
