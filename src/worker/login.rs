#![forbid(unsafe_code)]
//! From a path and a URI to logged-in sessions.

use std::ffi::CString;
use std::sync::Arc;
use std::time::Duration;

use cryptoki::context::{Info, Pkcs11};
use cryptoki::error::{Error as CryptokiError, RvError};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::{Slot, TokenInfo};
use secrecy::SecretBox;

use super::errors;
use super::ffi::{self, Module};
use super::keys::{self, Handles};
use super::login_lock::LoginLock;
use super::methods::{self, Methods};
use super::relogin::Relogin;
use super::session::{SessionThread, Shared};
use super::wrap::Tools;
use crate::config::{Login, PinError};
use crate::token::protocol::{Class, Failure, Report, Setup};

/// A login takes some 15 ms where logins take turns. Whoever holds the lock for much
/// longer is not logging in: anybody who can read the module can hold it, and must
/// not keep us down.
const PATIENCE: Duration = Duration::from_secs(1);

/// A module that is loaded, initialised and logged in.
pub(super) struct LoggedIn {
    pub(super) report: Report,
    pub(super) threads: Vec<SessionThread>,
    pub(super) pkcs11: Pkcs11,
}

/// Does all that must be done once per worker. Logs in at most once; what comes later is the
/// affair of `relogin`.
pub(super) fn log_in(
    setup: &Setup,
    sessions: usize,
    relogin: Relogin,
) -> Result<LoggedIn, Failure> {
    let module = load(setup)?;
    let turn = LoginLock::take(&setup.module, setup.profile.login_lock, PATIENCE);
    let pkcs11 = initialise(setup)?;
    let (slot, token) = choose_token(setup, &pkcs11)?;
    let mut warnings = match setup.profile.login {
        Login::User => guard_pin(&token, setup.login_in_doubt)?,
        Login::None => Vec::new(),
    };
    let methods = methods::choose(&module, slot.id(), &setup.profile, setup.require_fips)?;
    warnings.extend(turn.warning());
    if methods.kwp.is_none() {
        warnings.push(
            "no way to do RFC 5649 on this token: plaintexts whose length is no multiple of 8 \
             will be refused (kube-apiserver's seeds are not affected)"
                .to_owned(),
        );
    }
    let first = open(setup, &pkcs11, slot)?;
    authenticate(setup, &first)?;
    let report = report(&pkcs11, &token, &methods, warnings);
    let mut open_sessions = vec![first];
    while open_sessions.len() < sessions {
        open_sessions.push(open(setup, &pkcs11, slot)?);
    }
    let handles = Handles::default();
    if let Some(first) = open_sessions.first() {
        let profile = &setup.profile;
        let tools = Tools { module: &module, session: first.handle(), methods: &methods, profile };
        // Now, and not in the time of the first call. If it fails, the first call will tell.
        let _ = keys::find(&tools, first, &setup.label, &handles);
    }
    let shared = Arc::new(Shared {
        module,
        pkcs11: pkcs11.clone(),
        slot,
        methods,
        setup: setup.clone(),
        token_serial: report.token_serial.clone(),
        token,
        handles,
        login: relogin,
    });
    let threads = open_sessions
        .into_iter()
        .map(|session| SessionThread { shared: shared.clone(), session })
        .collect();
    Ok(LoggedIn { report, threads, pkcs11 })
}

fn load(setup: &Setup) -> Result<Module, Failure> {
    Module::load(&setup.module).map_err(|error| {
        let path = setup.module.display();
        let mut message = format!("token.module {path}: {error}");
        if let Some(known) = setup.profile.module_paths.first() {
            message.push_str(&format!(
                ". With profile \"{}\" it is usually {known}",
                setup.profile.name
            ));
        }
        Failure::new(Class::Module, message)
    })
}

fn initialise(setup: &Setup) -> Result<Pkcs11, Failure> {
    let failed = |error: &CryptokiError| {
        let found = errors::from_cryptoki(error, "starting the module", &setup.profile);
        let message = format!(
            "{}. Does it find its own configuration (environment variables, files, daemons)?",
            found.message
        );
        Failure::new(found.class, message)
    };
    let pkcs11 = Pkcs11::new(&setup.module).map_err(|error| failed(&error))?;
    let reserved = match &setup.profile.init_args {
        Some(text) => Some(CString::new(text.as_str()).map_err(|_| {
            Failure::new(Class::Module, "token.init-args holds a NUL byte, which C cannot take")
        })?),
        None => None,
    };
    let args = ffi::initialize_args(setup.profile.os_locking, reserved);
    match pkcs11.initialize(args) {
        Ok(()) => Ok(pkcs11),
        Err(error) => Err(failed(&error)),
    }
}

fn choose_token(setup: &Setup, pkcs11: &Pkcs11) -> Result<(Slot, TokenInfo), Failure> {
    let lost = |error| errors::from_cryptoki(&error, "looking for the token", &setup.profile);
    let mut there = Vec::new();
    let mut matching = Vec::new();
    for slot in pkcs11.get_slots_with_token().map_err(lost)? {
        // A slot whose token cannot be read is not the one we want.
        let Ok(token) = pkcs11.get_token_info(slot) else {
            continue;
        };
        if !token.token_initialized() {
            continue;
        }
        there.push(describe(slot, &token));
        let is_it = setup.uri.matches(
            token.label(),
            token.serial_number(),
            token.manufacturer_id(),
            token.model(),
            slot.id(),
        );
        if is_it {
            matching.push((slot, token));
        }
    }
    let here = if there.is_empty() {
        "the module shows no initialised token".to_owned()
    } else {
        format!("the module shows {}", there.join("; "))
    };
    let uri = &setup.uri;
    match matching.len() {
        1 => matching.pop().ok_or_else(|| Failure::new(Class::NoToken, here)),
        0 => Err(Failure::new(
            Class::NoToken,
            format!("no token matches token.uri \"{uri}\": {here}"),
        )),
        count => Err(Failure::new(
            Class::NoToken,
            format!(
                "{count} tokens match token.uri \"{uri}\": {here}. Add serial= or slot-id= to the URI"
            ),
        )),
    }
}

