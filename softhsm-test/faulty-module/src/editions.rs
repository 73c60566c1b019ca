#![forbid(unsafe_code)]
//! The editions of the standard that differ in their function lists.

use std::ffi::CStr;

use cryptoki_sys::*;

/// The name of the interfaces of the standard itself.
pub(crate) const NAME: &CStr = c"PKCS 11";

/// An edition of the standard whose function list is longer than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Edition {
    V2,
    V3_0,
    V3_2,
}

impl Edition {
    /// How many bytes its function list has.
    pub(crate) const fn size(self) -> usize {
        match self {
            Self::V2 => size_of::<CK_FUNCTION_LIST>(),
            Self::V3_0 => size_of::<CK_FUNCTION_LIST_3_0>(),
            Self::V3_2 => size_of::<CK_FUNCTION_LIST_3_2>(),
        }
    }

    /// What its function list says of itself.
    pub(crate) const fn version(self) -> CK_VERSION {
        let (major, minor) = match self {
            Self::V2 => (2, 40),
            Self::V3_0 => (3, 0),
            Self::V3_2 => (3, 2),
        };
        CK_VERSION { major, minor }
    }

    /// The one after 2.40 that a function list of this version belongs to.
    pub(crate) fn newer(version: CK_VERSION) -> Option<Self> {
        match (version.major, version.minor) {
            (3, 0..=1) => Some(Self::V3_0),
            (3, _) => Some(Self::V3_2),
            _ => None,
        }
    }
}
