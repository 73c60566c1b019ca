#![allow(unsafe_code, reason = "the one file where foreign code is called, and calls us")]
#![allow(non_snake_case, reason = "the functions have the names of the standard")]
//! The functions that a program calls, and the calls to the real module.
//!
//! Every function of the list comes in here, says what it is about, and goes to
//! [`Module::call`], which decides. Nothing is decided here. It is long since all that is unsafe is
//! in it: the way to the real module, our functions, how a program finds them, what a call gives
//! out, and what only the operating system can do.

use std::ffi::{CStr, c_void};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::ptr;
use std::slice;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use cryptoki_sys::*;

use crate::editions::{Edition, NAME};
use crate::functions::{Function, for_each_function};
use crate::module::{LoadError, Module};
use crate::say;

static MODULE: OnceLock<Module> = OnceLock::new();

/// The functions of the real module.
pub(crate) struct Real {
    /// Those of its newest edition; what it does not have is `None`.
    list: CK_FUNCTION_LIST_3_2,
    /// The editions that it offers.
    editions: Vec<Edition>,
    // Keeps the library mapped as long as `list` points into it.
    _library: Pkcs11,
}

/// Makes a real call, or answers `CKR_FUNCTION_NOT_SUPPORTED`.
macro_rules! real {
    ($real:expr, $name:ident ( $($argument:expr),* $(,)? )) => {
        match $real.list.$name {
            // SAFETY: the pointer comes from the real module's function list, and its library is
            // never unloaded. The arguments are those of our caller, who answers for them as if
            // there were nothing between, or numbers.
            Some(function) => unsafe { function($($argument),*) },
            None => CKR_FUNCTION_NOT_SUPPORTED,
        }
    };
}
impl Real {
    /// Loads the real module.
    pub(crate) fn load(path: &Path) -> Result<Self, LoadError> {
        // SAFETY: loading runs foreign code, which is what this module is asked for.
        let library =
            unsafe { Pkcs11::new(path) }.map_err(|error| LoadError::Open(error.to_string()))?;
        let entry = *library.C_GetFunctionList.as_ref().map_err(|_| LoadError::NoEntry)?;
        if ptr::fn_addr_eq(entry, C_GetFunctionList as unsafe extern "C" fn(_) -> _) {
            return Err(LoadError::Ourselves);
        }
        let mut first = ptr::null_mut();
        // SAFETY: the symbol has the type that PKCS#11 gives it, and `first` is a live pointer
        // that the call fills in.
        let code = unsafe { entry(&raw mut first) };
        if code != CKR_OK || first.is_null() {
            return Err(LoadError::Entry(code));
        }
        let mut found = vec![(Edition::V2, first.cast_const().cast())];
        found.extend(interfaces(&library).iter().filter_map(newer));
        found.sort_by_key(|(edition, _)| *edition);
        let mut list = CK_FUNCTION_LIST_3_2::default();
        if let Some((edition, newest)) = found.last() {
            let size = edition.size();
            // SAFETY: the module says that a list of this edition is there, which lives as long
            // as the library is mapped. The lists of all editions begin alike, and `list` is of
            // the longest.
            unsafe { ptr::copy_nonoverlapping(*newest, (&raw mut list).cast::<u8>(), size) };
        }
        let mut editions: Vec<_> = found.into_iter().map(|(edition, _)| edition).collect();
        editions.dedup();
        Ok(Self { list, editions, _library: library })
    }

    /// Takes all sessions with a slot away. That it cannot is no matter: they count as dead.
    pub(crate) fn close_all_sessions(&self, slot: CK_SLOT_ID) {
        real!(self, C_CloseAllSessions(slot));
    }

    /// Ends a login, if there is one.
    pub(crate) fn logout(&self, session: CK_SESSION_HANDLE) {
        real!(self, C_Logout(session));
    }

