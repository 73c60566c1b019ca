#![forbid(unsafe_code)]
//! The host: memory, swap, limits, the clock.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit};

use super::findings::Findings;
use crate::cli::{CheckId, Cli};
use crate::config::Config;
use crate::memory;

/// Descriptors beside those of connections and workers: the log, files, the runtime's own.
const OTHER_DESCRIPTORS: u64 = 64;

/// How far file systems may be ahead of us.
const SLACK: Duration = Duration::from_secs(120);

pub(super) fn check(cli: &Cli, config: &Config, findings: &mut Findings<'_>) {
    memory(findings);
    core_dumps(findings);
    descriptors(config, findings);
    let exe = fs::read_link("/proc/self/exe").unwrap_or_default();
    clock(&[&exe, &cli.config], findings);
}

/// As `serve` does it, so with the limits of whoever runs this.
fn memory(findings: &mut Findings<'_>) {
    let locked = memory::lock();
    let areas = swap_areas(&fs::read_to_string("/proc/swaps").unwrap_or_default());
    let bare: Vec<String> = areas.iter().filter(|area| !is_safe(area)).cloned().collect();
    match &locked {
        Ok(()) => findings.pass(CheckId::MemoryLock, "memory can be locked"),
        Err(_) if areas.is_empty() => {
            findings.pass(CheckId::MemoryLock, "memory cannot be locked, and there is no swap");
        }
        Err(error) => findings.warn(
            CheckId::MemoryLock,
            error.clone(),
            "set LimitMEMLOCK=infinity in the unit. A shell has limits of its own: as ExecStartPre \
             this sees those of the unit",
        ),
    }
    if areas.is_empty() {
        findings.pass(CheckId::Swap, "there is no swap");
    } else if bare.is_empty() {
        findings.pass(CheckId::Swap, "all swap is encrypted or in memory");
    } else if locked.is_ok() {
        findings.pass(CheckId::Swap, "there is swap, and memory can be locked");
    } else {
        findings.warn(
            CheckId::Swap,
            format!("there is swap in the clear on {}, and memory is not locked", bare.join(", ")),
            "let memory be locked (LimitMEMLOCK=infinity), turn swap off, or encrypt it",
        );
    }
}

/// The first column of /proc/swaps, without its head.
fn swap_areas(swaps: &str) -> Vec<String> {
    let areas = swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    areas.map(str::to_owned).collect()
}

/// Does an area leave nothing in the clear on a disk? dm-crypt says so in its uuid, and a
/// compressed area in memory is on no disk.
fn is_safe(area: &str) -> bool {
    let real = fs::canonicalize(area).unwrap_or_else(|_| PathBuf::from(area));
    let Some(name) = real.file_name().and_then(|name| name.to_str()) else { return false };
    let uuid = fs::read_to_string(format!("/sys/class/block/{name}/dm/uuid")).unwrap_or_default();
    name.starts_with("zram") || uuid.starts_with("CRYPT-")
}

/// Every command of ours sees to this itself, before it does anything else.
fn core_dumps(findings: &mut Findings<'_>) {
    let limit = getrlimit(Resource::RLIMIT_CORE);
    if limit == Ok((0, 0)) && prctl::get_dumpable() == Ok(false) {
        findings.pass(CheckId::CoreDumps, "no core is dumped, and no debugger but root's gets in");
    } else {
        findings.fail(
            CheckId::CoreDumps,
            format!("the limit of cores is {limit:?}, or the process can be dumped"),
            "see which sandbox or tracer keeps p11-kms from prctl(2) and setrlimit(2)",
        );
    }
}

fn descriptors(config: &Config, findings: &mut Findings<'_>) {
    let profile = &config.token.profile;
    // Each worker has its control socket, and one may be replaced.
    let workers = (profile.workers + 1) * (profile.sessions + 1);
    let wanted = (config.server.max_connections + workers) as u64 + OTHER_DESCRIPTORS;
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((limit, _)) if limit < wanted => findings.warn(
            CheckId::Descriptors,
            format!("{limit} files may be open, and {wanted} are needed at most"),
            format!("set LimitNOFILE={wanted} in the unit, or a lower server.max-connections"),
        ),
        Ok((limit, _)) => {
            let message = format!("{limit} files may be open, and {wanted} are needed at most");
            findings.pass(CheckId::Descriptors, message);
        }
        Err(error) => findings.warn(
            CheckId::Descriptors,
            format!("the limit cannot be read: {error}"),
            "see which sandbox keeps p11-kms from getrlimit(2)",
        ),
    }
}

/// Nobody asks a server for the time here. A clock that is behind files that were written
/// before is wrong for sure.
fn clock(files: &[&Path], findings: &mut Findings<'_>) {
    let now = SystemTime::now();
    let later = files.iter().find(|file| {
        let written = fs::metadata(file).and_then(|found| found.modified());
        written.is_ok_and(|written| written > now + SLACK)
    });
    match later {
        None => findings.pass(CheckId::Clock, "it is not behind the files that are here"),
        Some(file) => findings.warn(
            CheckId::Clock,
            format!("the clock is behind: {} is from the future", file.display()),
            "set the clock, and keep it right with NTP: ages of KEKs and logs depend on it",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swap_is_read_as_proc_writes_it() {
        let head = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";
        assert!(swap_areas("").is_empty() && swap_areas(head).is_empty());
        let areas =
            swap_areas(&format!("{head}/dev/zram0  partition 1 0 100\n/swap  file 1 0 -2\n"));
        assert_eq!(areas, ["/dev/zram0", "/swap"]);
        assert!(is_safe("/dev/zram0") && !is_safe("/swap"));
    }
}
