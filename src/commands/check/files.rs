#![forbid(unsafe_code)]
//! The config, and the files that it names.
//!
//! A check of one more file is one more function here, called by [`check`].

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, access, geteuid};

use super::AS_THE_DAEMON;
use super::findings::Findings;
use crate::audit;
use crate::cli::{CheckId, Cli};
use crate::commands::token_access::records;
use crate::config::{AuditPlace, Config, PinError, Profile};
use crate::keyring::Record;
use crate::state::{StateDir, StateError};

/// Less room than this does not do for the next few lines, in bytes.
const NO_ROOM: u64 = 64 << 10;

/// Less room than this for an audit log is a warning, in bytes: some 100,000 lines.
const LITTLE_ROOM: u64 = 64 << 20;

/// As in the directory above a file: only owners may rename or remove what is in it.
const STICKY: u32 = 0o1000;

pub(super) fn check(cli: &Cli, config: &Config, daemon: u32, findings: &mut Findings<'_>) {
    unchanged(CheckId::ConfigFile, &cli.config, daemon, findings);
    profile(config, findings);
    profile_fit(config, findings);
    pin(config, findings);
    audit_log(config, daemon, findings);
    module(config, daemon, findings);
    match fs::read_link("/proc/self/exe") {
        Ok(path) => unchanged(CheckId::Binary, &path, daemon, findings),
        Err(error) => findings.warn(
            CheckId::Binary,
            format!("/proc/self/exe cannot be read: {error}"),
            "mount /proc: p11-kms starts its workers by it",
        ),
    }
}

fn profile(config: &Config, findings: &mut Findings<'_>) {
    let profile = &config.token.profile;
    if profile.verified {
        let message = format!("{} is tried by this project's tests", profile.name);
        findings.pass(CheckId::Profile, message);
    } else {
        findings.warn(
            CheckId::Profile,
            format!("{} follows documentation and was never tried by this project", profile.name),
            "try it with `p11-kms probe` before you rely on it, and tell us how it went",
        );
    }
    if config.token.allow_weak_kek {
        findings.warn(
            CheckId::WeakKek,
            "token.allow-weak-kek is set: a KEK that can leave the token is accepted",
            "remove it, unless this is a test",
        );
    } else {
        findings.pass(CheckId::WeakKek, "a KEK that can leave the token is refused");
    }
}

/// A profile for one module does not do for another, though a module may lie anywhere.
fn profile_fit(config: &Config, findings: &mut Findings<'_>) {
    let (module, profile) = (&config.token.module, &config.token.profile);
    let name = module.file_name();
    let is_for = |profile: &Profile| {
        profile.module_paths.iter().any(|path| Path::new(path).file_name() == name)
    };
    if is_for(profile) {
        let message = format!("{} is a module of profile {}", module.display(), profile.name);
        return findings.pass(CheckId::ProfileFit, message);
    }
    let others: Vec<&str> = Profile::built_in_names()
        .filter(|other| Profile::built_in(other).is_ok_and(|other| is_for(&other)))
        .collect();
    if !others.is_empty() {
        findings.warn(
            CheckId::ProfileFit,
            format!("{} is a module of profile {}", module.display(), others.join(" or ")),
            format!("set token.profile to that, unless {} suits it better", profile.name),
        );
    } else if profile.module_paths.is_empty() {
        let message = format!("{} is made for no module in particular", profile.name);
        findings.pass(CheckId::ProfileFit, message);
    } else {
        findings.warn(
            CheckId::ProfileFit,
            format!(
                "profile {} is made for {}, and token.module is {}",
                profile.name,
                profile.module_paths.join(" or "),
                module.display()
            ),
            "set token.profile to one for this module, or to generic",
        );
    }
}