    /// Who is logged in: a `CKS_` number, or why it cannot be said.
    pub(crate) fn session_state(&self, session: CK_SESSION_HANDLE) -> Result<CK_STATE, CK_RV> {
        let mut info = CK_SESSION_INFO::default();
        match real!(self, C_GetSessionInfo(session, &raw mut info)) {
            CKR_OK => Ok(info.state),
            code => Err(code),
        }
    }
}

/// The interfaces that a module offers: none before 3.0.
fn interfaces(library: &Pkcs11) -> Vec<CK_INTERFACE> {
    let Ok(list) = library.C_GetInterfaceList.as_ref() else { return Vec::new() };
    let mut count: CK_ULONG = 0;
    // SAFETY: the symbol has the type that PKCS#11 gives it. Without a place for them, it only
    // counts the interfaces.
    if unsafe { list(ptr::null_mut(), &raw mut count) } != CKR_OK {
        return Vec::new();
    }
    let mut found = vec![CK_INTERFACE::default(); usize::try_from(count).unwrap_or(0)];
    // SAFETY: there is room for as many as `count` says.
    match unsafe { list(found.as_mut_ptr(), &raw mut count) } {
        CKR_OK => found,
        _ => Vec::new(),
    }
}

/// The edition after 2.40 that an interface has, if it is one of PKCS#11 itself, and where its
/// functions are.
fn newer(interface: &CK_INTERFACE) -> Option<(Edition, *const u8)> {
    if interface.pInterfaceName.is_null() || interface.pFunctionList.is_null() {
        return None;
    }
    // SAFETY: not null, so it is a text that ends with a 0, as the standard has it.
    let name = unsafe { CStr::from_ptr(interface.pInterfaceName.cast()) };
    if name != NAME {
        return None;
    }
    // SAFETY: not null, and the function lists of this name begin with their version.
    let version = unsafe { *interface.pFunctionList.cast::<CK_VERSION>() };
    Some((Edition::newer(version)?, interface.pFunctionList.cast_const().cast()))
}

/// Passes a call on by way of [`Module::call`]: as it is, or with what else must be done.
macro_rules! pass {
    ($name:ident ( $($argument:expr),* ), $session:expr, $output:expr) => {
        pass!($name, $session, $output, |module, _loaded| real!(module.real, $name($($argument),*)))
    };
    ($name:ident, $session:expr, $output:expr, |$module:ident, $loaded:ident| $real:expr) => {
        match MODULE.get() {
            Some($module) => {
                $module.call(Function::$name, $session, $output, |$loaded| $real)
            }
            None => CKR_GENERAL_ERROR,
        }
    };
}

/// The functions that are passed on as they are.
macro_rules! wrappers {
    ($({$($kind:ident $name:ident $(($($arguments:tt)*))?;)*})*) => {
        $($(wrappers!(@ $kind $name $(($($arguments)*))?);)*)*
    };
    (@ own $name:ident) => {};
    (@ global $name:ident ($($argument:ident: $type:ty),*)) => {
        unsafe extern "C" fn $name($($argument: $type),*) -> CK_RV {
            pass!($name($($argument),*), None, Output::None)
        }
    };
    (@ session $name:ident ($first:ident: $first_type:ty $(, $argument:ident: $type:ty)*)) => {
        unsafe extern "C" fn $name($first: $first_type $(, $argument: $type)*) -> CK_RV {
            pass!($name($first $(, $argument)*), Some($first), Output::None)
        }
    };
    (@ bytes $name:ident (
        $first:ident: $first_type:ty $(, $argument:ident: $type:ty)*;
        $out:ident, $out_len:ident $(; $($last:ident: $last_type:ty),*)?
    )) => {
        unsafe extern "C" fn $name(
            $first: $first_type,
            $($argument: $type,)*
            $out: *mut CK_BYTE,
            $out_len: *mut CK_ULONG,
            $($($last: $last_type),*)?
        ) -> CK_RV {
            let output = Output::Bytes($out, $out_len);
            pass!(
                $name($first, $($argument,)* $out, $out_len $($(, $last)*)?),
                Some($first),
                output
            )
        }
    };
}
for_each_function!(wrappers);

