//! Names to addresses: one lookup a name, and not too many in all.
//!
//! A lookup holds a thread until the resolver answers, however long ago whoever asked gave up. One name whose
//! servers are silent would take all threads, and no other upstream could be connected to.

use std::{
    collections::BTreeMap,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    net::lookup_host,
    sync::{Semaphore, watch},
};

/// Lookups at once: a quarter of the threads that Tokio has for what blocks.
const AT_ONCE: usize = 128;

/// What the system said.
pub(crate) type Answer = Result<Vec<SocketAddr>, String>;
type Lookup = fn(String, u16) -> Pin<Box<dyn Future<Output = Answer> + Send>>;
type Asked = watch::Receiver<Option<Answer>>;

pub(crate) struct Resolver {
    lookup: Lookup,
    at_once: Semaphore,
    open: Mutex<BTreeMap<(String, u16), Asked>>,
}

impl Resolver {
    /// Asks the system.
    pub(crate) fn new() -> Arc<Self> {
        Self::with(|host, port| {
            Box::pin(async move {
                let found = lookup_host((host, port)).await;
                found.map(Iterator::collect).map_err(|error| error.to_string())
            })
        })
    }

    fn with(lookup: Lookup) -> Arc<Self> {
        Arc::new(Self { lookup, at_once: Semaphore::new(AT_ONCE), open: Mutex::default() })
    }

    /// Addresses of a name; who asks while somebody else does gets the same answer.
    pub(crate) async fn resolve(self: &Arc<Self>, host: &str, port: u16) -> Answer {
        let mut asked = self.ask(host, port);
        let answer = asked.wait_for(Option::is_some).await.ok().and_then(|answer| answer.clone());
        answer.unwrap_or_else(|| Err("the lookup was given up".to_owned()))
    }

    fn ask(self: &Arc<Self>, host: &str, port: u16) -> Asked {
        let key = (host.to_owned(), port);
        let mut open = self.open();
        // One whose task is gone answers nobody.
        if let Some(asked) = open.get(&key).filter(|asked| asked.has_changed().is_ok()) {
            return asked.clone();
        }
        let (tell, asked) = watch::channel(None);
        open.insert(key.clone(), asked.clone());
        let this = Arc::clone(self);
        drop(tokio::spawn(async move {
            let answer = match this.at_once.acquire().await {
                Ok(_permit) => (this.lookup)(key.0.clone(), key.1).await,
                Err(closed) => Err(closed.to_string()),
            };
            this.open().remove(&key);
            tell.send_replace(Some(answer));
        }));
        asked
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<(String, u16), Asked>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use super::*;

    #[tokio::test]
    async fn a_name_is_looked_up_once_however_many_ask_and_again_for_who_asks_later() {
        static LOOKUPS: AtomicUsize = AtomicUsize::new(0);
        let resolver = Resolver::with(|_, port| {
            LOOKUPS.fetch_add(1, SeqCst);
            Box::pin(async move {
                tokio::task::yield_now().await;
                Ok(vec![SocketAddr::from(([192, 0, 2, 1], port))])
            })
        });
        let (a, b, c) =
            tokio::join!(resolver.resolve("shop", 80), resolver.resolve("shop", 80), resolver.resolve("shop", 81));
        assert_eq!(a, b);
        assert_ne!(a, c);
        assert_eq!(LOOKUPS.load(SeqCst), 2);
        assert_eq!(resolver.resolve("shop", 80).await, a);
        assert_eq!(LOOKUPS.load(SeqCst), 3);
    }

    #[tokio::test]
    async fn a_name_whose_servers_are_silent_holds_no_other_up() {
        let resolver = Resolver::with(|host, _| match host.as_str() {
            "silent" => Box::pin(std::future::pending()),
            _ => Box::pin(async { Ok(vec![]) }),
        });
        for _ in 0..2 * AT_ONCE {
            let asks = resolver.resolve("silent", 80);
            tokio::pin!(asks);
            let given_up = std::future::poll_fn(|cx| std::task::Poll::Ready(asks.as_mut().poll(cx).is_pending()));
            assert!(given_up.await);
        }
        assert_eq!(resolver.resolve("shop", 80).await, Ok(vec![]));
    }
}
