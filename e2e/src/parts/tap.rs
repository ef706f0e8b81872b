//! TCP in between: passes everything on, and notes when an answer first held some text. So a program's own traffic
//! tells when it can have known something.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::Result;
use jiff::Timestamp;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    task::JoinSet,
};

/// A tap; it ends when this is dropped.
#[derive(Debug)]
pub struct Tap {
    address: SocketAddr,
    sought: Arc<Mutex<Sought>>,
    _server: JoinSet<()>,
}

/// What to look for in answers.
#[derive(Debug, Default)]
struct Sought {
    text: Vec<u8>,
    seen_at: Option<Timestamp>,
}

impl Tap {
    /// Listens at this address, and leads there.
    pub async fn start(listen: IpAddr, to: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((listen, 0)).await?;
        let address = listener.local_addr()?;
        let sought = Arc::new(Mutex::new(Sought::default()));
        let mut server = JoinSet::new();
        server.spawn(accept(listener, to, Arc::clone(&sought)));
        Ok(Self { address, sought, _server: server })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Looks for this text from now on.
    pub fn seek(&self, text: &str) {
        *lock(&self.sought) = Sought { text: text.as_bytes().to_vec(), seen_at: None };
    }

    /// When the text had been passed on for the first time.
    pub fn seen_at(&self) -> Option<Timestamp> {
        lock(&self.sought).seen_at
    }
}

fn lock(sought: &Mutex<Sought>) -> MutexGuard<'_, Sought> {
    sought.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, to: SocketAddr, sought: Arc<Mutex<Sought>>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let sought = Arc::clone(&sought);
        connections.spawn(async move {
            let Ok(server) = TcpStream::connect(to).await else { return };
            let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
            // Whichever side ends first, the other is told by the end of its stream.
            tokio::join!(pass(from_client, to_server, None), pass(from_server, to_client, Some(&sought)));
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, sought: Option<&Mutex<Sought>>) {
    let (mut buffer, mut end) = (vec![0; 64 << 10], Vec::new());
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
        if let Some(sought) = sought {
            look(&mut lock(sought), &mut end, &buffer[..read]);
        }
    }
    // The other side sees the end.
    drop(to.shutdown().await);
}

/// Looks into a piece of a stream; `end` holds the end of the pieces before it.
fn look(sought: &mut Sought, end: &mut Vec<u8>, piece: &[u8]) {
    end.extend_from_slice(piece);
    let length = sought.text.len();
    if length > 0 && sought.seen_at.is_none() && end.windows(length).any(|window| window == sought.text) {
        sought.seen_at = Some(Timestamp::now());
    }
    end.drain(..end.len().saturating_sub(length.max(1) - 1));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_seen_across_pieces() {
        let mut sought = Sought { text: b"needle".to_vec(), seen_at: None };
        let mut end = Vec::new();
        look(&mut sought, &mut end, b"hay nee");
        assert!(sought.seen_at.is_none());
        look(&mut sought, &mut end, b"dle hay");
        assert!(sought.seen_at.is_some());
    }
}