macro_rules! lists {
    (
        {$($kind_2:ident $name_2:ident $(($($_2:tt)*))?;)*}
        {$($kind_3_0:ident $name_3_0:ident $(($($_3_0:tt)*))?;)*}
        {$($kind_3_2:ident $name_3_2:ident $(($($_3_2:tt)*))?;)*}
    ) => {
        static LIST_2: CK_FUNCTION_LIST = CK_FUNCTION_LIST {
            version: Edition::V2.version(),
            $($name_2: Some($name_2)),*
        };
        static LIST_3_0: CK_FUNCTION_LIST_3_0 = CK_FUNCTION_LIST_3_0 {
            version: Edition::V3_0.version(),
            $($name_2: Some($name_2),)*
            $($name_3_0: Some($name_3_0)),*
        };
        static LIST_3_2: CK_FUNCTION_LIST_3_2 = CK_FUNCTION_LIST_3_2 {
            version: Edition::V3_2.version(),
            $($name_2: Some($name_2),)*
            $($name_3_0: Some($name_3_0),)*
            $($name_3_2: Some($name_3_2)),*
        };
    };
}
for_each_function!(lists);

unsafe extern "C" fn C_Initialize(arguments: *mut c_void) -> CK_RV {
    pass!(C_Initialize, None, Output::None, |module, _loaded| {
        module.token.begun_anew(real!(module.real, C_Initialize(arguments)))
    })
}

unsafe extern "C" fn C_Finalize(reserved: *mut c_void) -> CK_RV {
    pass!(C_Finalize, None, Output::None, |module, _loaded| {
        module.token.begun_anew(real!(module.real, C_Finalize(reserved)))
    })
}

unsafe extern "C" fn C_GetSlotList(
    with_token: CK_BBOOL,
    slots: *mut CK_SLOT_ID,
    count: *mut CK_ULONG,
) -> CK_RV {
    pass!(C_GetSlotList, None, Output::None, |module, _loaded| {
        if module.token.is_lost() && with_token != CK_FALSE && !count.is_null() {
            // SAFETY: not null, and the caller lends it to us for the number of slots.
            unsafe { *count = 0 };
            CKR_OK
        } else {
            real!(module.real, C_GetSlotList(with_token, slots, count))
        }
    })
}

unsafe extern "C" fn C_GetSlotInfo(slot: CK_SLOT_ID, info: *mut CK_SLOT_INFO) -> CK_RV {
    pass!(C_GetSlotInfo, None, Output::None, |module, _loaded| {
        let answer = real!(module.real, C_GetSlotInfo(slot, info));
        if answer == CKR_OK && module.token.is_lost() && !info.is_null() {
            // SAFETY: the real module has filled this structure.
            unsafe { (*info).flags &= !CKF_TOKEN_PRESENT };
        }
        answer
    })
}

unsafe extern "C" fn C_GetTokenInfo(slot: CK_SLOT_ID, info: *mut CK_TOKEN_INFO) -> CK_RV {
    pass!(C_GetTokenInfo, None, Output::None, |module, loaded| {
        let answer = real!(module.real, C_GetTokenInfo(slot, info));
        // SAFETY: null, or a structure that the caller lends to us.
        if let Some(info) = unsafe { info.as_mut() }.filter(|_| answer == CKR_OK) {
            let rules = &loaded.rules.token;
            info.flags |= module.pins(loaded).flags();
            // 0 would mean that there is no limit.
            if let Some(most) = rules.max_sessions.filter(|most| *most > 0) {
                info.ulMaxSessionCount = most.into();
                info.ulMaxRwSessionCount = most.into();
            }
        }
        answer
    })
}

unsafe extern "C" fn C_GetMechanismList(
    slot: CK_SLOT_ID,
    list: *mut CK_MECHANISM_TYPE,
    count: *mut CK_ULONG,
) -> CK_RV {
    pass!(C_GetMechanismList, None, Output::None, |module, _loaded| {
        let answer = real!(module.real, C_GetMechanismList(slot, list, count));
        if answer == CKR_OK && !list.is_null() {
            // SAFETY: the real module has just written the count here.
            let count = unsafe { *count } as usize;
            // SAFETY: and it has filled as many places of the caller's array.
            let mechanisms = unsafe { slice::from_raw_parts_mut(list, count) };
            for mechanism in mechanisms {
                *mechanism = module.mechanisms.inward(*mechanism);
            }
        }
        answer
    })
}

