#![allow(unsafe_code, reason = "the one file where foreign code is called")]
//! Raw PKCS#11 calls for the hot path, each with a buffer sized beforehand.
//!
//! The `cryptoki` crate asks for the length first and so makes two calls where
//! one will do, and it cannot name every mechanism. On a network HSM each call
//! is a round trip. All else (slots, login, search) goes through that crate.
//!
//! Handles are plain numbers. A wrong one is answered by the module with an
//! error code, so the functions here are safe to call.

use std::ffi::{CString, c_void};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::ptr;

use cryptoki::context::{CInitializeArgs, CInitializeFlags};
use cryptoki::object::{Attribute, ObjectHandle};
use cryptoki_sys as sys;
use cryptoki_sys::{CK_ATTRIBUTE, CK_BYTE, CK_MECHANISM, CK_RV, CK_ULONG};

/// A session of the module.
pub(super) type Session = sys::CK_SESSION_HANDLE;
/// An object in the eyes of one session.
pub(super) type Object = sys::CK_OBJECT_HANDLE;
/// A mechanism's number.
pub(super) type Mechanism = sys::CK_MECHANISM_TYPE;

/// Which half of a cipher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Encrypt,
    Decrypt,
}

/// A call that the module answered with something other than `CKR_OK`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CallError {
    /// The C function.
    pub(super) function: &'static str,
    /// Its `CKR_` code.
    pub(super) code: CK_RV,
}

/// Why a file cannot serve as a module.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    #[error("it cannot be loaded: {0}")]
    Open(String),
    #[error("it is a library, but has no C_GetFunctionList: it is no PKCS#11 module")]
    NoEntry,
    #[error("C_GetFunctionList failed with CKR 0x{0:x}")]
    Entry(CK_RV),
}

/// The functions of a loaded module.
pub(super) struct Module {
    list: sys::CK_FUNCTION_LIST,
    // Keeps the library mapped as long as `list` points into it.
    _library: sys::Pkcs11,
}

/// Calls one function of the list, or answers `CKR_FUNCTION_NOT_SUPPORTED`.
macro_rules! call {
    ($module:expr, $name:ident ( $($argument:expr),* $(,)? )) => {{
        let code = match $module.list.$name {
            // SAFETY: the pointer comes from the module's own function list, and the
            // library is still mapped. Every pointer argument is made from a live
            // reference in the calling function, with the length of what it refers to.
            Some(function) => unsafe { function($($argument),*) },
            None => sys::CKR_FUNCTION_NOT_SUPPORTED,
        };
        if code == sys::CKR_OK {
            Ok(())
        } else {
            Err(CallError { function: stringify!($name), code })
        }
    }};
}

impl Module {
    /// Loads a module. Its constructors run, so only a worker may do this.
    pub(super) fn load(path: &Path) -> Result<Self, LoadError> {
        // SAFETY: loading runs foreign code. This process exists to contain it.
        let library = unsafe { sys::Pkcs11::new(path) }
            .map_err(|error| LoadError::Open(error.to_string()))?;
        let entry = library.C_GetFunctionList.as_ref().map_err(|_| LoadError::NoEntry)?;
        let mut list = ptr::null_mut();
        // SAFETY: the symbol has the type that PKCS#11 gives it, and `list` is a live
        // pointer that the call fills in.
        let code = unsafe { entry(&raw mut list) };
        if code != sys::CKR_OK || list.is_null() {
            return Err(LoadError::Entry(code));
        }
        // SAFETY: the module said CKR_OK, so `list` points to its function list, which
        // lives as long as the library is mapped. PKCS#11 lets it be unaligned nowhere.
        let list = unsafe { *list };
        Ok(Self { list, _library: library })
    }

    /// The flags of a mechanism in a slot (`C_GetMechanismInfo`).
    pub(super) fn mechanism_flags(
        &self,
        slot: u64,
        mechanism: Mechanism,
    ) -> Result<sys::CK_FLAGS, CallError> {
        let mut info = sys::CK_MECHANISM_INFO::default();
        call!(self, C_GetMechanismInfo(slot as sys::CK_SLOT_ID, mechanism, &raw mut info))?;
        Ok(info.flags)
    }