/// Only a worker reads the PIN. Here it is enough that there is one.
fn pin(config: &Config, findings: &mut Findings<'_>) {
    let source = &config.token.pin;
    let looked = source.check().and_then(|()| {
        let path = source.path()?;
        let is_empty = fs::metadata(&path).is_ok_and(|found| found.len() == 0);
        if is_empty { Err(PinError::Empty(path)) } else { Ok(()) }
    });
    match looked {
        Ok(()) => findings.pass(CheckId::PinSource, "the PIN can be read, and by few"),
        Err(error) => findings.fail(
            CheckId::PinSource,
            error.to_string(),
            "let the user that serves read the PIN, and nobody else",
        ),
    }
}

/// A module that is not there at all is a matter of loading it.
fn module(config: &Config, daemon: u32, findings: &mut Findings<'_>) {
    let module = &config.token.module;
    if module.is_file() {
        unchanged(CheckId::ModuleFile, module, daemon, findings);
    } else {
        findings.untried(CheckId::ModuleFile, CheckId::Module);
    }
}

/// Who can change a file that decides what runs here, or put another in its place?
fn unchanged(id: CheckId, path: &Path, daemon: u32, findings: &mut Findings<'_>) {
    let shown = path.display();
    match who_may_change(path, daemon) {
        Ok(None) => findings.pass(id, format!("only root and uid {daemon} may change {shown}")),
        Ok(Some(Loose { path, by: By::Owner(owner) })) => findings.fail(
            id,
            format!("{} belongs to uid {owner}, who may change {shown}", path.display()),
            format!("give it to root: chown root {}", path.display()),
        ),
        Ok(Some(Loose { path, by: By::Group(gid) })) => findings.warn(
            id,
            format!("the group {gid} may write to {}, and so change {shown}", path.display()),
            format!("chmod g-w {}, unless you trust all of the group", path.display()),
        ),
        Ok(Some(Loose { path, by: By::All })) => findings.fail(
            id,
            format!("everybody may write to {}, and so change {shown}", path.display()),
            format!("chmod o-w {}", path.display()),
        ),
        Err(error) => findings.warn(
            id,
            format!("{shown} cannot be looked at: {error}"),
            "use a path that exists, with directories that the user that serves may enter",
        ),
    }
}

