#![forbid(unsafe_code)]
//! `key import`: the next generation, made elsewhere.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use zeroize::Zeroizing;

use super::new::{introduce, next_generation, shown};
use super::trail::Trail;
use crate::cli::{Cli, Hash, ImportKey, Wrapping};
use crate::commands::token_access::{Access, PATIENCE};
use crate::commands::{Exit, Failed};
use crate::config::Config;
use crate::config::pin::{open_secret, read_short};
use crate::memory;
use crate::token::Error;
use crate::token::protocol::{Class, Import, ImportForm, OaepHash, UnwrappingKey};

/// Longest file, in bytes. With an RSA key of 16,384 bits it has 2,088.
const LONGEST: usize = 4096;

/// For tokens that keep no record.
const REMEDY: &str = "set token.allow-imported-kek = true on every node and reload the daemons";

pub(super) async fn import(
    cli: &Cli,
    config: &Config,
    access: &Access,
    trail: &Trail,
    wanted: &ImportKey,
) -> Result<(), Failed> {
    let form = form(wanted)?;
    let is_plain = form == ImportForm::Plain;
    if is_plain && config.token.require_fips {
        return Err(Failed::new(
            Exit::Refused,
            "token.require-fips allows no key that lies open on the host: wrap it for the token \
             (--wrapped-with)",
        ));
    }
    if !config.token.profile.data_objects && !config.token.allow_imported_kek {
        return Err(Failed::new(
            Exit::Usage,
            format!("this token cannot tell the daemons of the import: {REMEDY}, then try again"),
        ));
    }
    // The worker has the same limits, and locks what it can.
    let _ = memory::lock();
    let file = read(&wanted.file, is_plain)?;
    access.open().await?;
    let generation = next_generation(access, &config.keyring.label, None)?;
    let label = generation.label(&config.keyring.label);
    trail.about(generation, None);
    trail.begin().await?;
    let import = Import { label, form };
    let made = access.client.import(&import, &file, PATIENCE).await.map_err(|error| {
        let label = &import.label;
        let message = match &error {
            Error::Failed(failure) if failure.class == Class::Refused => {
                format!("KEK \"{label}\" was not imported: {failure}")
            }
            error => format!(
                "KEK \"{label}\": {error}. `p11-kms key list` shows whether it was imported"
            ),
        };
        Failed::new(Exit::Unreachable, message)
    })?;
    trail.made(&made);
    drop(file);
    if is_plain {
        warn(&wanted.file);
    }
    if let Err(error) = introduce(access, &made, true).await
        && !config.token.allow_imported_kek
    {
        let message = format!(
            "KEK \"{}\" is on the token, but the daemons refuse it, since the token's record does \
             not tell of the import ({error}): {REMEDY}",
            made.label
        );
        return Err(Failed::new(Exit::Unreachable, message));
    }
    let line = shown(access, &made).await?;
    cli.print(line.told("imported"), &line)
}

fn form(wanted: &ImportKey) -> Result<ImportForm, Failed> {
    let Some(wrapping) = wanted.wrapped_with else { return Ok(ImportForm::Plain) };
    let label = wanted.unwrapping_key.clone().ok_or_else(|| {
        Failed::new(Exit::Usage, "--wrapped-with needs --unwrapping-key, the RSA key on the token")
    })?;
    let hash = match wanted.hash {
        Hash::Sha1 => OaepHash::Sha1,
        Hash::Sha256 => OaepHash::Sha256,
    };
    let key = UnwrappingKey { label, hash };
    Ok(match wrapping {
        Wrapping::RsaOaep => ImportForm::RsaOaep(key),
        Wrapping::RsaAes => ImportForm::RsaAes(key),
    })
}

/// Reads the file. A plain key in it is as secret as a PIN.
fn read(path: &Path, is_plain: bool) -> Result<Zeroizing<Vec<u8>>, Failed> {
    let shown = path.display();
    let failed = |error: io::Error| Failed::new(Exit::Usage, format!("key file {shown}: {error}"));
    let mut source: Box<dyn Read> = if path == Path::new("-") {
        Box::new(UnbufferedStdin)
    } else if is_plain {
        let file = open_secret("key file", path).map_err(|it| Failed::new(Exit::Usage, it))?;
        Box::new(file)
    } else {
        Box::new(File::open(path).map_err(failed)?)
    };
    let bytes = read_short(&mut source, LONGEST).map_err(failed)?;
    if bytes.is_empty() || bytes.len() > LONGEST {
        let message = format!("key file {shown}: it must have 1 to {LONGEST} bytes");
        return Err(Failed::new(Exit::Usage, message));
    }
    Ok(bytes)
}

/// Standard input without the buffer of the standard library, which nobody wipes.
struct UnbufferedStdin;

impl Read for UnbufferedStdin {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        Ok(nix::unistd::read(io::stdin(), into)?)
    }
}

fn warn(path: &Path) {
    let place = match path.to_str() {
        Some("-") => "where it came from".to_owned(),
        _ => format!("in {}", path.display()),
    };
    // The import is done, whether somebody listens or not.
    let _ = writeln!(
        io::stderr(),
        "p11-kms: WARNING: the key still is {place}: destroy it there. Whoever had it can read \
         every secret that is encrypted under this KEK"
    );
}