unsafe extern "C" fn C_GetMechanismInfo(
    slot: CK_SLOT_ID,
    mechanism: CK_MECHANISM_TYPE,
    info: *mut CK_MECHANISM_INFO,
) -> CK_RV {
    pass!(C_GetMechanismInfo, None, Output::None, |module, _loaded| {
        let mechanism = module.mechanisms.outward(mechanism);
        real!(module.real, C_GetMechanismInfo(slot, mechanism, info))
    })
}

unsafe extern "C" fn C_OpenSession(
    slot: CK_SLOT_ID,
    flags: CK_FLAGS,
    application: *mut c_void,
    notify: CK_NOTIFY,
    session: *mut CK_SESSION_HANDLE,
) -> CK_RV {
    pass!(C_OpenSession, None, Output::None, |module, loaded| {
        module.token.open_session(&loaded.rules.token, slot, || {
            let answer =
                real!(module.real, C_OpenSession(slot, flags, application, notify, session));
            // SAFETY: null, or where the real module has put the handle.
            (answer, unsafe { session.as_ref() }.copied())
        })
    })
}

unsafe extern "C" fn C_CloseSession(session: CK_SESSION_HANDLE) -> CK_RV {
    pass!(C_CloseSession, Some(session), Output::None, |module, _loaded| {
        module.token.session_closed(session, real!(module.real, C_CloseSession(session)))
    })
}

unsafe extern "C" fn C_CloseAllSessions(slot: CK_SLOT_ID) -> CK_RV {
    pass!(C_CloseAllSessions, None, Output::None, |module, _loaded| {
        module.token.sessions_closed(slot, real!(module.real, C_CloseAllSessions(slot)))
    })
}

unsafe extern "C" fn C_Login(
    session: CK_SESSION_HANDLE,
    user: CK_USER_TYPE,
    pin: *mut CK_UTF8CHAR,
    len: CK_ULONG,
) -> CK_RV {
    pass!(C_Login, Some(session), Output::None, |module, loaded| {
        let pins = module.pins(loaded);
        pins.login(user, session, || real!(module.real, C_Login(session, user, pin, len)))
    })
}

unsafe extern "C" fn C_LoginUser(
    session: CK_SESSION_HANDLE,
    user: CK_USER_TYPE,
    pin: *mut CK_UTF8CHAR,
    len: CK_ULONG,
    name: *mut CK_UTF8CHAR,
    name_len: CK_ULONG,
) -> CK_RV {
    pass!(C_LoginUser, Some(session), Output::None, |module, loaded| {
        module.pins(loaded).login(user, session, || {
            real!(module.real, C_LoginUser(session, user, pin, len, name, name_len))
        })
    })
}

unsafe extern "C" fn C_SetPIN(
    session: CK_SESSION_HANDLE,
    old: *mut CK_UTF8CHAR,
    old_len: CK_ULONG,
    new: *mut CK_UTF8CHAR,
    new_len: CK_ULONG,
) -> CK_RV {
    pass!(C_SetPIN, Some(session), Output::None, |module, loaded| {
        module
            .pins(loaded)
            .change(session, || real!(module.real, C_SetPIN(session, old, old_len, new, new_len)))
    })
}

unsafe extern "C" fn C_InitPIN(
    session: CK_SESSION_HANDLE,
    pin: *mut CK_UTF8CHAR,
    len: CK_ULONG,
) -> CK_RV {
    pass!(C_InitPIN, Some(session), Output::None, |module, loaded| {
        module.pins(loaded).given(real!(module.real, C_InitPIN(session, pin, len)))
    })
}

