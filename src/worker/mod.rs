//! The worker process: the only place where the PKCS#11 module is loaded.
//!
//! It is foreign C code that hangs, crashes and leaks, so it gets a process
//! that can be killed. The front starts it, hands it a [`Setup`] and a socket
//! for each session, and lets it go. It dies with the front, hung or not.
//!
//! [`Setup`]: crate::token::protocol::Setup

mod control;
mod errors;
mod ffi;
mod import;
mod inspect;
mod keys;
mod known_answer;
mod login;
mod login_lock;
mod methods;
mod notes;
mod relogin;
mod session;
mod wrap;
mod writer;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::unistd::{Pid, getpgrp};

use self::control::{Control, Watcher};
use self::login::LoggedIn;
use self::relogin::Relogin;
use crate::memory;
use crate::token::protocol::Greeting;

/// Runs the worker until the front lets it go.
///
/// # Errors
/// When what calls it is no front: the control socket is missing or broken. A
/// token that does not answer is no error here; the front is told.
pub fn run() -> io::Result<()> {
    hold_signals()?;
    // The front has the same limits, and has warned already.
    let _ = memory::lock();
    let mut control = Control::from_stdin()?;
    let (setup, sockets) = control.receive()?;
    if sockets.is_empty() {
        return Err(io::Error::other("no session socket was passed"));
    }
    let logged_in = Arc::new(AtomicBool::new(false));
    let has_successor = Arc::new(AtomicBool::new(false));
    let watch = (logged_in.clone(), has_successor.clone());
    die_with(control.watcher()?, watch, setup.profile.start_timeout)?;
    let relogin = Relogin::new(has_successor, control.teller()?);
    let LoggedIn { report, threads, pkcs11 } = match login::log_in(&setup, sockets.len(), relogin) {
        Ok(logged_in) => logged_in,
        Err(failure) => {
            control.greet(&Greeting::Failed(failure))?;
            return leave();
        }
    };
    let mut running = Vec::new();
    for (thread, socket) in threads.into_iter().zip(sockets) {
        let named = thread::Builder::new().name("session".to_owned());
        running.push(named.spawn(move || thread.run(socket))?);
    }
    logged_in.store(true, Ordering::Relaxed);
    // Follows the thread that forked us, so it is only the faster of two ways.
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    control.greet(&Greeting::Ready(report))?;
    for thread in running {
        // A thread that lost its socket has nobody left to tell.
        let _ = thread.join();
    }
    if setup.profile.finalize {
        let _ = pkcs11.finalize();
    }
    leave()
}

/// The front alone decides when a worker ends: a Ctrl-C or a `systemctl stop`
/// that reaches the whole group must not cut off jobs that are being drained.
fn hold_signals() -> io::Result<()> {
    let mut held = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        held.add(signal);
    }
    Ok(held.thread_block()?)
}

/// Ends this process when the front is gone, whatever the module does: at once
/// when it is logged in. A login in progress gets the time that it may take,
/// since SoftHSM rewrites its token at every login, and one that is killed in
/// the middle of that leaves no token.
fn die_with(
    mut front: Watcher,
    (logged_in, has_successor): (Arc<AtomicBool>, Arc<AtomicBool>),
    start_timeout: Duration,
) -> io::Result<()> {
    thread::Builder::new().name("front-watch".to_owned()).spawn(move || {
        front.wait_for_end(|| has_successor.store(true, Ordering::Relaxed));
        let began = Instant::now();
        while !logged_in.load(Ordering::Relaxed) && began.elapsed() < start_timeout {
            thread::sleep(Duration::from_millis(10));
        }
        let _ = leave();
    })?;
    Ok(())
}

/// Leaves at once. Modules are known to crash or hang in their exit handlers,
/// and there is nothing left that they could do for us. What the module has forked goes too.
fn leave() -> io::Result<()> {
    if getpgrp() == Pid::this() {
        killpg(getpgrp(), Signal::SIGKILL)?;
    }
    Ok(kill(Pid::this(), Signal::SIGKILL)?)
}
