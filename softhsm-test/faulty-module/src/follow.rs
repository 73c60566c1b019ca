#![forbid(unsafe_code)]
//! The rules in force: those of the file, looked at anew when it has changed.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::rules::Rules;
use crate::say;
use crate::state::{Generation, Identity, State};

/// Rules with the version of the file that they come from.
pub(crate) struct Loaded {
    pub(crate) seen: Identity,
    pub(crate) generation: Generation,
    pub(crate) rules: Arc<Rules>,
}

/// Follows a rules file.
pub(crate) struct Follower {
    path: PathBuf,
    current: RwLock<Arc<Loaded>>,
    loading: Mutex<()>,
}

impl Follower {
    /// Nothing is read before it is asked for.
    pub(crate) fn new(directory: &Path) -> Self {
        let none = Loaded { seen: Identity::ABSENT, generation: 0, rules: Arc::default() };
        Self {
            path: directory.join("rules"),
            current: RwLock::new(Arc::new(none)),
            loading: Mutex::default(),
        }
    }

    /// The rules as they are now. It costs a `stat`, and more only when the file has changed.
    pub(crate) fn current(&self, state: &State) -> Arc<Loaded> {
        self.unchanged().unwrap_or_else(|| {
            let _one_at_a_time = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
            self.unchanged().unwrap_or_else(|| {
                let next = Arc::new(self.load(state));
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&next);
                next
            })
        })
    }

    fn last(&self) -> Arc<Loaded> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn unchanged(&self) -> Option<Arc<Loaded>> {
        let last = self.last();
        (last.seen == Identity::at(&self.path)).then_some(last)
    }

    /// The file is read under the lock: so no process gives a number to a version that has been
    /// replaced before, and generations only go up.
    fn load(&self, state: &State) -> Loaded {
        let last = self.last();
        let keep = |seen, problem: String| {
            say(&format!("{}: {problem}; the rules stay as they were", self.path.display()));
            Loaded { seen, generation: last.generation, rules: Arc::clone(&last.rules) }
        };
        let lock = state.lock();
        let (seen, text) = match read(&self.path) {
            Ok(found) => found,
            Err(error) => return keep(Identity::at(&self.path), error.to_string()),
        };
        match (text.parse::<Rules>(), lock) {
            (Err(problem), _) => keep(seen, problem.to_string()),
            (Ok(rules), Ok(lock)) => Loaded {
                seen,
                generation: state.generation_of(seen, &lock),
                rules: Arc::new(rules),
            },
            // The directory is being removed: there are no rules, and nobody left to count for.
            (Ok(rules), Err(_)) if seen == Identity::ABSENT => {
                Loaded { seen, generation: last.generation, rules: Arc::new(rules) }
            }
            (Ok(_), Err(error)) => keep(seen, format!("the file state cannot be locked: {error}")),
        }
    }
}

/// The text of the rules file, with its identity. No file is an empty one.
fn read(path: &Path) -> io::Result<(Identity, String)> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok((Identity::ABSENT, String::new()));
        }
        Err(error) => return Err(error),
    };
    let identity = Identity::of(&file.metadata()?);
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok((identity, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_rules_leave_the_old_ones_in_force() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(directory.path()).unwrap();
        let follower = Follower::new(directory.path());
        let write = |text: &str| std::fs::write(directory.path().join("rules"), text).unwrap();
        let number = || follower.current(&state).rules.calls.len();
        assert_eq!(number(), 0);
        write("* stray\n* hang");
        assert_eq!(number(), 2);
        let generation = follower.current(&state).generation;
        write("* stray\n* hangs");
        assert_eq!((number(), follower.current(&state).generation), (2, generation));
        write("* stray");
        assert_eq!(number(), 1);
        assert_eq!(follower.current(&state).generation, generation + 1);
        std::fs::remove_file(directory.path().join("rules")).unwrap();
        assert_eq!(number(), 0);
        directory.close().unwrap();
        assert_eq!(number(), 0);
    }

    #[test]
    fn two_that_follow_one_file_agree_on_the_generation() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(directory.path()).unwrap();
        let [one, other] = [(), ()].map(|()| Follower::new(directory.path()));
        for text in ["* stray", "* hang", "* stray times=2"] {
            std::fs::write(directory.path().join("rules"), text).unwrap();
            let generation = one.current(&state).generation;
            assert_eq!(other.current(&state).generation, generation, "{text}");
        }
    }
}
