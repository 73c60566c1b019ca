//! Callers that do not stop until they are told to.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::task::JoinHandle;

use super::client::Client;
use super::{eventually, seed};

/// Several callers on one connection, each with one round trip at a time.
pub(crate) struct Load {
    shared: Arc<Shared>,
    callers: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    good: AtomicUsize,
    failed: Mutex<Vec<tonic::Status>>,
}

impl Load {
    pub(crate) fn start(client: &Client, callers: u32) -> Self {
        let shared = Arc::<Shared>::default();
        let call = |number| {
            let (shared, client) = (shared.clone(), client.clone());
            async move {
                let plaintext = seed(number, 32);
                while !shared.stop.load(Ordering::Relaxed) {
                    match client.round_trip(&plaintext).await {
                        Ok(()) => drop(shared.good.fetch_add(1, Ordering::Relaxed)),
                        Err(status) => shared.failed.lock().unwrap().push(status),
                    }
                }
            }
        };
        let callers = (0..callers).map(|number| tokio::spawn(call(number))).collect();
        Self { shared, callers }
    }

    pub(crate) fn good(&self) -> usize {
        self.shared.good.load(Ordering::Relaxed)
    }

    /// Waits for so many more good round trips.
    pub(crate) async fn go_on_for(&self, count: usize) {
        let goal = self.good() + count;
        eventually("calls under load", async || (self.good() >= goal).then_some(())).await;
    }

    /// Ends it. Every call must have been good.
    pub(crate) async fn finish(self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for caller in self.callers {
            caller.await.unwrap();
        }
        let failed = self.shared.failed.lock().unwrap();
        let good = self.shared.good.load(Ordering::Relaxed);
        assert!(
            failed.is_empty(),
            "{} calls failed beside {good} good ones, the first: {:?}",
            failed.len(),
            failed.first()
        );
    }
}