fn describe(slot: Slot, token: &TokenInfo) -> String {
    format!(
        "token \"{}\" (serial {}, model {}, manufacturer {}, slot-id {})",
        token.label(),
        token.serial_number(),
        token.model(),
        token.manufacturer_id(),
        slot.id()
    )
}

/// Looks at the token's PIN counter before a login could make it worse.
///
/// After a login whose end nobody saw, a counter that is low may be ours.
pub(super) fn guard_pin(token: &TokenInfo, in_doubt: bool) -> Result<Vec<String>, Failure> {
    if in_doubt && token.user_pin_count_low() {
        return Err(Failure::new(
            Class::PinAtRisk,
            "the last login did not come back, and a wrong PIN was counted (CKF_USER_PIN_COUNT_LOW), so \
             no other was tried. Make sure that the PIN is right, then send SIGHUP (with token.pin-credential: restart)",
        ));
    }
    if token.user_pin_locked() {
        return Err(Failure::new(
            Class::PinAtRisk,
            "the user PIN is locked (CKF_USER_PIN_LOCKED). Unlock it with the SO PIN, then send SIGHUP \
             (with token.pin-credential: restart)",
        ));
    }
    if token.user_pin_final_try() {
        return Err(Failure::new(
            Class::PinAtRisk,
            "one more wrong PIN would lock the token (CKF_USER_PIN_FINAL_TRY), so no login was tried. \
             Log in once by hand with the right PIN, and see that p11-kms has it; then send SIGHUP (with \
             token.pin-credential: restart)",
        ));
    }
    let mut warnings = Vec::new();
    if token.user_pin_count_low() {
        warnings.push("a wrong PIN was tried before (CKF_USER_PIN_COUNT_LOW)".to_owned());
    }
    if token.user_pin_to_be_changed() {
        warnings.push("the token asks for a new user PIN (CKF_USER_PIN_TO_BE_CHANGED)".to_owned());
    }
    Ok(warnings)
}

/// Opens a session of the kind that the profile asks for.
pub(super) fn open(setup: &Setup, pkcs11: &Pkcs11, slot: Slot) -> Result<Session, Failure> {
    let session = if setup.profile.read_write_sessions {
        pkcs11.open_rw_session(slot)
    } else {
        pkcs11.open_ro_session(slot)
    };
    session.map_err(|error| errors::from_cryptoki(&error, "opening a session", &setup.profile))
}

/// Logs in, once.
pub(super) fn authenticate(setup: &Setup, session: &Session) -> Result<(), Failure> {
    if setup.profile.login == Login::None {
        return Ok(());
    }
    let pin = setup
        .pin
        .read()
        .map_err(|error: PinError| Failure::new(Class::PinSource, error.to_string()))?;
    // The front remembers by this what has been tried. After the read: it is this one's.
    if setup.pin_stamp.is_some() && setup.pin.stamp() != setup.pin_stamp {
        return Err(Failure::new(Class::TokenLost, "the PIN's file has just changed"));
    }
    let user = match setup.profile.login_user_type {
        None => UserType::User,
        Some(number) => UserType::VendorExtension(u32::try_from(number).map_err(|_| {
            Failure::new(
                Class::Refused,
                format!("token.login-user-type {number} is no CKU_ number"),
            )
        })?),
    };
    let pin = SecretBox::new(Box::new(pin.expose().to_vec()));
    match session.login_with_raw(user, &pin) {
        Ok(()) | Err(CryptokiError::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(()),
        Err(error) => {
            let class = errors::login_class(&error, &setup.profile);
            let failure = errors::from_cryptoki(&error, "logging in", &setup.profile);
            if !class.latches() {
                return Err(Failure::new(class, failure.message));
            }
            let message = format!(
                "{}. Correct the PIN where token.pin-file or token.pin-credential says. The daemon \
                 will not try this PIN again; a changed PIN file or SIGHUP starts a new attempt, \
                 and so does every command by hand",
                failure.message
            );
            Err(Failure::new(class, message))
        }
    }
}

fn report(pkcs11: &Pkcs11, token: &TokenInfo, methods: &Methods, warnings: Vec<String>) -> Report {
    Report {
        library: pkcs11
            .get_library_info()
            .map_or_else(|_| "unknown".to_owned(), |info| library(&info)),
        token_label: token.label().to_owned(),
        token_serial: token.serial_number().to_owned(),
        token_model: token.model().to_owned(),
        token_manufacturer: token.manufacturer_id().to_owned(),
        kw: methods.kw.method,
        kwp: methods.kwp.map(|route| route.method),
        warnings,
    }
}

fn library(info: &Info) -> String {
    format!(
        "{} {} ({})",
        info.library_description(),
        info.library_version(),
        info.manufacturer_id()
    )
}
