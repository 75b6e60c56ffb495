//! The task of a [`Lane`]: makes its connection, and moves bytes between the socket and the pipeline until that ends.
//!
//! It decides nothing: what may be written or read, and why the connection ends, the pipeline says.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};
use tracing::debug;

use super::lane::Lane;
use super::pipeline::{Room, Unasked};
use super::waiter::Waiter;
use super::{Connection, Service};
use crate::clock::Time;
use crate::error::Error;
use crate::net::Socket;

/// Bytes read at a time. A large reply comes in such pieces.
const READ_AT_ONCE: usize = 256 << 10;
/// Reads that a lane may do before other tasks of its thread get a turn.
const BUDGET: usize = 4;

thread_local! {
    /// Where every lane of the thread reads to: replies leave it before the next lane is polled.
    static READ: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_AT_ONCE].into_boxed_slice());
}

/// Until when a slow session is waited for.
type Patience = Option<Pin<Box<Sleep>>>;

impl<W: Waiter> Lane<W> {
    /// Carries commands over `connection`, once that is made, until it ends; every waiter is answered or told before this
    /// returns. Owned by the worker that opened the lane.
    pub(crate) async fn run(self: Rc<Self>, connection: impl Future<Output = Result<Connection, Error>>) -> Error {
        let _end = EndOfTask(&self);
        let error = match connection.await {
            Ok(mut connection) => {
                self.opened(&connection, Time::now());
                let mut patience = None;
                let error = poll_fn(|cx| self.poll_drive(cx, &mut connection.socket, &mut patience)).await;
                let (upstream, local) = (&self.node.address, connection.socket.local());
                debug!(%upstream, local, why = %error, "disconnected, or handed on");
                if self.was_given_up() {
                    connection.socket.reset_on_drop();
                }
                if let Some(heir) = self.heir() {
                    let _ = heir.send(connection); // where nobody waits for it any more it is closed
                }
                error
            }
            Err(error) => error,
        };
        self.finish(&error);
        error
    }

    fn poll_drive(&self, cx: &mut Context<'_>, socket: &mut Socket, patience: &mut Patience) -> Poll<Error> {
        let mut writes = true;
        for _ in 0..BUDGET {
            if writes && let Poll::Ready(error) = self.poll_write(cx, socket) {
                return Poll::Ready(error);
            }
            if self.poll_room(cx, patience).is_pending() {
                return Poll::Pending;
            }
            let read = READ.with_borrow_mut(|scratch| {
                let mut buffer = ReadBuf::new(scratch);
                match Pin::new(&mut *socket).poll_read(cx, &mut buffer) {
                    Poll::Pending => Poll::Pending,
                    Poll::Ready(Err(error)) => Poll::Ready(Err(self.broken(&error.to_string()))),
                    Poll::Ready(Ok(())) if buffer.filled().is_empty() => {
                        Poll::Ready(Err(self.broken("closed by the upstream")))
                    }
                    Poll::Ready(Ok(())) => Poll::Ready(self.receive(buffer.filled())),
                }
            });
            match read {
                Poll::Pending => return Poll::Pending,
                // What is sent meanwhile wakes this task.
                Poll::Ready(Ok(())) => writes = self.pipeline.borrow_mut().received(),
                Poll::Ready(Err(error)) => return Poll::Ready(error),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes what may be written; ready only with the reason to end. Registers the task for what is sent later.
    fn poll_write(&self, cx: &mut Context<'_>, socket: &mut Socket) -> Poll<Error> {
        let pipeline = &mut *self.pipeline.borrow_mut();
        if let Some(error) = pipeline.is_over() {
            return Poll::Ready(error);
        }
        let behind = pipeline.is_behind();
        while !pipeline.to_write().is_empty() {
            match Pin::new(&mut *socket).poll_write(cx, pipeline.to_write()) {
                Poll::Ready(Ok(n)) => pipeline.wrote(n),
                Poll::Ready(Err(error)) => return Poll::Ready(self.broken(&error.to_string())),
                Poll::Pending => break,
            }
        }
        if let Poll::Ready(Err(error)) = Pin::new(&mut *socket).poll_flush(cx) {
            return Poll::Ready(self.broken(&error.to_string()));
        }
        if behind
            && !pipeline.is_behind()
            && let Some(owner) = self.owner()
        {
            owner.taken();
        }
        if pipeline.written() {
            // Where it cannot be closed it is broken, which reading shows.
            let _ = Pin::new(&mut *socket).poll_shutdown(cx);
        }
        self.register(cx);
        Poll::Pending
    }

    /// Whether the next bytes can be taken. A private connection waits as long as its session needs, a shared lane as long as the
    /// pipeline says.
    fn poll_room(&self, cx: &mut Context<'_>, patience: &mut Patience) -> Poll<()> {
        let pipeline = &mut *self.pipeline.borrow_mut();
        if self.is_private() {
            let room = self.owner().map_or(Poll::Ready(()), |owner| owner.poll_room(cx));
            pipeline.hold(room.is_pending(), Time::now);
            return room;
        }
        let Some(receiver) = pipeline.receiver() else { return Poll::Ready(()) };
        if receiver.poll_room(cx).is_ready() {
            pipeline.has_room();
            *patience = None;
            return Poll::Ready(());
        }
        let now = Time::now();
        match pipeline.has_no_room(now) {
            Room::Now => Poll::Ready(()),
            Room::At(until) => {
                let wait = || Box::pin(sleep(until.saturating_since(now)));
                patience.get_or_insert_with(wait).as_mut().poll(cx)
            }
        }
    }

    fn receive(&self, bytes: &[u8]) -> Result<(), Error> {
        let now = Time::now();
        let stale = self.is_stale();
        if !stale {
            self.node.heard(now);
            // A handshake is no sign that commands are answered.
            if !self.is_private() {
                self.node.signs.mends(Service::Silent);
            }
        }
        let owner = if self.is_private() { self.owner() } else { None };
        let received = self.pipeline.borrow_mut().receive(bytes, stale, now, &mut |said| {
            let Some(owner) = &owner else { return };
            match said {
                Unasked::Message(bytes) => owner.message(bytes),
                Unasked::MonitorLine(line) => owner.monitored(line),
            }
        });
        self.forward_all();
        received?;
        self.wake_prepared();
        Ok(())
    }
}

/// However the task ends, dropped or by a panic: nobody waits for it any longer.
struct EndOfTask<'a, W: Waiter>(&'a Lane<W>);

impl<W: Waiter> Drop for EndOfTask<'_, W> {
    fn drop(&mut self) {
        self.0.lose("its task has ended");
    }
}
