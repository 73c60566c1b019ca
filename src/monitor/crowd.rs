#![forbid(unsafe_code)]
//! Those who watch at the moment, never more than so many.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::{AbortHandle, JoinSet};

/// Set once a request's head is there.
#[derive(Clone, Default)]
pub(super) struct Asked(Arc<AtomicBool>);

impl Asked {
    /// The head is there.
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

struct Member {
    asked: Asked,
    task: AbortHandle,
}

/// The connections that are open. They end with this.
#[derive(Default)]
pub(super) struct Crowd {
    tasks: JoinSet<()>,
    /// The oldest first.
    members: VecDeque<Member>,
}

impl Crowd {
    /// Starts a connection. Where `limit` are open already, the oldest that has asked for nothing
    /// yet has to go: who holds a place and says nothing must not keep out who has a question.
    /// `false`: all of them have asked, and this one is not begun.
    pub(super) fn admit<F>(&mut self, limit: usize, connection: impl FnOnce(Asked) -> F) -> bool
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.members.retain(|member| !member.task.is_finished());
        if self.members.len() >= limit {
            let silent = self.members.iter().position(|member| !member.asked.is_set());
            let Some(silent) = silent.and_then(|place| self.members.remove(place)) else {
                return false;
            };
            silent.task.abort();
        }
        let asked = Asked::default();
        let task = self.tasks.spawn(connection(asked.clone()));
        self.members.push_back(Member { asked, task });
        true
    }

    /// Waits until one has ended; `None` if there is none.
    pub(super) async fn ended(&mut self) -> Option<()> {
        self.tasks.join_next().await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    /// One that stays open. What is given back resolves, to an error, when it was ended.
    fn stay(crowd: &mut Crowd, limit: usize, asks: bool) -> Option<oneshot::Receiver<()>> {
        let (open, ended) = oneshot::channel::<()>();
        let admitted = crowd.admit(limit, |asked| async move {
            if asks {
                asked.set();
            }
            let _open = open;
            std::future::pending().await
        });
        admitted.then_some(ended)
    }

    #[tokio::test]
    async fn the_oldest_that_has_not_asked_goes() {
        let mut crowd = Crowd::default();
        let _asked = stay(&mut crowd, 3, true).unwrap();
        let silent = stay(&mut crowd, 3, false).unwrap();
        let mut younger = stay(&mut crowd, 3, false).unwrap();
        tokio::task::yield_now().await;
        assert!(stay(&mut crowd, 3, true).is_some());
        silent.await.unwrap_err();
        assert!(younger.try_recv().is_err_and(|why| why == oneshot::error::TryRecvError::Empty));
        assert!(stay(&mut crowd, 3, true).is_some());
        younger.await.unwrap_err();
        tokio::task::yield_now().await;
        assert!(stay(&mut crowd, 3, true).is_none(), "all have asked");
    }

    #[tokio::test]
    async fn who_has_gone_takes_no_place() {
        let mut crowd = Crowd::default();
        for _ in 0..5 {
            assert!(crowd.admit(1, |asked| async move { asked.set() }));
            assert!(crowd.ended().await.is_some());
        }
        assert!(crowd.ended().await.is_none());
    }
}