    /// Makes a session object of the seed, readable and extractable so that it can be wrapped.
    pub(super) fn create_seed(
        &self,
        session: Session,
        seed: &[u8],
        private: bool,
    ) -> Result<Object, CallError> {
        let mut class = sys::CKO_SECRET_KEY;
        let mut kind = sys::CKK_GENERIC_SECRET;
        let mut value = Bytes::of(seed);
        let [mut yes, mut no] = [sys::CK_TRUE, sys::CK_FALSE];
        let mut private = if private { sys::CK_TRUE } else { sys::CK_FALSE };
        let mut template = [
            attribute(sys::CKA_CLASS, &mut class),
            attribute(sys::CKA_KEY_TYPE, &mut kind),
            attribute(sys::CKA_TOKEN, &mut no),
            attribute(sys::CKA_PRIVATE, &mut private),
            attribute(sys::CKA_EXTRACTABLE, &mut yes),
            value.attribute(sys::CKA_VALUE),
        ];
        let mut object = 0;
        let len = template.len() as CK_ULONG;
        call!(self, C_CreateObject(session, template.as_mut_ptr(), len, &raw mut object))?;
        Ok(object)
    }

    /// Wraps one object under another into `out`; gives the length.
    pub(super) fn wrap_key(
        &self,
        session: Session,
        mechanism: Mechanism,
        kek: Object,
        object: Object,
        out: &mut [u8],
    ) -> Result<usize, CallError> {
        let mut mechanism = bare(mechanism);
        let mut len = out.len() as CK_ULONG;
        call!(
            self,
            C_WrapKey(session, &raw mut mechanism, kek, object, out.as_mut_ptr(), &raw mut len)
        )?;
        Ok(len as usize)
    }

    /// Unwraps a blob into a session object whose value can be read.
    pub(super) fn unwrap_key(
        &self,
        session: Session,
        mechanism: Mechanism,
        kek: Object,
        blob: &[u8],
        private: bool,
        value_len: Option<usize>,
    ) -> Result<Object, CallError> {
        let mut mechanism = bare(mechanism);
        let mut class = sys::CKO_SECRET_KEY;
        let mut kind = sys::CKK_GENERIC_SECRET;
        let [mut yes, mut no, mut open] = [sys::CK_TRUE, sys::CK_FALSE, sys::CK_FALSE];
        let mut private = if private { sys::CK_TRUE } else { sys::CK_FALSE };
        let mut length = value_len.unwrap_or(0) as CK_ULONG;
        // The last one is only counted in where the profile asks for it.
        let mut template = [
            attribute(sys::CKA_CLASS, &mut class),
            attribute(sys::CKA_KEY_TYPE, &mut kind),
            attribute(sys::CKA_TOKEN, &mut no),
            attribute(sys::CKA_PRIVATE, &mut private),
            attribute(sys::CKA_SENSITIVE, &mut open),
            attribute(sys::CKA_EXTRACTABLE, &mut yes),
            attribute(sys::CKA_VALUE_LEN, &mut length),
        ];
        let count = if value_len.is_some() { template.len() } else { template.len() - 1 };
        let (blob, blob_len) = Bytes::of(blob).parts();
        let mut object = 0;
        call!(
            self,
            C_UnwrapKey(
                session,
                &raw mut mechanism,
                kek,
                blob,
                blob_len,
                template.as_mut_ptr(),
                count as CK_ULONG,
                &raw mut object,
            )
        )?;
        Ok(object)
    }

