#![forbid(unsafe_code)]
//! The commands that are about KEKs.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Subcommand, ValueEnum};

use super::EtcdArgs;

/// What can be done with KEKs.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Make the next generation on the token, never to be extracted.
    Generate {
        /// Its number, if it must be higher than the next one: where a KEK was lost, the
        /// daemons take only what comes after it.
        #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
        generation: Option<u32>,
    },
    /// Make the next generation if it is time, otherwise say so.
    Rotate {
        /// How old the newest KEK must be, such as 90d; without it any age will do.
        #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
        if_older_than: Option<Duration>,
    },
    /// Bring a KEK that was made elsewhere onto the token, as the next generation.
    Import(ImportKey),
    /// List the KEKs, also those that are gone.
    List,
    /// Destroy a KEK that no stored object needs any more.
    Destroy(Destroy),
}

/// The KEK that is to be destroyed, and how it is certain that nothing needs it.
#[derive(Debug, clap::Args)]
pub struct Destroy {
    /// Its generation.
    pub generation: u32,
    /// Which of them, where a generation was made twice.
    #[arg(long, value_name = "KEY_ID")]
    pub key_id: Option<String>,
    /// Do not look whether stored objects need it. Asks for the generation once more, on
    /// standard input.
    #[arg(long, conflicts_with_all = ["endpoints", "snapshot"])]
    pub without_usage_check: bool,
    /// Where the stored objects are.
    #[command(flatten)]
    pub etcd: EtcdArgs,
}

/// The KEK that comes from elsewhere.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "p11-kms key import <FILE> --wrapped-with <FORM> --unwrapping-key <LABEL>\n       \
                            p11-kms key import <FILE> --this-file-is-the-plain-key"
)]
pub struct ImportKey {
    /// The file that it is in; - reads standard input.
    pub file: PathBuf,
    /// How it is wrapped in the file.
    #[arg(long, value_name = "FORM", group = "form", required = true, requires = "unwrapping_key")]
    pub wrapped_with: Option<Wrapping>,
    /// CKA_LABEL of the RSA private key on the token that unwraps it.
    #[arg(long, value_name = "LABEL", conflicts_with = "this_file_is_the_plain_key")]
    pub unwrapping_key: Option<String>,
    /// The hash of RSA-OAEP and its MGF1.
    #[arg(long, default_value = "sha256", conflicts_with = "this_file_is_the_plain_key")]
    pub hash: Hash,
    /// It is not wrapped at all: 32 bytes, or 64 hex digits. Whoever has had this file can
    /// read everything that will ever be encrypted.
    #[arg(long, group = "form", required = true)]
    pub this_file_is_the_plain_key: bool,
}

/// How a KEK is wrapped for the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Wrapping {
    /// RSA-OAEP of the KEK (CKM_RSA_PKCS_OAEP).
    RsaOaep,
    /// RSA-OAEP of an AES key, then AES key wrap (RFC 5649) of the KEK under that
    /// (CKM_RSA_AES_KEY_WRAP).
    RsaAes,
}

/// A hash for RSA-OAEP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Hash {
    /// SHA-1, where a token knows nothing else.
    Sha1,
    /// SHA-256.
    Sha256,
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::cli::Cli;

    #[test]
    fn an_import_says_exactly_once_what_the_file_is() {
        let accepts = |line: &str| {
            let words = "p11-kms key import f".split(' ').chain(line.split_whitespace());
            Cli::try_parse_from(words).is_ok()
        };
        assert!(accepts("--this-file-is-the-plain-key"));
        assert!(accepts("--wrapped-with rsa-oaep --unwrapping-key u"));
        assert!(accepts("--wrapped-with rsa-aes --unwrapping-key u --hash sha1"));
        for wrong in [
            "",
            "--unwrapping-key u",
            "--wrapped-with rsa-oaep",
            "--wrapped-with rsa-oaep --unwrapping-key u --this-file-is-the-plain-key",
            "--this-file-is-the-plain-key --unwrapping-key u",
            "--this-file-is-the-plain-key --hash sha1",
            "--wrapped-with aes --unwrapping-key u",
        ] {
            assert!(!accepts(wrong), "{wrong}");
        }
    }
}
