#![forbid(unsafe_code)]
//! The one place where our errors become gRPC codes.

use tonic::{Code, Status};

use crate::keyring;
use crate::token;
use crate::token::protocol::Class;

/// The code and the text that the caller gets.
#[must_use]
pub fn from_keyring(error: &keyring::Error) -> Status {
    Status::new(code(error), error.to_string())
}

fn code(error: &keyring::Error) -> Code {
    match error {
        keyring::Error::NoActiveKek(_)
        | keyring::Error::Record(_)
        | keyring::Error::NotesHidden => Code::FailedPrecondition,
        keyring::Error::UnknownKeyId(_) => Code::NotFound,
        keyring::Error::Token(error) => match error {
            token::Error::QueueFull(_) => Code::ResourceExhausted,
            token::Error::Deadline => Code::DeadlineExceeded,
            token::Error::Unavailable(_) | token::Error::Dropped | token::Error::CrashesModule => {
                Code::Unavailable
            }
            token::Error::Failed(failure) => of_class(failure.class),
        },
    }
}

const fn of_class(class: Class) -> Code {
    match class {
        Class::BadBlob => Code::InvalidArgument,
        Class::UnknownKek => Code::NotFound,
        Class::Expired => Code::DeadlineExceeded,
        Class::Refused => Code::FailedPrecondition,
        Class::SessionLost
        | Class::TokenLost
        | Class::Hung
        | Class::Module
        | Class::NoToken
        | Class::PinSource
        | Class::PinWrong
        | Class::PinAtRisk => Code::Unavailable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::protocol::Failure;

    fn failed(class: Class) -> Code {
        let failure = Failure::new(class, "why");
        code(&keyring::Error::Token(token::Error::Failed(failure)))
    }

    #[test]
    fn every_fault_has_the_code_of_the_contract() {
        assert_eq!(failed(Class::BadBlob), Code::InvalidArgument);
        assert_eq!(failed(Class::UnknownKek), Code::NotFound);
        assert_eq!(failed(Class::Refused), Code::FailedPrecondition);
        assert_eq!(failed(Class::TokenLost), Code::Unavailable);
        let of = |error| code(&keyring::Error::Token(error));
        assert_eq!(of(token::Error::QueueFull(1)), Code::ResourceExhausted);
        assert_eq!(of(token::Error::Deadline), Code::DeadlineExceeded);
        assert_eq!(code(&keyring::Error::UnknownKeyId(String::new())), Code::NotFound);
        assert_eq!(code(&keyring::Error::NoActiveKek(String::new())), Code::FailedPrecondition);
    }
}