    /// Unwraps what `CKM_RSA_AES_KEY_WRAP` made (PKCS#11 3.1 section 6.1.11), which the crate
    /// cannot name. `oaep` is its hash and MGF.
    pub(super) fn unwrap_rsa_aes(
        &self,
        session: Session,
        rsa: Object,
        oaep: (Mechanism, sys::CK_RSA_PKCS_MGF_TYPE),
        blob: &[u8],
        template: &[Attribute],
    ) -> Result<ObjectHandle, CallError> {
        let mut oaep = sys::CK_RSA_PKCS_OAEP_PARAMS {
            hashAlg: oaep.0,
            mgf: oaep.1,
            source: sys::CKZ_DATA_SPECIFIED,
            ..Default::default()
        };
        let mut parameter =
            sys::CK_RSA_AES_KEY_WRAP_PARAMS { ulAESKeyBits: 256, pOAEPParams: &raw mut oaep };
        let CK_ATTRIBUTE { pValue, ulValueLen, .. } = attribute(0, &mut parameter);
        let mut mechanism = bare(sys::CKM_RSA_AES_KEY_WRAP);
        (mechanism.pParameter, mechanism.ulParameterLen) = (pValue, ulValueLen);
        let mut template: Vec<CK_ATTRIBUTE> = template.iter().map(CK_ATTRIBUTE::from).collect();
        let (at, len) = (template.as_mut_ptr(), template.len() as CK_ULONG);
        let (blob, blob_len) = Bytes::of(blob).parts();
        let (mut made, mechanism) = (0, &raw mut mechanism);
        call!(self, C_UnwrapKey(session, mechanism, rsa, blob, blob_len, at, len, &raw mut made))?;
        // SAFETY: the module has just made this object, and a wrong handle does no harm here.
        Ok(unsafe { ObjectHandle::new_from_raw(made) })
    }

    /// Reads an object's value into `out`; gives the length.
    pub(super) fn read_value(
        &self,
        session: Session,
        object: Object,
        out: &mut [u8],
    ) -> Result<usize, CallError> {
        let mut template = [CK_ATTRIBUTE {
            type_: sys::CKA_VALUE,
            pValue: out.as_mut_ptr().cast(),
            ulValueLen: out.len() as CK_ULONG,
        }];
        call!(self, C_GetAttributeValue(session, object, template.as_mut_ptr(), 1))?;
        let [value] = template;
        Ok(value.ulValueLen as usize)
    }

    /// Destroys a session object.
    pub(super) fn destroy(&self, session: Session, object: Object) -> Result<(), CallError> {
        call!(self, C_DestroyObject(session, object))
    }

    /// Begins an encryption or decryption (`C_EncryptInit`, `C_DecryptInit`). `iv`
    /// is the mechanism's parameter, if it has one.
    pub(super) fn begin(
        &self,
        direction: Direction,
        session: Session,
        mechanism: Mechanism,
        iv: Option<&[u8; 16]>,
        kek: Object,
    ) -> Result<(), CallError> {
        let mut iv = Bytes::of(iv.map_or(&[][..], |iv| iv));
        let mut mechanism = iv.parameter_of(mechanism);
        let mechanism = &raw mut mechanism;
        match direction {
            Direction::Encrypt => call!(self, C_EncryptInit(session, mechanism, kek)),
            Direction::Decrypt => call!(self, C_DecryptInit(session, mechanism, kek)),
        }
    }

    /// Encrypts or decrypts all that there is, which ends the operation
    /// (`C_Encrypt`, `C_Decrypt`); gives the length.
    pub(super) fn all(
        &self,
        direction: Direction,
        session: Session,
        data: &[u8],
        out: &mut [u8],
    ) -> Result<usize, CallError> {
        let (data, data_len) = Bytes::of(data).parts();
        let mut len = out.len() as CK_ULONG;
        let (out, out_len) = (out.as_mut_ptr(), &raw mut len);
        match direction {
            Direction::Encrypt => call!(self, C_Encrypt(session, data, data_len, out, out_len)),
            Direction::Decrypt => call!(self, C_Decrypt(session, data, data_len, out, out_len)),
        }?;
        Ok(len as usize)
    }

