#![forbid(unsafe_code)]
//! The other side: for tests that steer a module and look at what it counts.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use crate::functions::Function;
use crate::module;
use crate::rules::{RuleError, Rules};
use crate::state::{Identity, Snapshot, State};

/// A control directory.
#[derive(Clone, Debug)]
pub struct Control {
    directory: PathBuf,
}

/// Why rules are not in force.
#[derive(Debug, thiserror::Error)]
pub enum SetError {
    /// They are no rules.
    #[error("these are no rules: {0}")]
    Rules(#[from] RuleError),
    /// They cannot be written.
    #[error("the rules cannot be written: {0}")]
    Io(#[from] io::Error),
}

impl Control {
    /// Uses a directory, and makes it if it is not there.
    ///
    /// # Errors
    /// It cannot be made, or found.
    pub fn new(directory: impl AsRef<Path>) -> io::Result<Self> {
        fs::create_dir_all(&directory)?;
        Ok(Self { directory: fs::canonicalize(directory)? })
    }

    /// Puts rules in force, in the place of all that were. From the next call on, every process
    /// obeys them.
    ///
    /// # Errors
    /// The text is wrong, and the old rules stay; or it cannot be written.
    pub fn set(&self, rules: &str) -> Result<(), SetError> {
        rules.parse::<Rules>()?;
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let next = self.directory.join(format!("rules.{}.{number}", std::process::id()));
        let mut file = File::create_new(&next)?;
        file.write_all(rules.as_bytes())?;
        // A file system stamps all files of a tick alike, and gives a freed inode to the next
        // file: by our clock, no two versions look the same.
        file.set_modified(SystemTime::now())?;
        fs::rename(next, self.rules())?;
        Ok(())
    }

    /// Takes all rules away: the module behaves.
    ///
    /// # Errors
    /// The rules file cannot be replaced.
    pub fn clear(&self) -> Result<(), SetError> {
        self.set("")
    }

    /// The environment of a process that is to load the module, in front of the real one.
    pub fn environment(&self, real: &Path) -> [(&'static str, PathBuf); 2] {
        [(module::MODULE, real.to_owned()), (module::CONTROL, self.directory.clone())]
    }

    /// How often a function was called, by all processes together. 0 for a name that is none, and
    /// as long as no process has loaded the module.
    pub fn count(&self, function: &str) -> u64 {
        Function::named(function).map_or(0, |function| self.look().calls(function))
    }

    /// How often each function was called; those that were not are left out.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        let seen = self.look();
        let all = Function::ALL.iter().map(|function| (function.name(), seen.calls(*function)));
        all.filter(|(_, count)| *count > 0).collect()
    }

    /// Sets all counts to 0, those of wrong PINs too: a token that they have locked is open again.
    /// Strikes stay as they are; they begin at 0 with new rules.
    ///
    /// # Errors
    /// The counts are in a file that cannot be opened, or comes from another version.
    pub fn reset_counts(&self) -> io::Result<()> {
        State::open(&self.directory).map(|state| state.reset())
    }

    /// How many PINs were wrong.
    pub fn failed_pins(&self) -> u64 {
        self.look().failed_pins()
    }

    /// How often the rules that are in force now have struck. It is counted just before a fault
    /// shows: who waits for it may then kill a process that hangs.
    pub fn strikes(&self) -> u64 {
        self.look().strikes(Identity::at(&self.rules()))
    }

    /// A state that cannot be read is one in which nothing was counted.
    fn look(&self) -> Snapshot {
        Snapshot::read(&self.directory).unwrap_or_default()
    }

    fn rules(&self) -> PathBuf {
        self.directory.join("rules")
    }
}

/// Where the module is: the shared library that cargo has built for the running program, which
/// depends on this crate. `None` if it is not there.
pub fn library() -> Option<PathBuf> {
    let program = env::current_exe().ok()?;
    let beside = program.parent()?;
    // Tests are in `deps` themselves, programs above it, examples beside it. What lies above may
    // be older than what lies in `deps`.
    let folders = [
        Some(beside.join("deps")),
        Some(beside.to_owned()),
        beside.parent().map(|above| above.join("deps")),
    ];
    folders.into_iter().flatten().find_map(|folder| newest(&folder))
}

/// The library in a folder. Cargo puts a hash into its name when the crate comes from git or from
/// a registry, and leaves those of other versions there.
fn newest(folder: &Path) -> Option<PathBuf> {
    let files = fs::read_dir(folder).ok()?.flatten().filter(|file| {
        file.file_name().to_str().is_some_and(|name| {
            let name = name.strip_prefix(env::consts::DLL_PREFIX);
            let stem = name.and_then(|name| name.strip_suffix(env::consts::DLL_SUFFIX));
            let rest = stem.and_then(|stem| stem.strip_prefix("faulty_module"));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        })
    });
    let dated = files.filter_map(|file| Some((file.metadata().ok()?.modified().ok()?, file)));
    dated.max_by_key(|(modified, _)| *modified).map(|(_, file)| file.path())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_newest_library_is_taken_whether_or_not_its_name_has_a_hash() {
        let directory = tempfile::tempdir().unwrap();
        let age = |name: &str, seconds| {
            let path = directory.path().join(name);
            let file = File::options().write(true).create(true).truncate(true).open(&path);
            file.unwrap()
                .set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
                .unwrap();
            path
        };
        assert_eq!(newest(directory.path()), None);
        age("libfaulty_module-0123.rlib", 9);
        age("libfaulty_modules.so", 9);
        age("faulty_module-0123.d", 9);
        assert_eq!(newest(directory.path()), None);
        let hashed = age("libfaulty_module-0123.so", 2);
        assert_eq!(newest(directory.path()), Some(hashed));
        let plain = age("libfaulty_module.so", 3);
        age("libfaulty_module-4567.so", 1);
        assert_eq!(newest(directory.path()), Some(plain));
        assert_eq!(newest(&directory.path().join("nowhere")), None);
    }
}
