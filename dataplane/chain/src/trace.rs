//! What the workers of a request did to it, for people who ask why: of one request in so many, and of none by default.
//!
//! Of headers, names are told and never values; of paths, no query: what a trace says must not be a secret.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use sluice_config::{Digest, UnitRef};
use sluice_worker::{Exchange, Identity};

use crate::CallRecord;

/// So many traces are kept; the oldest goes first.
const TRACES: usize = 100;
/// Of one request; a worker that calls `next` again and again would make them endless.
const STEPS_MAX: usize = 256;
/// Of one step; a worker may write a thousand headers.
const CHANGES_MAX: usize = 32;

/// One request on its way.
#[derive(Clone, Debug)]
pub struct Trace {
    /// When it came.
    pub began: SystemTime,
    /// As the client sent it.
    pub method: Method,
    /// As the client sent it.
    pub host: String,
    /// As the client sent it, without its query.
    pub path: String,
    /// The workers' turns, in the order of their ends.
    pub steps: Vec<Step>,
    /// What the client got; nothing where it left before.
    pub status: Option<StatusCode>,
    /// Until the response's head.
    pub duration: Duration,
}

/// One turn of a worker.
#[derive(Clone, Debug)]
pub struct Step {
    /// Whose.
    pub unit: UnitRef,
    /// Of which revision.
    pub revision: Digest,
    /// What the call ended in.
    pub call: CallRecord,
    /// What it changed, each in a few words: `sets x-user`.
    pub changes: Vec<String>,
}

/// The traces of a node.
pub(crate) struct Traces {
    /// One request of so many; 0: none.
    every: u64,
    requests: AtomicU64,
    last: Mutex<VecDeque<Arc<Trace>>>,
}

impl Traces {
    pub(crate) fn new(every: u64) -> Self {
        Self { every, requests: AtomicU64::new(0), last: Mutex::default() }
    }

    /// A request comes: whether it is one of those that are told.
    pub(crate) fn begin(&self) -> bool {
        self.every > 0 && self.requests.fetch_add(1, Relaxed).is_multiple_of(self.every)
    }

    fn push(&self, trace: Arc<Trace>) {
        let mut last = self.last();
        if last.len() == TRACES {
            last.pop_front();
        }
        last.push_back(trace);
    }

    /// Those that are kept, the newest first.
    pub(crate) fn list(&self) -> Vec<Arc<Trace>> {
        self.last().iter().rev().cloned().collect()
    }

    fn last(&self) -> MutexGuard<'_, VecDeque<Arc<Trace>>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The trace of a request under way.
pub(crate) struct Tracing(Mutex<Trace>);

impl Tracing {
    pub(crate) fn new(request: &Exchange) -> Box<Self> {
        Box::new(Self(Mutex::new(Trace {
            began: SystemTime::now(),
            method: request.method().clone(),
            host: request.authority().to_string(),
            path: request.path().path().to_owned(),
            steps: Vec::new(),
            status: None,
            duration: Duration::ZERO,
        })))
    }

    pub(crate) fn step(&self, worker: &Identity, call: CallRecord, changes: Vec<String>) {
        let mut trace = self.lock();
        if trace.steps.len() < STEPS_MAX {
            trace.steps.push(Step { unit: worker.unit.clone(), revision: worker.revision.clone(), call, changes });
        }
    }

    pub(crate) fn answered(&self, status: Option<StatusCode>, duration: Duration) {
        let mut trace = self.lock();
        trace.status = status;
        trace.duration = duration;
    }

    /// Nothing more will come.
    pub(crate) fn end(self, traces: &Traces) {
        traces.push(Arc::new(self.0.into_inner().unwrap_or_else(PoisonError::into_inner)));
    }

    fn lock(&self) -> MutexGuard<'_, Trace> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was changed, in a few words each: the first, and how many more.
#[derive(Clone, Default)]
struct Changes {
    told: Vec<String>,
    more: usize,
}

impl Changes {
    fn push(&mut self, change: impl FnOnce() -> String) {
        if self.told.len() < CHANGES_MAX {
            self.told.push(change());
        } else {
            self.more += 1;
        }
    }

    fn words(mut self) -> Vec<String> {
        if self.more > 0 {
            self.told.push(format!("and {} more", self.more));
        }
        self.told
    }
}

/// A message's head as it was.
pub(crate) enum Before {
    Request(Method, Uri, HeaderMap),
    Response(StatusCode, HeaderMap),
}

impl Before {
    pub(crate) fn request<B>(request: &Request<B>) -> Self {
        Self::Request(request.method().clone(), request.uri().clone(), request.headers().clone())
    }

    pub(crate) fn response<B>(response: &Response<B>) -> Self {
        Self::Response(response.status(), response.headers().clone())
    }

    /// What was done to it, where this is what became of it.
    pub(crate) fn changes_of_request<B>(&self, after: &Request<B>) -> Vec<String> {
        let mut changes = Changes::default();
        self.compare_request(after, &mut changes);
        changes.words()
    }

    /// The same of a response.
    pub(crate) fn changes_of_response<B>(&self, after: &Response<B>) -> Vec<String> {
        let mut changes = Changes::default();
        self.compare_response(after, &mut changes);
        changes.words()
    }

