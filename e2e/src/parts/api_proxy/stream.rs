//! Watches: passed on line by line, late where the API server is to lag, and without the event that is to get lost.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use http_body_util::{BodyDataStream, BodyExt};
use hyper::body::Frame;
use kube::client::Body;
use serde::Deserialize;
use tokio::time::Instant;

use super::{BoxError, Shared};

/// So long an operator does not know that it missed something.
const UNNOTICED: Duration = Duration::from_millis(1500);

/// What the API server says of a watch that began too long ago.
const EXPIRED: &str = concat!(
    r#"{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","#,
    r#""message":"too old resource version","reason":"Expired","code":410}}"#,
    "\n"
);

/// Which event gets lost.
#[derive(Debug, Default)]
pub(super) struct Loss {
    seen: BTreeMap<String, usize>,
    wanted: Option<(String, usize)>,
}

impl Loss {
    pub(super) fn seen(&self, resource: &str) -> usize {
        self.seen.get(resource).copied().unwrap_or(0)
    }

    pub(super) fn lose(&mut self, resource: &str, number: usize) {
        self.wanted = Some((resource.to_owned(), number));
    }

    /// Counts an event. Whether it is the one.
    fn loses(&mut self, resource: &str, line: &[u8]) -> bool {
        if !tells_of_an_object(line) {
            return false;
        }
        let seen = self.seen.entry(resource.to_owned()).or_default();
        *seen += 1;
        let is_wanted = self.wanted.as_ref().is_some_and(|(of, number)| of == resource && number == seen);
        if is_wanted {
            self.wanted = None;
        }
        is_wanted
    }
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
}

fn tells_of_an_object(line: &[u8]) -> bool {
    let event: Option<Event<'_>> = serde_json::from_slice(line).ok();
    event.is_some_and(|event| ["ADDED", "MODIFIED", "DELETED"].contains(&event.kind))
}

/// One watch.
pub(super) struct Watching {
    resource: String,
    body: BodyDataStream<Body>,
    unread: BytesMut,
    expires: Option<Instant>,
}

impl Watching {
    pub(super) fn new(resource: String, body: Body) -> Self {
        Self { resource, body: body.into_data_stream(), unread: BytesMut::new(), expires: None }
    }

    /// What the operator gets to see.
    pub(super) fn events(self, shared: Arc<Shared>) -> impl Stream<Item = Result<Frame<Bytes>, BoxError>> + Send {
        futures::stream::unfold(Some((self, shared)), |open| async move {
            let (mut watching, shared) = open?;
            match watching.next(&shared).await? {
                Ok((line, true)) => Some((Ok(Frame::data(line)), Some((watching, shared)))),
                Ok((line, false)) => Some((Ok(Frame::data(line)), None)),
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    /// The next line, and whether others may follow.
    async fn next(&mut self, shared: &Shared) -> Option<Result<(Bytes, bool), BoxError>> {
        loop {
            while let Some(line) = self.line() {
                if let Some(lag) = shared.lag() {
                    tokio::time::sleep_until(lag.until).await;
                }
                if !shared.state().loss.loses(&self.resource, &line) {
                    return Some(Ok((line, true)));
                }
                self.expires = Some(Instant::now() + UNNOTICED);
            }
            let expires = self.expires;
            let expired = async {
                match expires {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                read = self.body.next() => match read? {
                    Ok(bytes) => self.unread.extend_from_slice(&bytes),
                    Err(error) => return Some(Err(error.into())),
                },
                () = expired => return Some(Ok((Bytes::from_static(EXPIRED.as_bytes()), false))),
            }
        }
    }

    /// The next whole line that was read.
    fn line(&mut self) -> Option<Bytes> {
        let end = self.unread.iter().position(|byte| *byte == b'\n')?;
        Some(self.unread.split_to(end + 1).freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_whole_whatever_pieces_they_came_in() {
        let mut watching = Watching::new("units".to_owned(), Body::empty());
        watching.unread.extend_from_slice(b"{\"a\":");
        assert_eq!(watching.line(), None);
        watching.unread.extend_from_slice(b"1}\n{}\n{");
        assert_eq!(watching.line().as_deref(), Some(&b"{\"a\":1}\n"[..]));
        assert_eq!(watching.line().as_deref(), Some(&b"{}\n"[..]));
        assert_eq!(watching.line(), None);
    }

    #[test]
    fn one_event_of_one_kind_gets_lost_and_bookmarks_do_not_count() {
        let mut loss = Loss::default();
        loss.lose("units", 2);
        let mut loses = |resource: &str, kind: &str| {
            loss.loses(resource, format!("{{\"type\":\"{kind}\",\"object\":{{\"x\":1}}}}\n").as_bytes())
        };
        assert!(!loses("units", "ADDED"));
        assert!(!loses("units", "BOOKMARK"));
        assert!(!loses("rollouts", "ADDED"));
        assert!(!loses("rollouts", "MODIFIED"));
        assert!(loses("units", "DELETED"));
        assert!(!loses("units", "MODIFIED"));
        assert_eq!((loss.seen("units"), loss.seen("rollouts")), (3, 2));
    }
}
