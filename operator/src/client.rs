//! The client of the API server. It waits for an answer as long as a healthy server may take and no longer: a call that
//! hangs in a dead connection would hold up all that waits for it.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::Request;
use kube::{
    Client, Config,
    client::{Body, ClientBuilder},
};
use tower::{BoxError, Service, layer::layer_fn};

/// For the beginning of an answer. The API server gives requests a minute, and needs it when it is in trouble only.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// The client that the environment asks for: the pod's own account, or a kubeconfig.
///
/// # Errors
/// Nothing says where the API server is, or what says it cannot be used.
pub async fn client() -> Result<Client, kube::Error> {
    with_timeout(Config::infer().await.map_err(kube::Error::InferConfig)?, ANSWER_TIMEOUT)
}

fn with_timeout(config: Config, limit: Duration) -> Result<Client, kube::Error> {
    let layer = layer_fn(move |inner| Limited { inner, limit });
    Ok(ClientBuilder::try_from(config)?.with_layer(&layer).build())
}

struct Limited<S> {
    inner: S,
    limit: Duration,
}

impl<S> Service<Request<Body>> for Limited<S>
where
    S: Service<Request<Body>, Error = BoxError>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // A watch may begin its answer with the first change, whenever that is.
        let is_watch = request.uri().query().is_some_and(|query| query.split('&').any(|part| part == "watch=true"));
        let (answer, limit) = (self.inner.call(request), self.limit);
        Box::pin(async move {
            if is_watch {
                return answer.await;
            }
            let late = |_| format!("the API server did not answer within {} s: it is asked again", limit.as_secs_f64());
            tokio::time::timeout(limit, answer).await.map_err(late)?
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::{Router, extract::State, http::Uri, response::IntoResponse};
    use tokio::{net::TcpListener, sync::Notify};

    use super::*;

    /// Answers a watch when told to, and nothing else ever.
    async fn answer(State(told): State<Arc<Notify>>, uri: Uri) -> impl IntoResponse {
        match uri.query() {
            Some(query) if query.contains("watch=true") => told.notified().await,
            _ => std::future::pending().await,
        }
    }

    fn ask(path: &str) -> Request<Body> {
        Request::get(path).body(Body::empty()).unwrap()
    }

    #[tokio::test]
    async fn a_call_ends_when_nobody_answers_and_a_watch_does_not() {
        let told = Arc::new(Notify::new());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = Router::new().fallback(answer).with_state(Arc::clone(&told));
        tokio::spawn(async move { axum::serve(listener, server).await });
        let client = with_timeout(Config::new(url.parse().unwrap()), Duration::from_millis(50)).unwrap();
        let watch = tokio::spawn({
            let client = client.clone();
            async move { client.send(ask("/api/v1/pods?&watch=true&timeoutSeconds=290")).await }
        });
        // Twice, so that the watch waits for longer than any call may.
        for _ in 0..2 {
            let error = client.send(ask("/api/v1/pods?watch=false")).await.expect_err("nobody answers");
            assert!(error.to_string().contains("did not answer within 0.05 s"), "{error}");
        }
        told.notify_one();
        assert_eq!(watch.await.unwrap().expect("an answer").status(), 200);
    }
}
