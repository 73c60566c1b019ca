#![forbid(unsafe_code)]
//! The module as a whole: what happens to a call on its way to the real module and back.

use std::env;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::sleep;

use cryptoki_sys::{CK_RV, CK_SESSION_HANDLE};

use crate::faults::Striker;
use crate::ffi::{Output, Real};
use crate::follow::{Follower, Loaded};
use crate::functions::Function;
use crate::mechanisms::Mechanisms;
use crate::pins::Pins;
use crate::state::State;
use crate::token::Token;

/// The variables of the environment that say what to do.
pub(crate) const MODULE: &str = "FAULTY_MODULE";
pub(crate) const CONTROL: &str = "FAULTY_CONTROL";
const MECHANISMS: &str = "FAULTY_MECHANISMS";

/// Why the module cannot serve.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("{MODULE} is not set: set it to the path of the real PKCS#11 module")]
    NoModule,
    #[error("{CONTROL} is not set: set it to a directory that exists")]
    NoControl,
    #[error("{CONTROL}={0} is no directory: make it first")]
    NoDirectory(PathBuf),
    #[error("{0}: {1}")]
    State(PathBuf, io::Error),
    #[error("{MODULE}={0}: {1}")]
    Real(PathBuf, LoadError),
    #[error("{MECHANISMS}: {0}")]
    Mechanisms(String),
}

/// Why a file cannot serve as the real module.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error("it cannot be loaded: {0}")]
    Open(String),
    #[error("it is a library, but has no C_GetFunctionList: name a PKCS#11 module")]
    NoEntry,
    #[error("it is this module itself: name the real one")]
    Ourselves,
    #[error("its C_GetFunctionList failed with CKR 0x{0:x}")]
    Entry(CK_RV),
}

/// The real module, and all that stands before it.
pub(crate) struct Module {
    pub(crate) real: Real,
    pub(crate) mechanisms: Mechanisms,
    pub(crate) token: Token,
    pub(crate) state: State,
    follower: Follower,
}

impl Module {
    /// Does what the environment says.
    pub(crate) fn open() -> Result<Self, OpenError> {
        let set = |name| env::var_os(name).filter(|value: &OsString| !value.is_empty());
        let real = PathBuf::from(set(MODULE).ok_or(OpenError::NoModule)?);
        let control = PathBuf::from(set(CONTROL).ok_or(OpenError::NoControl)?);
        if !control.is_dir() {
            return Err(OpenError::NoDirectory(control));
        }
        let mechanisms = set(MECHANISMS).unwrap_or_default();
        let mechanisms = mechanisms.to_string_lossy().parse().map_err(OpenError::Mechanisms)?;
        let state = State::open(&control)
            .map_err(|error| OpenError::State(control.join("state"), error))?;
        Ok(Self {
            real: load(&real)?,
            mechanisms,
            token: Token::default(),
            state,
            follower: Follower::new(&control),
        })
    }

    /// Passes a call on, or not. `session` is its first argument, if that is one; `output` what
    /// it gives out. `real` makes the real call.
    pub(crate) fn call(
        &self,
        function: Function,
        session: Option<CK_SESSION_HANDLE>,
        output: Output,
        real: impl FnOnce(&Loaded) -> CK_RV,
    ) -> CK_RV {
        self.state.count(function);
        let striker = Striker { state: &self.state, follower: &self.follower, token: &self.token };
        let loaded = self.rules();
        if let Some(answer) = striker.before(&loaded, function) {
            return answer;
        }
        if let Some(latency) = loaded.rules.token.latency.filter(|_| function.asks_device()) {
            sleep(latency);
        }
        // A call that was held up meets the token as it is now.
        let quiet = loaded.rules.calls.is_empty() && loaded.rules.token.latency.is_none();
        let loaded = if quiet { loaded } else { self.rules() };
        let answer = match self.token.admit(&loaded, &self.state, function, session, &self.real) {
            Ok(_admitted) => real(&loaded),
            Err(answer) => answer,
        };
        striker.after(&loaded, function, answer, output)
    }

    /// What becomes of PINs under these rules.
    pub(crate) fn pins<'a>(&'a self, loaded: &'a Loaded) -> Pins<'a> {
        Pins { rules: &loaded.rules.token, state: &self.state, real: &self.real }
    }

    /// The rules as they are now.
    fn rules(&self) -> Arc<Loaded> {
        self.follower.current(&self.state)
    }
}

fn load(path: &Path) -> Result<Real, OpenError> {
    Real::load(path).map_err(|error| OpenError::Real(path.to_owned(), error))
}
