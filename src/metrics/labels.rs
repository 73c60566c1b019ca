#![forbid(unsafe_code)]
//! The values that labels may have. They are closed sets: nothing that a caller sends, and no text
//! of an error, ever becomes a label.

/// A label and all its values.
pub(super) trait Label: Copy + PartialEq + 'static {
    /// Every value, in the order of the enum.
    const ALL: &'static [Self];

    /// As it stands in the label.
    fn text(self) -> &'static str;
}

macro_rules! label {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $value:ident = $text:literal,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$doc])* $value,)+
        }

        impl $name {
            /// As it stands in the label.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$value => $text,)+
                }
            }
        }

        impl Label for $name {
            const ALL: &'static [Self] = &[$(Self::$value),+];

            fn text(self) -> &'static str {
                self.name()
            }
        }
    };
}

label! {
    /// A call of KMS v2.
    Method {
        /// How are you?
        Status = "Status",
        /// Wrap a seed.
        Encrypt = "Encrypt",
        /// Unwrap a blob.
        Decrypt = "Decrypt",
    }
}

label! {
    /// How a call ended: gRPC's codes, as grpc-go writes them.
    Code {
        /// Well.
        Ok = "Ok",
        /// The caller has gone before the end.
        Canceled = "Canceled",
        /// The request is not well formed, or the blob is not ours.
        InvalidArgument = "InvalidArgument",
        /// The time was over.
        DeadlineExceeded = "DeadlineExceeded",
        /// No KEK has that key_id.
        NotFound = "NotFound",
        /// The caller may not.
        PermissionDenied = "PermissionDenied",
        /// The message is too long.
        OutOfRange = "OutOfRange",
        /// The message cannot be read.
        Internal = "Internal",
        /// The queue is full.
        ResourceExhausted = "ResourceExhausted",
        /// There is no KEK to write with, or the token says no.
        FailedPrecondition = "FailedPrecondition",
        /// The token does not answer.
        Unavailable = "Unavailable",
        /// Any other.
        Unknown = "Unknown",
    }
}

label! {
    /// What a token is asked to do.
    Operation {
        /// Wrap a seed.
        Wrap = "wrap",
        /// Unwrap a blob.
        Unwrap = "unwrap",
        /// List KEKs and notes.
        Find = "find",
        /// Make a KEK.
        Generate = "generate",
        /// Bring a KEK onto the token.
        Import = "import",
        /// Destroy a KEK.
        Destroy = "destroy",
        /// Tell all that `check` asks of a token.
        Inspect = "inspect",
        /// Keep a note.
        WriteNote = "write_note",
    }
}

label! {
    /// How an operation or the start of a worker ended: the classes of the protocol between the
    /// processes, and `ok`.
    Outcome {
        /// It was done.
        Ok = "ok",
        /// The blob is damaged or foreign.
        BadBlob = "bad-blob",
        /// The token has no such KEK.
        UnknownKek = "unknown-kek",
        /// Its deadline had passed before it was begun.
        Expired = "expired",
        /// The token says no.
        Refused = "refused",
        /// The session or the login is gone.
        SessionLost = "session-lost",
        /// The device, the module or the process is gone.
        TokenLost = "token-lost",
        /// The module did not come back in time.
        Hung = "hung",
        /// The module cannot be loaded.
        Module = "module",
        /// No token fits the URI, or several do.
        NoToken = "no-token",
        /// The PIN cannot be read.
        PinSource = "pin-source",
        /// The PIN is wrong.
        PinWrong = "pin-wrong",
        /// A login could lock the token.
        PinAtRisk = "pin-at-risk",
    }
}

label! {
    /// Why a worker was started.
    StartReason {
        /// The first of its slot.
        First = "first",
        /// SIGHUP: the config or the PIN was read again.
        Config = "config",
        /// New eyes for the token: the active KEK went out of sight, or only a new worker shows
        /// new keys.
        Renewed = "renewed",
        /// The one before had made as many objects as the profile allows.
        Grown = "grown",
        /// The one before lost its session or its login.
        SessionLost = "session-lost",
        /// The one before died, or lost its token.
        TokenLost = "token-lost",
        /// The one before hung, and was killed.
        Hung = "hung",
        /// The one before found the PIN wrong, or at risk, when it had to log in again.
        Pin = "pin",
    }
}

label! {
    /// A line of the audit log.
    AuditEvent {
        /// The daemon begins.
        Start = "start",
        /// The daemon ends.
        Stop = "stop",
        /// An Encrypt.
        Encrypt = "encrypt",
        /// A Decrypt.
        Decrypt = "decrypt",
        /// A peer that may not connect.
        RefusedPeer = "refused-peer",
        /// What became of the PIN.
        Pin = "pin",
        /// Something was done to a KEK.
        Key = "key",
        /// Lines are missing here.
        Gap = "gap",
    }
}