    /// Encrypts or decrypts the next piece (`C_EncryptUpdate`, `C_DecryptUpdate`);
    /// gives the length.
    pub(super) fn next(
        &self,
        direction: Direction,
        session: Session,
        data: &[u8],
        out: &mut [u8],
    ) -> Result<usize, CallError> {
        let (data, data_len) = Bytes::of(data).parts();
        let mut len = out.len() as CK_ULONG;
        let (out, out_len) = (out.as_mut_ptr(), &raw mut len);
        match direction {
            Direction::Encrypt => {
                call!(self, C_EncryptUpdate(session, data, data_len, out, out_len))
            }
            Direction::Decrypt => {
                call!(self, C_DecryptUpdate(session, data, data_len, out, out_len))
            }
        }?;
        Ok(len as usize)
    }

    /// Ends what [`Self::next`] went through (`C_EncryptFinal`, `C_DecryptFinal`). A
    /// block cipher without padding has nothing left to say.
    pub(super) fn end(&self, direction: Direction, session: Session) -> Result<(), CallError> {
        let mut rest = [0; 32];
        let mut len = rest.len() as CK_ULONG;
        let (out, out_len) = (rest.as_mut_ptr(), &raw mut len);
        match direction {
            Direction::Encrypt => call!(self, C_EncryptFinal(session, out, out_len)),
            Direction::Decrypt => call!(self, C_DecryptFinal(session, out, out_len)),
        }
    }
}

/// The arguments of `C_Initialize`, with the profile's string as `pReserved`.
///
/// The string is leaked: a module may go on reading it until `C_Finalize`, and
/// there is one a process.
pub(super) fn initialize_args(os_locking: bool, reserved: Option<CString>) -> CInitializeArgs {
    let flags =
        if os_locking { CInitializeFlags::OS_LOCKING_OK } else { CInitializeFlags::empty() };
    match reserved.and_then(|text| ptr::NonNull::new(text.into_raw())) {
        // SAFETY: the pointer is to a C string that is never freed.
        Some(text) => unsafe { CInitializeArgs::new_with_reserved(flags, text.cast()) },
        None => CInitializeArgs::new(flags),
    }
}

/// Takes over a descriptor that was passed to us over a socket.
///
/// `fd` must come straight from an `SCM_RIGHTS` message and from nowhere else.
pub(super) fn adopt(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for us, so nobody else owns it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// PKCS#11 takes its inputs as pointers to mutable bytes, though it only reads
/// them. This keeps the cast in one place.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    const fn of(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    const fn as_mut_ptr(&mut self) -> *mut CK_BYTE {
        self.0.as_ptr().cast_mut()
    }

    const fn len(&self) -> CK_ULONG {
        self.0.len() as CK_ULONG
    }

    const fn parts(mut self) -> (*mut CK_BYTE, CK_ULONG) {
        (self.as_mut_ptr(), self.len())
    }

    const fn attribute(&mut self, kind: sys::CK_ATTRIBUTE_TYPE) -> CK_ATTRIBUTE {
        CK_ATTRIBUTE { type_: kind, pValue: self.as_mut_ptr().cast(), ulValueLen: self.len() }
    }

    const fn parameter_of(&mut self, mechanism: Mechanism) -> CK_MECHANISM {
        if self.0.is_empty() {
            return bare(mechanism);
        }
        CK_MECHANISM {
            mechanism,
            pParameter: self.as_mut_ptr().cast::<c_void>(),
            ulParameterLen: self.len(),
        }
    }
}

/// A mechanism without a parameter: the default initial value of its RFC.
const fn bare(mechanism: Mechanism) -> CK_MECHANISM {
    CK_MECHANISM { mechanism, pParameter: ptr::null_mut(), ulParameterLen: 0 }
}

const fn attribute<T>(kind: sys::CK_ATTRIBUTE_TYPE, value: &mut T) -> CK_ATTRIBUTE {
    CK_ATTRIBUTE {
        type_: kind,
        pValue: ptr::from_mut(value).cast::<c_void>(),
        ulValueLen: size_of::<T>() as CK_ULONG,
    }
}