    fn compare_request<B>(&self, after: &Request<B>, changes: &mut Changes) {
        let Self::Request(method, uri, headers) = self else {
            return;
        };
        let mut differs = |what: &str, before: &str, after: &str| {
            if before != after {
                changes.push(|| format!("changes the {what} from {before} to {after}"));
            }
        };
        differs("method", method.as_str(), after.method().as_str());
        differs("host", host(uri), host(after.uri()));
        differs("path", uri.path(), after.uri().path());
        if uri.query() != after.uri().query() {
            changes.push(|| "changes the query".to_owned());
        }
        headers_changed(headers, after.headers(), changes);
    }

    fn compare_response<B>(&self, after: &Response<B>, changes: &mut Changes) {
        let Self::Response(status, headers) = self else {
            return;
        };
        if *status != after.status() {
            changes.push(|| format!("changes the status from {} to {}", status.as_u16(), after.status().as_u16()));
        }
        headers_changed(headers, after.headers(), changes);
    }
}

/// What a worker of `wasi:http` does between its request and its answer.
#[derive(Clone)]
pub(crate) struct Watched(Arc<Mutex<Watching>>);

struct Watching {
    request: Before,
    /// The last one that came back from behind it.
    response: Option<Before>,
    changes: Changes,
}

impl Watched {
    pub(crate) fn of<B>(request: &Request<B>) -> Self {
        let request = Before::request(request);
        Self(Arc::new(Mutex::new(Watching { request, response: None, changes: Changes::default() })))
    }

    pub(crate) fn goes_on<B>(&self, request: &Request<B>) {
        let mut watching = self.lock();
        let mut changes = Changes::default();
        watching.request.compare_request(request, &mut changes);
        watching.changes = changes;
    }

    pub(crate) fn came_back<B>(&self, response: &Response<B>) {
        self.lock().response = Some(Before::response(response));
    }

    pub(crate) fn answered<B>(&self, response: &Response<B>) {
        let mut watching = self.lock();
        if let Some(before) = watching.response.take() {
            before.compare_response(response, &mut watching.changes);
        }
    }

    pub(crate) fn changes(&self) -> Vec<String> {
        self.lock().changes.clone().words()
    }

    fn lock(&self) -> MutexGuard<'_, Watching> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn host(uri: &Uri) -> &str {
    uri.authority().map_or("", http::uri::Authority::as_str)
}

fn headers_changed(before: &HeaderMap, after: &HeaderMap, changes: &mut Changes) {
    for name in after.keys() {
        if !before.contains_key(name) {
            changes.push(|| format!("sets {name}"));
        } else if !before.get_all(name).iter().eq(after.get_all(name).iter()) {
            changes.push(|| format!("changes {name}"));
        }
    }
    before.keys().filter(|name| !after.contains_key(*name)).for_each(|name| changes.push(|| format!("removes {name}")));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_request_of_so_many_is_told_and_the_last_are_kept() {
        let traces = Traces::new(3);
        assert_eq!((0..9).filter(|_| traces.begin()).count(), 3);
        assert!(!Traces::new(0).begin());
        for n in 0..TRACES + 5 {
            let path = format!("/{n}?token=secret").parse().unwrap();
            let (authority, client) = ("shop.example".parse().unwrap(), [192, 0, 2, 1].into());
            let upstreams = Vec::new().into();
            let exchange =
                Exchange::new(Method::GET, authority, path, client, false, crate::place::SPELLING, upstreams);
            Tracing::new(&exchange).end(&traces);
        }
        let list = traces.list();
        assert_eq!(list.len(), TRACES);
        assert_eq!((list[0].path.as_str(), list[TRACES - 1].path.as_str()), ("/104", "/5"));
    }

    #[test]
    fn changes_are_told_by_name_and_without_values() {
        let before =
            Request::get("http://a/x?token=secret").header("cookie", "secret").header("x", "1").body(()).unwrap();
        let after = Request::post("http://b/y").header("x", "2").header("x-user", "secret").body(()).unwrap();
        let mut changes = Before::request(&before).changes_of_request(&after);
        changes.sort();
        assert_eq!(
            changes,
            [
                "changes the host from a to b",
                "changes the method from GET to POST",
                "changes the path from /x to /y",
                "changes the query",
                "changes x",
                "removes cookie",
                "sets x-user",
            ]
        );
        let same = Before::request(&before).changes_of_request(&before);
        assert!(same.is_empty(), "{same:?}");
        let (before, after) = (Response::new(()), Response::builder().status(418).header("a", "1").body(()).unwrap());
        let changes = Before::response(&before).changes_of_response(&after);
        assert_eq!(changes, ["changes the status from 200 to 418", "sets a"]);
    }

    #[test]
    fn of_many_changes_the_first_are_told_and_how_many_more() {
        let flooded = |parts: &mut HeaderMap| {
            for n in 0..100 {
                parts.insert(format!("x-{n}").parse::<http::HeaderName>().unwrap(), "1".parse().unwrap());
            }
        };
        let (request, mut sent) = (Request::new(()), Request::new(()));
        flooded(sent.headers_mut());
        let changes = Before::request(&request).changes_of_request(&sent);
        assert_eq!((changes.len(), changes[CHANGES_MAX].as_str()), (CHANGES_MAX + 1, "and 68 more"));
        // Of a worker of `wasi:http`, both ways together.
        let watched = Watched::of(&request);
        watched.goes_on(&sent);
        watched.came_back(&Response::new(()));
        let mut answer = Response::new(());
        flooded(answer.headers_mut());
        watched.answered(&answer);
        let changes = watched.changes();
        assert_eq!((changes.len(), changes[CHANGES_MAX].as_str()), (CHANGES_MAX + 1, "and 168 more"));
    }
}
