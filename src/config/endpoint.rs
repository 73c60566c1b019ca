//! Where the daemon listens, as kube-apiserver writes it.

#![forbid(unsafe_code)]

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use thiserror::Error;

/// What a `sockaddr_un` can name: 108 bytes, one of which is a NUL, after a path
/// or before an abstract name (unix(7)).
const LONGEST: usize = 107;

/// A Unix socket, in the forms that kube-apiserver takes for a KMS provider's
/// `endpoint`: `unix:///path` and `unix:///@name`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A socket in the file system, by its absolute path.
    Path(PathBuf),
    /// A socket in Linux's abstract namespace, by its name without the `@`.
    Abstract(String),
}

/// Why a text is not an [`Endpoint`].
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum EndpointError {
    /// It does not begin with `unix:///`.
    #[error(
        "is not a Unix socket: write \"unix:///run/p11-kms/kms.sock\", or \"unix:///@name\" for \
         an abstract one"
    )]
    Form,
    /// There are two slashes, so that the path looks like a host.
    #[error("has one slash too few: write \"unix:///{0}\"")]
    TwoSlashes(String),
    /// There is nothing after the slashes.
    #[error("names no socket: write \"unix:///run/p11-kms/kms.sock\"")]
    Empty,
    /// A byte that kube-apiserver, which parses it as a URL, would read otherwise.
    #[error(
        "must not hold {0:?}: kube-apiserver reads it as a URL and would look for another socket"
    )]
    Character(char),
    /// It ends like a directory or goes upwards.
    #[error(
        "must be the plain path of a socket, without \".\" or \"..\" and with no slash at its end"
    )]
    Path,
    /// The system cannot name it.
    #[error("is {0} bytes long without unix://, and the system takes at most {LONGEST}")]
    Length(usize),
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let rest = text.strip_prefix("unix://").ok_or(EndpointError::Form)?;
        let bad = |c: char| c.is_control() || matches!(c, '%' | '?' | '#');
        if let Some(c) = rest.chars().find(|c| bad(*c)) {
            return Err(EndpointError::Character(c));
        }
        let name = match rest.strip_prefix('/') {
            Some(name) => name,
            None if rest.is_empty() => return Err(EndpointError::Empty),
            None => {
                return Err(EndpointError::TwoSlashes(rest.chars().take(LONGEST).collect()));
            }
        };
        if let Some(name) = name.strip_prefix('@') {
            return match name.len() {
                0 => Err(EndpointError::Empty),
                1..=LONGEST => Ok(Self::Abstract(name.into())),
                length => Err(EndpointError::Length(length)),
            };
        }
        if name.is_empty() {
            return Err(EndpointError::Empty);
        }
        if name.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(EndpointError::Path);
        }
        if rest.len() > LONGEST {
            return Err(EndpointError::Length(rest.len()));
        }
        Ok(Self::Path(PathBuf::from(rest)))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "unix://{}", path.display()),
            Self::Abstract(name) => write!(f, "unix:///@{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn error(text: &str) -> String {
        text.parse::<Endpoint>().unwrap_err().to_string()
    }

    #[test]
    fn both_forms_are_read() {
        let path = "unix:///run/p11-kms/kms.sock".parse();
        assert_eq!(path, Ok(Endpoint::Path("/run/p11-kms/kms.sock".into())));
        assert_eq!("unix:///@p11-kms".parse(), Ok(Endpoint::Abstract("p11-kms".into())));
    }

    #[test]
    fn what_is_not_a_socket_is_refused_with_the_right_form() {
        for text in ["", "http://localhost:1", "/run/kms.sock", "kms.sock", "unix:/run/kms.sock"] {
            assert!(error(text).contains("\"unix:///run/p11-kms/kms.sock\""), "{text}");
        }
        assert!(error("unix://run/kms.sock").contains("\"unix:///run/kms.sock\""));
        assert!(error("unix://@kms").contains("\"unix:///@kms\""));
        for text in ["unix://", "unix:///", "unix:///@"] {
            assert!(error(text).contains("names no socket"), "{text}");
        }
    }

    #[test]
    fn what_a_url_parser_changes_is_refused() {
        for text in ["unix:///a%20b", "unix:///a?b", "unix:///a#b", "unix:///a\0b", "unix:///@a\nb"]
        {
            assert!(error(text).contains("must not hold"), "{text}");
        }
        for text in ["unix:///run/", "unix:///run/../kms", "unix:////run/kms", "unix:///./kms"] {
            assert!(error(text).contains("plain path"), "{text}");
        }
    }

    #[test]
    fn the_longest_name_is_the_systems() {
        let path = format!("unix:///{}", "a".repeat(106));
        assert!(path.parse::<Endpoint>().is_ok());
        assert!(error(&format!("{path}a")).contains("is 108 bytes long"));
        let name = format!("unix:///@{}", "a".repeat(107));
        assert!(name.parse::<Endpoint>().is_ok());
        assert!(error(&format!("{name}a")).contains("at most 107"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_and_comes_back(text in "(unix:/{0,4})?\\PC*|.*") {
            if let Ok(endpoint) = text.parse::<Endpoint>() {
                prop_assert_eq!(endpoint.to_string(), text);
            }
        }

        #[test]
        fn good_endpoints_come_back(path in "(/[a-zA-Z0-9_.-]{1,20}x){1,4}", name in "[a-zA-Z0-9 _.:@/-]{1,100}") {
            let path = Endpoint::Path(path.into());
            prop_assert_eq!(path.to_string().parse(), Ok(path));
            let name = Endpoint::Abstract(name);
            prop_assert_eq!(name.to_string().parse(), Ok(name));
        }
    }
}
