#![forbid(unsafe_code)]
//! What happens to the PIN, for those who want to know.

use std::sync::Arc;

use super::protocol::{Class, Failure};

/// Who hears of it.
pub type Tell = Arc<dyn Fn(PinEvent) + Send + Sync>;

/// Something that happened to the PIN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PinEvent {
    /// A worker logged in with it.
    Accepted,
    /// The token said that it is wrong.
    Refused,
    /// The token has locked it: no login was tried, or none will be any more.
    Locked,
    /// One more wrong one would lock it: no login was tried.
    FinalTry,
    /// A login did not come back, and a wrong one was counted: no other was tried.
    CountLow,
    /// A login failed in a way that could mean a wrong one.
    Unclear,
    /// No login is tried any more until somebody changes something.
    Latched,
    /// Logins are tried again, and this one was good.
    Cleared,
}

impl PinEvent {
    /// Its name, as the audit log has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Refused => "refused",
            Self::Locked => "locked",
            Self::FinalTry => "final-try",
            Self::CountLow => "count-low",
            Self::Unclear => "unclear",
            Self::Latched => "latched",
            Self::Cleared => "cleared",
        }
    }

    /// What a failure that latches says of the PIN. Which flag or error it was stands in its
    /// text, by the name of the standard.
    pub(super) fn of(failure: &Failure) -> Self {
        let names = |name| failure.message.contains(name);
        match failure.class {
            _ if names("USER_PIN_FINAL_TRY") => Self::FinalTry,
            _ if names("USER_PIN_LOCKED") || names("CKR_PIN_LOCKED") => Self::Locked,
            _ if names("USER_PIN_COUNT_LOW") => Self::CountLow,
            Class::PinWrong => Self::Refused,
            _ => Self::Unclear,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standards_names_tell_which_it_was() {
        let of = |class, text: &str| PinEvent::of(&Failure::new(class, text));
        assert_eq!(of(Class::PinWrong, "CKR_PIN_INCORRECT"), PinEvent::Refused);
        assert_eq!(of(Class::PinWrong, "CKR_PIN_LOCKED (0xa4)"), PinEvent::Locked);
        assert_eq!(of(Class::PinAtRisk, "(CKF_USER_PIN_FINAL_TRY), so"), PinEvent::FinalTry);
        assert_eq!(of(Class::PinAtRisk, "CKR_FUNCTION_FAILED"), PinEvent::Unclear);
    }
}