/// A file or a directory that somebody may write to.
struct Loose {
    path: PathBuf,
    by: By,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum By {
    Group(u32),
    Owner(u32),
    All,
}

/// The worst of the file and of the directories above it, links resolved. An ACL is not seen.
fn who_may_change(path: &Path, daemon: u32) -> io::Result<Option<Loose>> {
    let real = fs::canonicalize(path)?;
    let mut worst: Option<Loose> = None;
    for step in real.ancestors() {
        let found = fs::metadata(step)?;
        let safe = found.is_dir() && found.mode() & STICKY != 0;
        let by = if found.uid() != 0 && found.uid() != daemon {
            By::Owner(found.uid())
        } else if !safe && found.mode() & 0o002 != 0 {
            By::All
        } else if !safe && found.mode() & 0o020 != 0 && found.gid() != 0 {
            By::Group(found.gid())
        } else {
            continue;
        };
        if worst.as_ref().is_none_or(|worst| worst.by < by) {
            worst = Some(Loose { path: step.to_owned(), by });
        }
    }
    Ok(worst)
}

/// May we make a file or a directory in it?
fn can_make_in(directory: &Path) -> bool {
    access(directory, AccessFlags::W_OK | AccessFlags::X_OK).is_ok()
}

/// The daemon makes the file, and its directory must be there.
fn audit_log(config: &Config, daemon: u32, findings: &mut Findings<'_>) {
    let Some(audit) = &config.audit else {
        return findings.pass(CheckId::AuditLog, "audit.file is not set: there is none");
    };
    if let Err(error) = audit::look(&audit.place) {
        let remedy = "do what it says: without its audit log p11-kms does not start";
        return findings.fail(CheckId::AuditLog, error.to_string(), remedy);
    }
    let AuditPlace::File(path) = &audit.place else {
        return findings.pass(CheckId::AuditLog, "journald takes it");
    };
    let shown = path.display();
    let directory = path.parent().unwrap_or(Path::new("/"));
    if let Ok(Some(found)) = who_may_change(directory, daemon)
        && found.by == By::All
    {
        let place = found.path.display();
        let message = format!("everybody may write to {place}, and move the log away");
        return findings.fail(CheckId::AuditLog, message, format!("chmod go-w {place}"));
    }
    // Root may write anywhere; the daemon may not.
    let owner = fs::metadata(path).or_else(|_| fs::metadata(directory)).map(|found| found.uid());
    let free = statvfs(directory).map(|disk| disk.blocks_available() * disk.fragment_size());
    match (owner, free) {
        (Ok(owner), _) if owner != daemon && geteuid().is_root() => {
            let message = format!("{shown} belongs to uid {owner}, and the daemon is uid {daemon}");
            findings.warn(CheckId::AuditLog, message, AS_THE_DAEMON);
        }
        (_, Ok(free)) if free < NO_ROOM => findings.fail(
            CheckId::AuditLog,
            format!("the disk of {shown} is full"),
            "make room: calls are refused as audit.on-failure says",
        ),
        (_, Ok(free)) if free < LITTLE_ROOM => findings.warn(
            CheckId::AuditLog,
            format!("{} MB are left on the disk of {shown}", free >> 20),
            "make room: while it is full, calls are refused as audit.on-failure says",
        ),
        _ => findings.pass(CheckId::AuditLog, format!("{shown} can be written")),
    }
}

/// What the daemon remembers. The checks go on without it.
pub(super) fn state(config: &Config, findings: &mut Findings<'_>) -> Vec<(String, Record)> {
    const REMEDY: &str = "give the user that serves a directory of its own, with mode 0700";
    let path = &config.keyring.state_dir;
    let dir = path.display();
    let records = match records(config) {
        Ok(records) => records,
        Err(failed) => {
            let remedy = "do what it says, and compare `p11-kms key list` with another node";
            findings.fail(CheckId::State, failed.message, remedy);
            return Vec::new();
        }
    };
    match StateDir::open_existing(path) {
        Ok(_) => findings.pass(CheckId::State, format!("{dir} can be used")),
        Err(StateError::Io { error, .. })
            if error.kind() == ErrorKind::NotFound && path.parent().is_some_and(can_make_in) =>
        {
            let message = format!("{dir} is not there yet: the daemon makes it");
            findings.pass(CheckId::State, message);
        }
        // Root is not the daemon's user, whose directory it may well be.
        Err(StateError::Owner { owner, us: 0, .. }) => {
            findings.warn(CheckId::State, format!("{dir} belongs to uid {owner}"), AS_THE_DAEMON)
        }
        Err(error) => findings.fail(CheckId::State, error.to_string(), REMEDY),
    }
    records
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use nix::unistd::geteuid;

    use super::*;

    #[test]
    fn the_worst_step_is_told() {
        let temp = tempfile::tempdir().unwrap();
        let temp = fs::canonicalize(temp.path()).unwrap().join("sub");
        fs::create_dir_all(&temp).unwrap();
        let file = temp.join("file");
        fs::write(&file, "").unwrap();
        let set = |path: &Path, mode| {
            fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        };
        let us = geteuid().as_raw();
        let found = |daemon| who_may_change(&file, daemon).unwrap();
        set(&temp, 0o755);
        set(&file, 0o644);
        assert!(found(us).is_none());
        set(&file, 0o646);
        assert!(found(us).is_some_and(|it| it.by == By::All && it.path == file));
        set(&file, 0o644);
        set(&temp, 0o777);
        assert!(found(us).is_some_and(|it| it.by == By::All && it.path == temp));
        // Nobody else can rename what is in it.
        set(&temp, 0o1777);
        assert!(found(us).is_none());
        if us == 0 {
            std::os::unix::fs::chown(&file, Some(12345), Some(12345)).unwrap();
            assert!(found(0).is_some_and(|it| it.by == By::Owner(12345)));
            set(&file, 0o664);
            assert!(found(12345).is_some_and(|it| it.by == By::Group(12345)));
        }
        assert!(who_may_change(&temp.join("none"), us).is_err());
    }
}