unsafe extern "C" fn C_InitToken(
    slot: CK_SLOT_ID,
    pin: *mut CK_UTF8CHAR,
    len: CK_ULONG,
    label: *mut CK_UTF8CHAR,
) -> CK_RV {
    pass!(C_InitToken, None, Output::None, |module, loaded| {
        module.pins(loaded).given(real!(module.real, C_InitToken(slot, pin, len, label)))
    })
}

unsafe extern "C" fn C_GetAttributeValue(
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
) -> CK_RV {
    let output = Output::Values(template, count);
    pass!(C_GetAttributeValue(session, object, template, count), Some(session), output)
}

unsafe extern "C" fn C_GenerateRandom(
    session: CK_SESSION_HANDLE,
    data: *mut CK_BYTE,
    len: CK_ULONG,
) -> CK_RV {
    pass!(C_GenerateRandom(session, data, len), Some(session), Output::Filled(data, len))
}

/// The two that begin with a mechanism.
macro_rules! beginnings {
    ($($name:ident)*) => {$(
        unsafe extern "C" fn $name(
            session: CK_SESSION_HANDLE,
            mechanism: *mut CK_MECHANISM,
            key: CK_OBJECT_HANDLE,
        ) -> CK_RV {
            pass!($name, Some(session), Output::None, |module, _loaded| {
                let mut mechanism = Translated::new(module, mechanism);
                real!(module.real, $name(session, mechanism.as_mut_ptr(), key))
            })
        }
    )*};
}
beginnings!(C_EncryptInit C_DecryptInit);

unsafe extern "C" fn C_WrapKey(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    wrapping: CK_OBJECT_HANDLE,
    key: CK_OBJECT_HANDLE,
    out: *mut CK_BYTE,
    out_len: *mut CK_ULONG,
) -> CK_RV {
    pass!(C_WrapKey, Some(session), Output::Bytes(out, out_len), |module, _loaded| {
        let mut mechanism = Translated::new(module, mechanism);
        let mechanism = mechanism.as_mut_ptr();
        real!(module.real, C_WrapKey(session, mechanism, wrapping, key, out, out_len))
    })
}

unsafe extern "C" fn C_UnwrapKey(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    unwrapping: CK_OBJECT_HANDLE,
    data: *mut CK_BYTE,
    len: CK_ULONG,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
    made: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    pass!(C_UnwrapKey, Some(session), Output::None, |module, _loaded| {
        let mut mechanism = Translated::new(module, mechanism);
        let mechanism = mechanism.as_mut_ptr();
        real!(
            module.real,
            C_UnwrapKey(session, mechanism, unwrapping, data, len, template, count, made)
        )
    })
}

/// A caller's mechanism with the number that the real module knows.
struct Translated(Option<CK_MECHANISM>);

impl Translated {
    fn new(module: &Module, mechanism: *mut CK_MECHANISM) -> Self {
        // SAFETY: null, or a mechanism that the caller lends to us.
        let mechanism = unsafe { mechanism.as_ref() };
        Self(mechanism.map(|given| CK_MECHANISM {
            mechanism: module.mechanisms.outward(given.mechanism),
            ..*given
        }))
    }

    fn as_mut_ptr(&mut self) -> *mut CK_MECHANISM {
        self.0.as_mut().map_or(ptr::null_mut(), ptr::from_mut)
    }
}

/// Our interface of an edition.
fn interface_of(edition: Edition) -> *mut CK_INTERFACE {
    let Interfaces(all) = &INTERFACES;
    let [v2, v3_0, v3_2] = all;
    ptr::from_ref(match edition {
        Edition::V2 => v2,
        Edition::V3_0 => v3_0,
        Edition::V3_2 => v3_2,
    })
    .cast_mut()
}

struct Interfaces([CK_INTERFACE; 3]);

// SAFETY: the pointers lead to constants, and nobody writes through them: a program may not
// change what it gets from C_GetInterface.
unsafe impl Sync for Interfaces {}

static INTERFACES: Interfaces = Interfaces([
    interface((&raw const LIST_2).cast()),
    interface((&raw const LIST_3_0).cast()),
    interface((&raw const LIST_3_2).cast()),
]);

