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
use crate::state::{Identity, Snapshot};

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
    let name = format!("{}faulty_module{}", env::consts::DLL_PREFIX, env::consts::DLL_SUFFIX);
    folders.into_iter().flatten().map(|folder| folder.join(&name)).find(|path| path.is_file())
}
