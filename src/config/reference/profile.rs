//! The keys of a profile, which `[token]` takes as well.

#![forbid(unsafe_code)]

use super::Key;

/// Every key that a profile, and `[token]` of the configuration, may hold.
pub const PROFILE: &[Key] = keys! {
    /// how RFC 3394 is done: `object` (C_CreateObject, C_WrapKey; C_UnwrapKey,
    /// C_GetAttributeValue), `encrypt` (C_Encrypt, C_Decrypt with the key-wrap mechanism), `ecb`
    /// (on the host, over AES blocks that the token encrypts), or `auto`: what the token's
    /// mechanism flags allow. All give the same bytes
    "method" = "auto";
    /// number of the mechanism for RFC 3394
    "kw-mechanism" = 0x2109;
    /// the same for RFC 5649, which only lengths that are no multiple of 8 need
    "kwp-method" = "auto";
    /// number of the mechanism for RFC 5649; needed for `kwp-method` `object` and `encrypt`
    "kwp-mechanism": "none";
    /// the block cipher for `ecb`: `aes-ecb` or `aes-cbc`
    "ecb-mechanism" = "aes-ecb";
    /// blocks are sent with C_EncryptUpdate; otherwise each is a call of its own
    "ecb-stream" = true;
    /// worker processes, 1 to 16
    "workers" = 1;
    /// sessions in each worker, 1 to 64
    "sessions" = 4;
    /// jobs that are sent ahead to a busy session, 1 to 64
    "pipeline-depth" = 1;
    /// open sessions with CKF_RW_SESSION
    "read-write-sessions" = false;
    /// CKA_PRIVATE of the short-lived object that a seed becomes
    "seed-private" = true;
    /// each wrapped seed is unwrapped and compared before it is given out, so that a fault of the
    /// token cannot make data that nobody can read. An Encrypt costs twice as much;
    /// kube-apiserver needs one every few minutes
    "verify-wraps" = false;
    /// CKA_VALUE_LEN in the template of C_UnwrapKey: `require`, `forbid`, `optional`
    "value-len" = "optional";
    /// `user`, or `none` for a token that wants no login
    "login" = "user";
    /// a vendor's CKU number instead of CKU_USER
    "login-user-type": "none";
    /// one process at a time may log in or change the token, and none searches it meanwhile, over
    /// all on this host that use the module
    "login-lock" = false;
    /// text for C_Initialize, for modules that want one
    "init-args": "none";
    /// C_Initialize with CKF_OS_LOCKING_OK
    "os-locking" = true;
    /// C_Finalize when a worker ends
    "finalize" = true;
    /// keys made by others are seen only after C_Initialize
    "new-keys-need-initialize" = false;
    /// the token stores data objects (CKO_DATA). p11-kms keeps its record of the KEKs in one:
    /// private, CKA_APPLICATION `p11-kms`, CKA_LABEL that of the keyring with `.record` after it.
    /// `false`: there is no record on the token
    "data-objects" = true;
    /// a new KEK is given the day as CKA_START_DATE; where the token refuses that, it is made
    /// without
    "start-date" = true;
    /// the template of a new KEK says false to each right that the method does not need. Where the
    /// token refuses one of CKA_SIGN, CKA_VERIFY and CKA_DERIVE, the KEK is made without that one.
    /// `false`: the template leaves all of these out, for a token that fails over them
    "deny-rights" = true;
    /// the CKA_KEY_TYPE of KEKs in a search: `aes`, or `generic-secret` for a module that shows
    /// AES keys so. New KEKs are made as AES keys all the same
    "key-type" = "aes";
    /// all memory that the module frees is wiped (glibc only). `false` for a module that wipes its
    /// secrets by itself: each call takes less CPU then. Or for one that crashes with it: it uses
    /// what it has freed, or what it has never set
    "wipe-freed-memory" = true;
    /// a worker is replaced after so many session objects; 0: never
    "replace-after-objects" = 0;
    /// the longest call to the token, 100ms to 1m; then its worker is replaced
    "call-timeout" = "2s";
    /// the longest start of a worker, 100ms to 10m
    "start-timeout" = "15s";
    /// CKR numbers that mean a lost token, beside the known ones
    "errors-token-lost" = [];
    /// ... a lost session
    "errors-session-lost" = [];
    /// ... that can mean anything: a known good wrap and unwrap decides
    "errors-ambiguous" = [];
    /// ... a damaged ciphertext
    "errors-bad-input" = [];
    /// ... a bad PIN
    "errors-pin" = [];
    /// of a profile: the token family, for people
    "description" = "";
    /// of a profile: this project's tests run on it
    "verified" = false;
    /// of a profile: where the module usually is
    "module-paths" = [];
};