const fn interface(list: *const u8) -> CK_INTERFACE {
    CK_INTERFACE {
        pInterfaceName: NAME.as_ptr().cast_mut().cast(),
        pFunctionList: list.cast_mut().cast(),
        flags: 0,
    }
}

/// The first call of a program loads the real module.
fn enter(way: Function) -> Result<&'static Module, CK_RV> {
    static OPENING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
    if MODULE.get().is_none() {
        match Module::open() {
            Ok(module) => drop(MODULE.set(module)),
            Err(error) => say(&error.to_string()),
        }
    }
    let module = MODULE.get().ok_or(CKR_GENERAL_ERROR)?;
    module.state.count(way);
    Ok(module)
}

/// The way in that every module has.
///
/// # Safety
/// `list` must be null or valid for writing a pointer.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn C_GetFunctionList(list: *mut *mut CK_FUNCTION_LIST) -> CK_RV {
    if list.is_null() {
        return CKR_ARGUMENTS_BAD;
    }
    if let Err(code) = enter(Function::C_GetFunctionList) {
        return code;
    }
    // SAFETY: not null, and a caller of C_GetFunctionList gives a place for a pointer.
    unsafe { *list = ptr::from_ref(&LIST_2).cast_mut() };
    CKR_OK
}

/// The way in since 3.0. It offers the editions that the real module has.
///
/// # Safety
/// `name` and `version` must be null or valid for reading, and `found` null or valid for writing.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn C_GetInterface(
    name: *mut CK_UTF8CHAR,
    version: *mut CK_VERSION,
    found: *mut *mut CK_INTERFACE,
    flags: CK_FLAGS,
) -> CK_RV {
    if found.is_null() {
        return CKR_ARGUMENTS_BAD;
    }
    let module = match enter(Function::C_GetInterface) {
        Ok(module) => module,
        Err(code) => return code,
    };
    // SAFETY: checked not to be null, so it is a text that ends with a 0.
    let named = name.is_null() || unsafe { CStr::from_ptr(name.cast()) } == NAME;
    // SAFETY: null, or a version that the caller lends to us.
    let version = unsafe { version.as_ref() };
    let wanted = |edition: &&Edition| {
        let CK_VERSION { major, minor } = edition.version();
        version.is_none_or(|wanted| (wanted.major, wanted.minor) == (major, minor))
    };
    match module.real.editions.iter().rev().find(wanted) {
        // No interface of ours has a flag.
        Some(edition) if named && flags == 0 => {
            // SAFETY: not null, and a caller of C_GetInterface gives a place for a pointer.
            unsafe { *found = interface_of(*edition) };
            CKR_OK
        }
        _ => CKR_ARGUMENTS_BAD,
    }
}

/// All that `C_GetInterface` would find.
///
/// # Safety
/// `count` must be null or valid, and `list` null or valid for writing as many interfaces.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn C_GetInterfaceList(
    list: *mut CK_INTERFACE,
    count: *mut CK_ULONG,
) -> CK_RV {
    // SAFETY: null, or a number that the caller lends to us.
    let Some(count) = (unsafe { count.as_mut() }) else { return CKR_ARGUMENTS_BAD };
    let editions = match enter(Function::C_GetInterfaceList) {
        Ok(module) => &module.real.editions,
        Err(code) => return code,
    };
    let room = std::mem::replace(count, editions.len() as CK_ULONG);
    if list.is_null() {
        return CKR_OK;
    }
    if room < *count {
        return CKR_BUFFER_TOO_SMALL;
    }
    // SAFETY: the caller has said that there is room for as many.
    let places = unsafe { slice::from_raw_parts_mut(list, editions.len()) };
    for (place, edition) in places.iter_mut().zip(editions) {
        // SAFETY: it points to one of our constants.
        *place = unsafe { *interface_of(*edition) };
    }
    CKR_OK
}

