#![forbid(unsafe_code)]
//! Chooses how this token wraps, from what it says about its mechanisms.
//!
//! Never by trying a call: some modules abort the process on one that they do
//! not have.

use cryptoki_sys as sys;

use super::ffi::{Mechanism, Module};
use crate::config::{EcbMechanism, Method as Wish, Profile};
use crate::token::protocol::{Class, Failure, Method};

/// One algorithm's way to the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) method: Method,
    pub(super) mechanism: Mechanism,
}

/// The ways that were chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Methods {
    pub(super) kw: Route,
    /// `None`: this token cannot do RFC 5649, and says so when asked.
    pub(super) kwp: Option<Route>,
}

impl Methods {
    /// Does a KEK need the right to wrap and unwrap?
    pub(super) fn wrap(&self) -> bool {
        self.uses(|method| method == Method::Object)
    }

    /// Does it need the right to encrypt and decrypt?
    pub(super) fn encrypt(&self) -> bool {
        self.uses(|method| method != Method::Object)
    }

    fn uses(&self, is_it: impl Fn(Method) -> bool) -> bool {
        is_it(self.kw.method) || self.kwp.is_some_and(|route| is_it(route.method))
    }
}

/// Chooses for the token in `slot`.
///
/// # Errors
/// [`Class::Refused`] when there is no way to do RFC 3394.
pub(super) fn choose(
    module: &Module,
    slot: u64,
    profile: &Profile,
    require_fips: bool,
) -> Result<Methods, Failure> {
    let has = |mechanism: Mechanism, wanted: sys::CK_FLAGS| {
        module.mechanism_flags(slot, mechanism).is_ok_and(|flags| flags & wanted == wanted)
    };
    let ecb = match profile.ecb_mechanism {
        EcbMechanism::Ecb => sys::CKM_AES_ECB,
        EcbMechanism::Cbc => sys::CKM_AES_CBC,
    };
    let choice = Choice { has: &has, ecb, require_fips };
    let kw = choice.route(profile.method, Some(profile.kw_mechanism)).map_err(|why| {
        Failure::new(
            Class::Refused,
            format!(
                "this token cannot do AES key wrap (RFC 3394): {why}. Look at `token.method` and \
                 `token.kw-mechanism`, or choose the token's own profile with `token.profile`"
            ),
        )
    })?;
    let kwp = choice.route(profile.kwp_method, profile.kwp_mechanism).ok();
    Ok(Methods { kw, kwp })
}

struct Choice<'a> {
    has: &'a dyn Fn(Mechanism, sys::CK_FLAGS) -> bool,
    ecb: Mechanism,
    require_fips: bool,
}

impl Choice<'_> {
    fn route(&self, wish: Wish, mechanism: Option<Mechanism>) -> Result<Route, String> {
        const CIPHER: sys::CK_FLAGS = sys::CKF_ENCRYPT | sys::CKF_DECRYPT;
        const WRAP: sys::CK_FLAGS = sys::CKF_WRAP | sys::CKF_UNWRAP;
        let wanted = match wish {
            // A profile that names a method knows better than the flags, which lie on
            // some modules. For a mechanism that is missing the first call will tell.
            Wish::Object => Some(Method::Object),
            Wish::Encrypt => Some(Method::Encrypt),
            Wish::Ecb => Some(Method::Ecb),
            Wish::Auto => match mechanism {
                Some(mechanism) if (self.has)(mechanism, CIPHER) => Some(Method::Encrypt),
                Some(mechanism) if (self.has)(mechanism, WRAP) => Some(Method::Object),
                _ if (self.has)(self.ecb, CIPHER) => Some(Method::Ecb),
                _ => None,
            },
        };
        match (wanted, mechanism) {
            (Some(Method::Ecb), _) if self.require_fips => {
                Err("the only way left is method \"ecb\", which runs key wrap on the host, and \
                 `token.require-fips` forbids that"
                    .to_owned())
            }
            (Some(Method::Ecb), _) => Ok(Route { method: Method::Ecb, mechanism: self.ecb }),
            (Some(method), Some(mechanism)) => Ok(Route { method, mechanism }),
            (Some(method), None) => {
                Err(format!("method \"{method}\" needs a mechanism number, and none is set"))
            }
            (None, _) => {
                Err("C_GetMechanismInfo lists no key-wrap mechanism and no AES cipher to build on"
                    .to_owned())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KW: Mechanism = sys::CKM_AES_KEY_WRAP;

    fn route(
        flags: &[(Mechanism, sys::CK_FLAGS)],
        wish: Wish,
        require_fips: bool,
    ) -> Result<Method, String> {
        let has = |mechanism: Mechanism, wanted: sys::CK_FLAGS| {
            flags.iter().any(|(known, flags)| *known == mechanism && flags & wanted == wanted)
        };
        let choice = Choice { has: &has, ecb: sys::CKM_AES_ECB, require_fips };
        choice.route(wish, Some(KW)).map(|route| route.method)
    }

    const CIPHER: sys::CK_FLAGS = sys::CKF_ENCRYPT | sys::CKF_DECRYPT;
    const WRAP: sys::CK_FLAGS = sys::CKF_WRAP | sys::CKF_UNWRAP;

    #[test]
    fn auto_takes_the_shortest_way_that_the_flags_allow() {
        assert_eq!(route(&[(KW, CIPHER | WRAP)], Wish::Auto, false), Ok(Method::Encrypt));
        assert_eq!(route(&[(KW, WRAP)], Wish::Auto, false), Ok(Method::Object));
        assert_eq!(route(&[(sys::CKM_AES_ECB, CIPHER)], Wish::Auto, false), Ok(Method::Ecb));
    }

    #[test]
    fn a_mechanism_without_flags_is_as_good_as_none() {
        // The YubiHSM 2 lists KWP with neither flag set.
        assert!(route(&[(KW, sys::CKF_HW)], Wish::Auto, false).is_err());
    }

    #[test]
    fn fips_never_ends_on_the_host() {
        let why = route(&[(sys::CKM_AES_ECB, CIPHER)], Wish::Auto, true).unwrap_err();
        assert!(why.contains("require-fips"), "{why}");
    }

    #[test]
    fn a_named_method_is_not_second_guessed() {
        assert_eq!(route(&[], Wish::Object, false), Ok(Method::Object));
    }
}
