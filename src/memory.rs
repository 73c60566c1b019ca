#![forbid(unsafe_code)]
//! Keeps this process's memory where it is: no core file, no debugger of the same
//! user, no swap.

use std::fs;
use std::hint::black_box;

use nix::errno::Errno;
use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::prctl;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};

/// `CAP_IPC_LOCK`, as a bit of `CapEff` (capabilities(7)).
const CAP_IPC_LOCK: u64 = 1 << 14;

/// `MCL_ONFAULT`: a page is locked when it is first used, so that the stacks of
/// threads do not fill memory (mlock(2); Linux 4.4).
const ON_FAULT: MlockAllFlags = MlockAllFlags::from_bits_retain(4);

/// How far down a stack is wiped, in bytes. What SoftHSM and OpenSSL leave lies in the first 8 kB.
const STACK: usize = 16 << 10;

/// No core dumps, and no way in for `ptrace` and `/proc/PID/mem` but root's. For
/// every command: each of them starts a worker or talks to the daemon.
///
/// # Errors
/// The kernel said no.
pub fn seal() -> Result<(), Errno> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    // A core that is piped to a program knows no limit, but it asks for this.
    prctl::set_dumpable(false)
}

/// Keeps all memory, now and later, out of swap.
///
/// # Errors
/// Why it is not locked, and what to do about it. It is a warning: the process
/// goes on.
pub fn lock() -> Result<(), String> {
    let told = |error: Errno| format!("memory is not locked, it could be swapped out: {error}");
    let (_, hard) = getrlimit(Resource::RLIMIT_MEMLOCK).map_err(told)?;
    if hard != RLIM_INFINITY && !may_lock_without_limit() {
        // With a limit, memory that is needed later could not be had where it is reached.
        return Err(format!(
            "memory is not locked, it could be swapped out: RLIMIT_MEMLOCK is {} kB. Set \
             LimitMEMLOCK=infinity (`ulimit -l unlimited`), or turn swap off",
            hard / 1024
        ));
    }
    if hard == RLIM_INFINITY {
        setrlimit(Resource::RLIMIT_MEMLOCK, hard, hard).map_err(told)?;
    }
    mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE | ON_FAULT).map_err(told)
}

/// Overwrites what calls that are over have left on this thread's stack: OpenSSL's key wrap leaves
/// a block of the seed there. It takes about as long as copying so much.
#[inline(never)]
pub fn wipe_stack() {
    let mut room = [0_u8; STACK];
    // Looked at by nobody, the array would not be made.
    black_box(&mut room);
}

fn may_lock_without_limit() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    // A capability within a user namespace lifts no limit: the host's is what counts.
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let on_the_host = map.split_whitespace().eq(["0", "0", "4294967295"]);
    on_the_host && effective_capabilities(&status).is_some_and(|set| set & CAP_IPC_LOCK != 0)
}

fn effective_capabilities(status: &str) -> Option<u64> {
    let hex = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(hex.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_as_proc_writes_them() {
        let status = "Name:\tp11-kms\nCapPrm:\t0000000000000000\nCapEff:\t0000000000004000\n";
        assert_eq!(effective_capabilities(status), Some(CAP_IPC_LOCK));
        assert_eq!(effective_capabilities("Name:\tp11-kms\n"), None);
        assert_eq!(effective_capabilities("CapEff:\tnonsense\n"), None);
    }
}