/// What a call gives out, as its caller named it. Only looked at once the real call is over.
pub(crate) enum Output {
    /// Nothing that a fault could change.
    None,
    /// A buffer, and where its length goes.
    Bytes(*mut CK_BYTE, *mut CK_ULONG),
    /// A buffer that is always filled.
    Filled(*mut CK_BYTE, CK_ULONG),
    /// Attributes; `CKA_VALUE` among them counts.
    Values(*mut CK_ATTRIBUTE, CK_ULONG),
}

impl Output {
    /// Whether there is at least a byte.
    pub(crate) fn is_there(&mut self) -> bool {
        self.bytes().is_some()
    }

    /// Flips the lowest bit of the byte in the middle.
    pub(crate) fn flip_bit(&mut self) {
        if let Some(bytes) = self.bytes() {
            let middle = bytes.len() / 2;
            if let Some(byte) = bytes.get_mut(middle) {
                *byte ^= 1;
            }
        }
    }

    /// Says that there are fewer bytes.
    pub(crate) fn shorten(&mut self, by: u32) {
        let by = CK_ULONG::from(by);
        if let Some(len) = self.len() {
            *len = len.saturating_sub(by);
        }
    }

    fn bytes(&mut self) -> Option<&mut [u8]> {
        let (start, len) = match *self {
            Self::None => return None,
            Self::Filled(start, len) => (start, len),
            Self::Bytes(start, _) => (start, *self.len()?),
            Self::Values(..) => {
                let value = self.value()?;
                (value.pValue.cast(), value.ulValueLen)
            }
        };
        if start.is_null() || len == 0 || len == CK_UNAVAILABLE_INFORMATION {
            return None;
        }
        // SAFETY: the real call answered CKR_OK, so it has filled as many bytes of this buffer.
        // The caller lends it to us until we return, and nothing else here points into it.
        Some(unsafe { slice::from_raw_parts_mut(start, usize::try_from(len).ok()?) })
    }

    fn len(&mut self) -> Option<&mut CK_ULONG> {
        match *self {
            Self::None | Self::Filled(..) => None,
            // SAFETY: null, or a pointer to a length that the caller lends to us.
            Self::Bytes(_, len) => unsafe { len.as_mut() },
            Self::Values(..) => self.value().map(|value| &mut value.ulValueLen),
        }
    }

    fn value(&mut self) -> Option<&mut CK_ATTRIBUTE> {
        let Self::Values(start, count) = *self else { return None };
        if start.is_null() {
            return None;
        }
        // SAFETY: the real call has just gone through this array of the caller's.
        let template = unsafe { slice::from_raw_parts_mut(start, usize::try_from(count).ok()?) };
        template.iter_mut().find(|attribute| attribute.type_ == CKA_VALUE)
    }
}

/// Maps the first words of a file, shared with all who do the same. They stay mapped.
pub(crate) fn map_shared(file: &File, words: usize) -> io::Result<&'static [AtomicU64]> {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let (size, fd) = (words * size_of::<AtomicU64>(), file.as_raw_fd());
    // SAFETY: a new mapping at an address that the kernel chooses disturbs no other.
    let start = unsafe { libc::mmap(ptr::null_mut(), size, access, libc::MAP_SHARED, fd, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the mapping has this size, begins at a page, is never unmapped, and is only ever
    // used as atomic words, for which any content is good. Nobody cuts the file short.
    Ok(unsafe { slice::from_raw_parts(start.cast(), words) })
}

/// Dies of a real segmentation fault.
pub(crate) fn segv() -> ! {
    // SAFETY: none, and that is the point: nothing is ever mapped in the first page. The read is
    // volatile and of one byte, so that it is made as it stands here.
    unsafe { ptr::without_provenance::<u8>(8).read_volatile() };
    // Somebody has a handler that goes on.
    std::process::abort()
}

/// The time since the machine was started, the same for all processes.
pub(crate) fn uptime() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a live structure that the call fills in. Linux has had this clock since
    // 2.6.39; without it, all moments would be the first.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now) };
    Duration::new(now.tv_sec.cast_unsigned(), now.tv_nsec as u32)
}
