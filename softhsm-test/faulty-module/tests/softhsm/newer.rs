#![allow(
    unsafe_code,
    non_snake_case,
    clippy::unwrap_used,
    reason = "it is a part of the tests, and C calls it"
)]
//! A real module with the function lists of PKCS#11 3.x: SoftHSM, named by `NEWER_MODULE`, with two
//! functions more. Its newest edition is `NEWER_EDITION`.

use std::env;
use std::ffi::{CStr, c_void};
use std::ptr;
use std::sync::OnceLock;

use cryptoki_sys::*;

static LISTS: OnceLock<Lists> = OnceLock::new();

struct Lists {
    interfaces: Vec<CK_INTERFACE>,
    v2: CK_FUNCTION_LIST,
}

// SAFETY: the pointers in it lead to leaked memory that nobody writes to.
unsafe impl Send for Lists {}
// SAFETY: as above.
unsafe impl Sync for Lists {}

fn lists() -> &'static Lists {
    LISTS.get_or_init(|| {
        let path = env::var_os("NEWER_MODULE").unwrap();
        // SAFETY: the test names a PKCS#11 module.
        let library = Box::leak(Box::new(unsafe { Pkcs11::new(path) }.unwrap()));
        let mut list = ptr::null_mut();
        // SAFETY: the symbol has this type.
        assert_eq!(unsafe { library.C_GetFunctionList(&raw mut list) }, CKR_OK);
        // SAFETY: the call has succeeded.
        let v2 = unsafe { *list };
        let mut v3 = CK_FUNCTION_LIST_3_2::default();
        // SAFETY: the longer list begins with the shorter one.
        unsafe { ptr::copy_nonoverlapping(list, (&raw mut v3).cast(), 1) };
        v3.C_EncryptMessage = Some(C_EncryptMessage);
        v3.C_VerifySignature = Some(C_VerifySignature);
        let interface = |(name, minor): (&'static CStr, u8)| {
            v3.version = CK_VERSION { major: 3, minor };
            CK_INTERFACE {
                pInterfaceName: name.as_ptr().cast_mut().cast(),
                pFunctionList: ptr::from_mut(Box::leak(Box::new(v3))).cast(),
                flags: 0,
            }
        };
        let mut all = vec![(c"Vendor", 9), (c"PKCS 11", 0)];
        if env::var("NEWER_EDITION").unwrap() == "3.2" {
            all.push((c"PKCS 11", 2));
        }
        let interfaces = all.into_iter().map(interface).collect();
        Lists { interfaces, v2 }
    })
}

#[unsafe(no_mangle)]
extern "C" fn C_GetFunctionList(list: *mut *mut CK_FUNCTION_LIST) -> CK_RV {
    // SAFETY: only the module under test calls, with a place for a pointer.
    unsafe { *list = ptr::from_ref(&lists().v2).cast_mut() };
    CKR_OK
}

#[unsafe(no_mangle)]
extern "C" fn C_GetInterfaceList(list: *mut CK_INTERFACE, count: *mut CK_ULONG) -> CK_RV {
    let all = &lists().interfaces;
    // SAFETY: only the module under test calls, with a place for a number.
    unsafe { *count = all.len() as CK_ULONG };
    if !list.is_null() {
        // SAFETY: it has asked for the number before.
        unsafe { ptr::copy_nonoverlapping(all.as_ptr(), list, all.len()) };
    }
    CKR_OK
}

/// Gives out what it gets.
unsafe extern "C" fn C_EncryptMessage(
    _session: CK_SESSION_HANDLE,
    _parameter: *mut c_void,
    _parameter_len: CK_ULONG,
    _associated: *mut CK_BYTE,
    _associated_len: CK_ULONG,
    data: *mut CK_BYTE,
    len: CK_ULONG,
    out: *mut CK_BYTE,
    out_len: *mut CK_ULONG,
) -> CK_RV {
    // SAFETY: the caller of the tests has a place for the length.
    unsafe { *out_len = len };
    if !out.is_null() {
        // SAFETY: and one for as many bytes as it gave.
        unsafe { ptr::copy_nonoverlapping(data, out, len as usize) };
    }
    CKR_OK
}

unsafe extern "C" fn C_VerifySignature(
    _session: CK_SESSION_HANDLE,
    _data: *mut CK_BYTE,
    _len: CK_ULONG,
) -> CK_RV {
    CKR_SIGNATURE_INVALID
}
