//! What of a call is in a guest's hands, and in those of others.
//!
//! With an instance goes what it writes: it stays for as long as somebody reads. And what it still holds of a call, no
//! other call may find: then it goes.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    task::{Context, Poll},
};

use futures::task::AtomicWaker;

#[derive(Default)]
pub(crate) struct Hands {
    /// Bodies of the guest's that others may still read.
    unread: AtomicUsize,
    /// Who waits for that to be none.
    waiting: AtomicWaker,
    /// Bodies and requests of the call that the guest has, or that are passed on unseen.
    held: AtomicUsize,
    /// The guest has nothing left to do.
    let_go: AtomicBool,
}

impl Hands {
    /// Somebody begins to read a body of the guest's.
    pub(crate) fn reads(&self) {
        self.unread.fetch_add(1, SeqCst);
    }

    /// It has been read, or is read no more.
    pub(crate) fn read(&self) {
        if self.unread.fetch_sub(1, SeqCst) == 1 {
            self.waiting.wake();
        }
    }

    /// Whether anything of the guest's is still read.
    pub(crate) fn are_read(&self) -> bool {
        self.unread.load(SeqCst) > 0
    }

    pub(crate) fn poll_unread(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.waiting.register(cx.waker());
        if self.are_read() { Poll::Pending } else { Poll::Ready(()) }
    }

    pub(crate) fn take(&self) {
        self.held.fetch_add(1, SeqCst);
    }

    pub(crate) fn give(&self) {
        self.held.fetch_sub(1, SeqCst);
    }

    pub(crate) fn holds(&self) -> bool {
        self.held.load(SeqCst) > 0
    }

    pub(crate) fn let_go(&self) {
        self.let_go.store(true, SeqCst);
    }

    pub(crate) fn have_let_go(&self) -> bool {
        self.let_go.load(SeqCst)
    }
}
