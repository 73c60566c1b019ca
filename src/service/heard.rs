#![forbid(unsafe_code)]
//! Calls that end before anybody has looked at what they ask for: too long, not to be read, or cut
//! off on the way. They have their lines like all others.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use http::{Request, Response};
use tonic::body::Body;
use tonic::{Code, Status};
use tower_service::Service;

use super::Call;
use crate::audit::Audit;
use crate::metrics::{self, Method};
use crate::server::peer::Peer;

/// Set once a call's message was read: from then on the [`Service`](super::Service) tells its end.
#[derive(Clone, Debug, Default)]
pub(super) struct Read(Arc<AtomicBool>);

impl Read {
    /// The message was read.
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The gRPC server around the [`Service`](super::Service). No call goes by it unheard.
#[derive(Clone)]
pub struct Heard<S> {
    server: S,
    audit: Audit,
}

impl<S> Heard<S> {
    /// Tells the log, the metrics and the audit log of calls that do not get through `server`.
    pub const fn new(server: S, audit: Audit) -> Self {
        Self { server, audit }
    }
}

impl<S, B> Service<Request<B>> for Heard<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Future: Unpin,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Hearing<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.server.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let pending = method(request.uri().path()).map(|method| Pending {
            method,
            peer: request.extensions().get().copied(),
            began: Instant::now(),
            audit: if method == Method::Status { Audit::off() } else { self.audit.clone() },
            read: Read::default(),
        });
        if let Some(pending) = &pending {
            request.extensions_mut().insert(pending.read.clone());
        }
        Hearing { answer: self.server.call(request), pending }
    }
}

/// What is no call of KMS v2 has no line.
fn method(path: &str) -> Option<Method> {
    match path.strip_prefix("/v2.KeyManagementService/")? {
        "Status" => Some(Method::Status),
        "Encrypt" => Some(Method::Encrypt),
        "Decrypt" => Some(Method::Decrypt),
        _ => None,
    }
}

/// A call whose message may never be read.
struct Pending {
    method: Method,
    peer: Option<Peer>,
    began: Instant,
    audit: Audit,
    read: Read,
}

impl Pending {
    /// Its end, if nobody else tells it.
    fn end(self, code: Code) {
        if self.read.0.load(Ordering::Relaxed) {
            return;
        }
        metrics::request_begun(self.method);
        let Self { method, peer, began, audit, .. } = self;
        let nothing = String::new;
        let (uid, key_id) = (nothing(), nothing());
        let call = Call { method, uid, key_id, peer, began, generation: None, audit, ended: false };
        // The decoder's own text may hold a part of the message.
        let what = match code {
            Code::Cancelled => "the caller has gone before its message was there",
            Code::OutOfRange => "the message is too long, and was not read",
            _ => "the message cannot be read: it is none of KMS v2",
        };
        call.end(Err(&Status::new(code, what)));
    }
}

/// A call on its way through the gRPC server.
pub struct Hearing<F> {
    answer: F,
    pending: Option<Pending>,
}

impl<F, E> Future for Hearing<F>
where
    F: Future<Output = Result<Response<Body>, E>> + Unpin,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let answer = std::task::ready!(Pin::new(&mut self.answer).poll(cx));
        if let (Some(pending), Ok(response)) = (self.pending.take(), &answer) {
            // An answer without a message has its status among the header fields.
            let status = Status::from_header_map(response.headers());
            pending.end(status.map_or(Code::Unknown, |status| status.code()));
        }
        Poll::Ready(answer)
    }
}

impl<F> Drop for Hearing<F> {
    fn drop(&mut self) {
        if let Some(pending) = self.pending.take() {
            pending.end(Code::Cancelled);
        }
    }
}
