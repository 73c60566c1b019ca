#![forbid(unsafe_code)]
//! `audit verify`: is the audit log as it was written?

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use super::{Exit, Failed};
use crate::audit::verify::Verifier;
use crate::audit::{HEAD_NAME, Head};
use crate::cli::{AuditCommand, Cli, Verify};
use crate::config::{Audit, AuditPlace};

/// How a file begins that gzip has made (RFC 1952, section 2.3.1).
const GZIP: &[u8] = &[0x1f, 0x8b];

pub(super) fn run(cli: &Cli, command: &AuditCommand) -> Result<Option<Exit>, Failed> {
    let AuditCommand::Verify(wanted) = command;
    // Before the files: a daemon goes on writing.
    let head = head(cli, wanted)?;
    let mut verifier = Verifier::new(head);
    for (number, path) in wanted.files.iter().enumerate() {
        let is_last = number + 1 == wanted.files.len();
        read(path, is_last, &mut verifier).map_err(|error| unreadable(path, &error))?;
    }
    let found = verifier.finish();
    cli.print(&found, &found)?;
    Ok((!found.intact).then_some(Exit::No))
}

/// The flag's, or that of the daemon whose log it is.
fn head(cli: &Cli, wanted: &Verify) -> Result<Option<Head>, Failed> {
    let path = wanted.head.clone().map_or_else(|| our_head(cli, wanted), |path| Ok(Some(path)))?;
    let Some(path) = path else { return Ok(None) };
    match Head::read(&path) {
        // The group that may read the log may not look into the daemon's directory.
        Err(error) if wanted.head.is_none() && error.kind() == io::ErrorKind::PermissionDenied => {
            let place = path.display();
            // The result tells as well that the end is not proven.
            let _ =
                writeln!(io::stderr(), "p11-kms: WARNING: the head is not used: {place}: {error}");
            Ok(None)
        }
        head => head.map(Some).map_err(|error| unreadable(&path, &error)),
    }
}

/// The head of the daemon of this node, if the log is its.
fn our_head(cli: &Cli, wanted: &Verify) -> Result<Option<PathBuf>, Failed> {
    let (audit, state_dir) = Audit::load(&cli.config, std::env::vars_os(), &cli.set)?;
    let Some(Audit { place: AuditPlace::File(ours), .. }) = audit else { return Ok(None) };
    let is_ours = wanted.files.last().is_some_and(|last| is_same(last, &ours));
    Ok(is_ours.then(|| state_dir.join(HEAD_NAME)))
}

/// The same file, by whatever name.
fn is_same(one: &Path, other: &Path) -> bool {
    let real = |path| fs::canonicalize(path).ok();
    one == other || real(one).is_some_and(|path| Some(path) == real(other))
}

fn read(path: &Path, is_last: bool, verifier: &mut Verifier) -> io::Result<()> {
    if path == Path::new("-") {
        // Whoever writes into a pipe ends it when all is written.
        return verifier.read("-", &mut io::stdin().lock());
    }
    let (name, mut source) = (path.display().to_string(), BufReader::new(File::open(path)?));
    if source.fill_buf()?.starts_with(GZIP) {
        let name = path.display();
        let what = format!("it is compressed: zcat {name} | p11-kms audit verify -");
        return Err(io::Error::other(what));
    }
    match is_last {
        true => verifier.read_last(&name, &mut source),
        false => verifier.read(&name, &mut source),
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Failed {
    Failed::new(Exit::Usage, format!("{}: {error}", path.display()))
}
