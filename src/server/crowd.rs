#![forbid(unsafe_code)]
//! The connections that are open, never more than so many.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::{AbortHandle, JoinSet};

/// Set once a peer has spoken as it should.
#[derive(Clone, Debug, Default)]
pub struct Spoken(Arc<AtomicBool>);

impl Spoken {
    /// It has.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Has it?
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

struct Member {
    spoken: Spoken,
    task: AbortHandle,
}

/// Was there room for one more?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// There was.
    Free,
    /// One that had not spoken yet has gone for it.
    Made,
    /// There is none: all have spoken, and the new one is not begun.
    None,
}

/// The connections. They end with this.
#[derive(Default)]
pub struct Crowd {
    tasks: JoinSet<()>,
    /// The oldest first.
    members: VecDeque<Member>,
}

impl Crowd {
    /// Starts a connection. Where `limit` are open already, the oldest that has not spoken yet has
    /// to go: who holds a place and says nothing must not keep out who has something to say.
    pub fn admit<F>(&mut self, limit: usize, connection: impl FnOnce(Spoken) -> F) -> Room
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut room = Room::Free;
        if self.open() >= limit {
            let silent = self.members.iter().position(|member| !member.spoken.is_set());
            let Some(silent) = silent.and_then(|place| self.members.remove(place)) else {
                return Room::None;
            };
            silent.task.abort();
            room = Room::Made;
        }
        let spoken = Spoken::default();
        let task = self.tasks.spawn(connection(spoken.clone()));
        self.members.push_back(Member { spoken, task });
        room
    }

    /// How many there are.
    pub fn open(&mut self) -> usize {
        self.members.retain(|member| !member.task.is_finished());
        self.members.len()
    }

    /// Waits until one has ended; `None` if there is none.
    pub async fn ended(&mut self) -> Option<()> {
        let end = self.tasks.join_next().await?;
        if let Err(error) = end
            && error.is_panic()
        {
            tracing::error!(%error, "a connection's task ended badly");
        }
        Some(())
    }

    /// Ends all of them.
    pub async fn shutdown(&mut self) {
        self.tasks.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    /// One that stays open. What is given back resolves, to an error, when it was ended.
    fn stay(crowd: &mut Crowd, limit: usize, speaks: bool) -> Option<oneshot::Receiver<()>> {
        let (open, ended) = oneshot::channel::<()>();
        let admitted = crowd.admit(limit, |spoken| async move {
            if speaks {
                spoken.set();
            }
            let _open = open;
            std::future::pending().await
        });
        (admitted != Room::None).then_some(ended)
    }

    #[tokio::test]
    async fn the_oldest_that_has_not_spoken_goes() {
        let mut crowd = Crowd::default();
        let _spoken = stay(&mut crowd, 3, true).unwrap();
        let silent = stay(&mut crowd, 3, false).unwrap();
        let mut younger = stay(&mut crowd, 3, false).unwrap();
        tokio::task::yield_now().await;
        assert!(stay(&mut crowd, 3, true).is_some());
        silent.await.unwrap_err();
        assert!(younger.try_recv().is_err_and(|why| why == oneshot::error::TryRecvError::Empty));
        assert!(stay(&mut crowd, 3, true).is_some());
        younger.await.unwrap_err();
        tokio::task::yield_now().await;
        assert!(stay(&mut crowd, 3, true).is_none(), "all have spoken");
    }

    #[tokio::test]
    async fn who_has_gone_takes_no_place() {
        let mut crowd = Crowd::default();
        for _ in 0..5 {
            assert_eq!(crowd.admit(1, |spoken| async move { spoken.set() }), Room::Free);
            assert!(crowd.ended().await.is_some());
        }
        assert!(crowd.ended().await.is_none());
    }
}
