//! Filters that say anything at all to the host.

use http::{Request, StatusCode, header::HeaderValue};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use sluice_egress::{Body, full};
use sluice_worker::{Decision, Ended, Outcome, Stopped};

use crate::{
    call::{LIMITS, identity},
    filter,
    filter::{exchange, nowhere},
};

/// What takes a text from the guest to the host.
const STEPS: [&str; 14] = [
    "tag",
    "set",
    "remove",
    "drop",
    "method",
    "rewrite",
    "rehost",
    "upstream",
    "fetch",
    "note",
    "read-note",
    "answer",
    "flood",
    "edit-trap",
];

fn script() -> impl Strategy<Value = Vec<u8>> {
    let text = prop_oneof![
        "[-a-z0-9/.:?&%_]{0,40}".prop_map(String::into_bytes),
        "\\PC{0,40}".prop_map(String::into_bytes),
        prop::collection::vec(0x20..=0xff_u8, 0..40),
        prop::sample::select(vec!["host", "content-length", "transfer-encoding", "TE", "Upgrade", "1e9", "99", "204"])
            .prop_map(|word| word.as_bytes().to_vec()),
    ];
    (prop::sample::select(&STEPS[..]), text).prop_map(|(step, text)| [step.as_bytes(), b":", &text].concat())
}

fn request(script: HeaderValue) -> Request<Body> {
    let request = Request::post("http://shop.example:8080/cart?item=1").header("x-do", script);
    request.header("host", "shop.example:8080").header("content-length", 8).body(full("the body")).unwrap()
}

/// What a request has to be, whatever was said, to go on.
fn check(ended: &Ended, decided: Result<Decision, Stopped<Request<Body>>>) -> Result<(), TestCaseError> {
    match decided {
        Ok(Decision::Next { request, .. }) => {
            prop_assert_eq!(ended.outcome, Outcome::Next);
            prop_assert_eq!(&request.headers()["content-length"], "8");
            prop_assert_eq!(
                request.headers()["host"].as_bytes(),
                request.uri().authority().unwrap().as_str().as_bytes()
            );
            prop_assert!(request.uri().path().starts_with('/') && !request.uri().path().contains(".."));
            for name in ["connection", "te", "transfer-encoding", "upgrade"] {
                prop_assert!(!request.headers().contains_key(name), "{}", name);
            }
        }
        Ok(Decision::Answer(answer)) => {
            prop_assert_eq!(ended.outcome, Outcome::Answered);
            prop_assert!((StatusCode::OK..=StatusCode::from_u16(599).unwrap()).contains(&answer.status()));
        }
        Err(Stopped { failure, message }) => {
            prop_assert!(matches!(failure.outcome, Outcome::Invalid | Outcome::Trap), "{}", failure);
            prop_assert_eq!(message.uri(), "http://shop.example:8080/cart?item=1");
            prop_assert_eq!(message.method(), "POST");
            prop_assert_eq!(message.headers().len(), 3);
        }
    }
    Ok(())
}

#[test]
fn no_words_of_a_guest_make_a_request_that_none_may_be() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (faults, identity) = (filter("filter-faults"), identity());
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::default() });
    let done = runner.run(&script(), |script| {
        // A comma begins the next worker's step; some bytes no header has.
        prop_assume!(!script.contains(&b','));
        let Ok(script) = HeaderValue::from_bytes(&script) else { return Err(TestCaseError::reject("no header")) };
        let exchange = exchange();
        let call = faults.on_request(&identity, &LIMITS, &exchange, nowhere(), request(script));
        let (ended, decided) = runtime.block_on(call);
        check(&ended, decided)
    });
    done.unwrap();
}
