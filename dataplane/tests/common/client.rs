//! Clients: one that asks once, and one that keeps its connection.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// One request on a connection of its own.
pub async fn get(to: SocketAddr, host: &str, path: &str) -> Result<Answer, String> {
    Kept::new(to).get(host, path).await
}

/// A client that keeps its connection as long as the server lets it.
pub struct Kept {
    to: SocketAddr,
    sender: Option<SendRequest<Full<Bytes>>>,
    pub connections: usize,
}

impl Kept {
    pub fn new(to: SocketAddr) -> Self {
        Self { to, sender: None, connections: 0 }
    }

    /// A failure of any kind is an error: nothing is tried twice.
    pub async fn get(&mut self, host: &str, path: &str) -> Result<Answer, String> {
        let mut sender = match self.sender.take() {
            Some(sender) if !sender.is_closed() => sender,
            Some(_) | None => self.connect().await?,
        };
        sender.ready().await.map_err(|e| format!("connection is not ready: {e}"))?;
        let request = Request::get(path).header(header::HOST, host).body(Full::default()).unwrap();
        let response = sender.send_request(request).await.map_err(|e| format!("no response: {e:?}"))?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(|e| format!("body broke off: {e}"))?.to_bytes();
        let closes = head.headers.get(header::CONNECTION).is_some_and(|v| v == "close");
        if !closes {
            self.sender = Some(sender);
        }
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
    }

    async fn connect(&mut self) -> Result<SendRequest<Full<Bytes>>, String> {
        self.connections += 1;
        let stream = TcpStream::connect(self.to).await.map_err(|e| format!("no connection: {e}"))?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        tokio::spawn(connection);
        Ok(sender)
    }
}

/// Sends these bytes and reads until the server closes.
pub async fn raw(to: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = vec![];
    let _reset_counts_as_closed = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}
