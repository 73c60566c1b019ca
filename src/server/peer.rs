#![forbid(unsafe_code)]
//! Who is at the other end, and whether they may be.

use std::io;

use tokio::net::UnixStream;
use tokio::sync::watch;

/// The process that made a connection, as the kernel saw it at connect (`SO_PEERCRED`, unix(7)).
/// It stands in the extensions of every request, for the audit log.
///
/// A process in another user namespace has its ids translated into ours; what
/// has none here shows as the overflow id, 65534.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Effective user id.
    pub uid: u32,
    /// Effective primary group id. Supplementary groups are not told.
    pub gid: u32,
    /// Process id, 0 if it is in a namespace that ours does not see. For the
    /// log only: the process may be gone and its number used again.
    pub pid: i32,
}

impl Peer {
    /// Asks the kernel.
    pub(super) fn of(stream: &UnixStream) -> io::Result<Self> {
        let credentials = stream.peer_cred()?;
        Ok(Self {
            uid: credentials.uid(),
            gid: credentials.gid(),
            pid: credentials.pid().unwrap_or(0),
        })
    }
}

/// Who may connect: a peer whose uid or whose gid is listed.
///
/// Clones share one list, so that SIGHUP can replace it under a running server.
#[derive(Clone, Debug)]
pub struct AllowList {
    rules: watch::Sender<Rules>,
}

#[derive(Debug)]
struct Rules {
    uids: Vec<u32>,
    gids: Vec<u32>,
}

impl AllowList {
    /// A list of these uids and gids. With neither, the mode of the socket's file
    /// decides alone; on an abstract socket, which has none, nobody gets in.
    #[must_use]
    pub fn new(uids: Vec<u32>, gids: Vec<u32>) -> Self {
        Self { rules: watch::Sender::new(Rules { uids, gids }) }
    }

    /// Puts another list in place, for all clones. The server looks again at every connection:
    /// one whose peer is no longer allowed is closed.
    pub fn replace(&self, uids: Vec<u32>, gids: Vec<u32>) {
        self.rules.send_replace(Rules { uids, gids });
    }

    /// Whether nothing is listed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let rules = self.rules.borrow();
        rules.uids.is_empty() && rules.gids.is_empty()
    }

    /// Whether this peer may connect to a socket that has a file.
    #[must_use]
    pub fn allows(&self, peer: &Peer) -> bool {
        self.is_empty() || self.lists(peer)
    }

    /// Whether this peer is on the list: what counts on an abstract socket.
    #[must_use]
    pub fn lists(&self, peer: &Peer) -> bool {
        let rules = self.rules.borrow();
        rules.uids.contains(&peer.uid) || rules.gids.contains(&peer.gid)
    }

    /// Wakes when the list is replaced.
    pub(super) fn changes(&self) -> Changes {
        Changes(self.rules.subscribe())
    }
}

/// See [`AllowList::changes`].
pub(super) struct Changes(watch::Receiver<Rules>);

impl Changes {
    pub(super) async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            // The last list is gone, so it changes no more.
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(uid: u32, gid: u32) -> Peer {
        Peer { uid, gid, pid: 1 }
    }

    #[test]
    fn a_listed_uid_or_gid_is_enough() {
        let list = AllowList::new(vec![0], vec![500]);
        assert!(list.allows(&peer(0, 7)));
        assert!(list.allows(&peer(7, 500)));
        assert!(!list.allows(&peer(500, 0)));
    }

    #[test]
    fn an_empty_list_leaves_it_to_the_file_mode() {
        let list = AllowList::new(vec![], vec![]);
        assert!(list.is_empty());
        assert!(list.allows(&peer(7, 7)));
        assert!(!list.lists(&peer(7, 7)));
    }

    #[test]
    fn clones_share_what_is_replaced() {
        let list = AllowList::new(vec![1], vec![]);
        let other = list.clone();
        list.replace(vec![], vec![9]);
        assert!(!other.allows(&peer(1, 1)));
        assert!(other.allows(&peer(1, 9)));
    }
}
