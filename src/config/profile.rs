//! What differs between families of tokens. This file and `hsm-profiles/` are
//! the only places that may name a vendor.

#![forbid(unsafe_code)]

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::ConfigError;
use super::source::{self, Settings};
use super::value::{boolean, choice, count, duration, list, number, plain_text, quoted};

/// A file of `hsm-profiles/`, built into the binary.
macro_rules! built_in {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../hsm-profiles/", $name, ".toml")))),*]
    };
}

/// The profiles in the binary: name and text.
const BUILT_IN: &[(&str, &str)] = built_in![
    "aws-cloudhsm",
    "azure-cloud-hsm",
    "fortanix",
    "generic",
    "kryoptic",
    "kryoptic-fips",
    "luna",
    "nethsm",
    "nshield",
    "nss",
    "nss-fips",
    "opencryptoki",
    "primus",
    "softhsm",
    "tpm2",
    "utimaco",
    "yubihsm2",
];

/// The profile of a configuration that names none: everything is found out.
pub const DEFAULT_PROFILE: &str = "generic";

/// `CKM_AES_KEY_WRAP`, RFC 3394 (PKCS#11 v3.1, section 6.14).
const CKM_AES_KEY_WRAP: u64 = 0x2109;

/// How a KEK is used on the token. All of them give the bytes of RFC 3394 or
/// RFC 5649, so a KEK may move between them.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Whatever the flags of `C_GetMechanismInfo` allow.
    Auto,
    /// `C_CreateObject`, `C_WrapKey`; `C_UnwrapKey`, `C_GetAttributeValue`.
    Object,
    /// `C_Encrypt` and `C_Decrypt` with the key-wrap mechanism.
    Encrypt,
    /// Key wrap on the host over a block cipher on the token.
    Ecb,
}

/// The block cipher under [`Method::Ecb`].
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum EcbMechanism {
    /// `CKM_AES_ECB`.
    Ecb,
    /// `CKM_AES_CBC` of one block with an IV of zeros, which is the same.
    Cbc,
}

/// Whether `CKA_VALUE_LEN` stands in the template of `C_UnwrapKey`.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum ValueLen {
    /// The token wants it.
    Require,
    /// The token refuses it.
    Forbid,
    /// The token takes both; it is left out.
    Optional,
}

/// What a KEK's `CKA_KEY_TYPE` is in a search.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum KekType {
    /// `CKK_AES`
    Aes,
    /// `CKK_GENERIC_SECRET`: what some modules show an AES key as.
    GenericSecret,
}

/// Who logs in.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Login {
    /// `CKU_USER`, or [`Profile::login_user_type`], with the PIN.
    User,
    /// Nobody: the token serves whoever reaches it.
    None,
}

/// Whatever differs between families of tokens. The front sends it to the
/// worker as JSON.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Its built-in name, or the path of its file.
    pub name: String,
    /// The token family, and what its module wants from the environment.
    pub description: String,
    /// Whether this project's tests run on it; otherwise it follows the
    /// vendor's documentation.
    pub verified: bool,
    /// Where the module usually is: a hint when it is not where it should be.
    pub module_paths: Vec<String>,
    /// How KW (RFC 3394) is done.
    pub method: Method,
    /// The number of the mechanism that does KW.
    pub kw_mechanism: u64,
    /// How KWP (RFC 5649) is done; never [`Method::Object`] or
    /// [`Method::Encrypt`] without [`Profile::kwp_mechanism`].
    pub kwp_method: Method,
    /// The number of the mechanism that does KWP; none where the token has none,
    /// so that [`Method::Auto`] means [`Method::Ecb`].
    pub kwp_mechanism: Option<u64>,
    /// The block cipher for [`Method::Ecb`].
    pub ecb_mechanism: EcbMechanism,
    /// Whether `C_EncryptUpdate` gives each block back at once and carries a CBC
    /// chain on. Otherwise each block is a `C_EncryptInit` and a `C_Encrypt`.
    pub ecb_stream: bool,
    /// Worker processes, 1 to 16.
    pub workers: usize,
    /// Sessions in each worker, 1 to 64.
    pub sessions: usize,
    /// Jobs sent ahead to a busy session, 1 to 64.
    pub pipeline_depth: usize,
    /// Whether sessions are opened with `CKF_RW_SESSION`.
    pub read_write_sessions: bool,
    /// `CKA_PRIVATE` of the session object that a seed becomes.
    pub seed_private: bool,
    /// Whether each blob is unwrapped and compared before it is given out.
    pub verify_wraps: bool,
    /// Whether `CKA_VALUE_LEN` stands in the template of `C_UnwrapKey`.
    pub value_len: ValueLen,
    /// Who logs in.
    pub login: Login,
    /// A vendor's `CKU_` number instead of `CKU_USER`.
    pub login_user_type: Option<u64>,
    /// Whether one process at a time may log in or change the token, over all on this
    /// host that use the module.
    pub login_lock: bool,
    /// `pReserved` of `C_Initialize`, a C string to modules that want one.
    pub init_args: Option<String>,
    /// Whether `C_Initialize` is called with `CKF_OS_LOCKING_OK`.
    pub os_locking: bool,
    /// Whether `C_Finalize` is called when a worker ends.
    pub finalize: bool,
    /// Whether keys that others made are seen only after `C_Initialize`.
    pub new_keys_need_initialize: bool,
    /// Whether the token stores data objects (`CKO_DATA`) well enough for notes.
    pub data_objects: bool,
    /// Whether a new key is given `CKA_START_DATE`.
    pub start_date: bool,
    /// Whether a new key's template says false to each right that it does not need.
    pub deny_rights: bool,
    /// What a search for KEKs takes for one.
    pub key_type: KekType,
    /// Whether all memory that the module frees is to be wiped.
    pub wipe_freed_memory: bool,
    /// How many session objects a worker may create before it is replaced; none
    /// where the module frees them.
    pub replace_after_objects: Option<u64>,
    /// The longest that one PKCS#11 call may take before the worker is killed.
    #[serde(with = "human")]
    pub call_timeout: Duration,
    /// The longest that loading the module and logging in may take.
    #[serde(with = "human")]
    pub start_timeout: Duration,
    /// `CKR_` numbers that mean a lost token, beside the built-in ones.
    pub errors_token_lost: Vec<u64>,
    /// `CKR_` numbers that mean a lost session, beside the built-in ones.
    pub errors_session_lost: Vec<u64>,
    /// `CKR_` numbers that can mean anything, beside the built-in ones.
    pub errors_ambiguous: Vec<u64>,
    /// `CKR_` numbers that mean a bad blob, beside the built-in ones.
    pub errors_bad_input: Vec<u64>,
    /// `CKR_` numbers that mean a bad PIN, beside the built-in ones.
    pub errors_pin: Vec<u64>,
}

impl Profile {
    /// A profile of the binary, as it is.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn built_in(name: &str) -> Result<Self, ConfigError> {
        let about = |what| ConfigError::about(format!("profile {}", quoted(name)), what);
        let mut settings = settings_of(name).map_err(about)?;
        let profile = from_settings(name, &mut settings);
        settings.finish(profile)
    }

    /// Reads the text of a profile; `name` is its name, and its place in errors.
    ///
    /// # Errors
    /// Something in it is wrong: see [`ConfigError`].
    pub fn parse(name: &str, text: &str) -> Result<Self, ConfigError> {
        let mut settings = Settings::new(name);
        settings.add_profile(text)?;
        let profile = from_settings(name, &mut settings);
        settings.finish(profile)
    }

    /// The names of the profiles in the binary, in order.
    pub fn built_in_names() -> impl Iterator<Item = &'static str> {
        BUILT_IN.iter().map(|(name, _)| *name)
    }
}

/// The values of a profile, by its built-in name or by the path of a file.
pub(super) fn settings_of(name: &str) -> Result<Settings, String> {
    if name.contains('/') {
        let text = source::read_file(Path::new(name))
            .map_err(|error| format!("cannot read profile {}: {error}", quoted(name)))?;
        let mut settings = Settings::new(name);
        settings.add_profile(&text).map_err(|error| error.to_string())?;
        return Ok(settings);
    }
    let Some((name, text)) = BUILT_IN.iter().find(|(known, _)| *known == name) else {
        let names: Vec<&str> = Profile::built_in_names().collect();
        return Err(format!(
            "unknown profile {}: use one of {}, or the path of a file, with a / in it",
            quoted(name),
            names.join(", ")
        ));
    };
    let mut settings = Settings::new(format!("built-in profile {name}"));
    settings.add_profile(text).map_err(|error| error.to_string())?;
    Ok(settings)
}

/// Reads every value and puts the defaults in; none where `settings` now has a
/// problem that no default can hide.
pub(super) fn from_settings(name: &str, settings: &mut Settings) -> Option<Profile> {
    const METHODS: &[(&str, Method)] = &[
        ("auto", Method::Auto),
        ("object", Method::Object),
        ("encrypt", Method::Encrypt),
        ("ecb", Method::Ecb),
    ];
    const CIPHERS: &[(&str, EcbMechanism)] =
        &[("aes-ecb", EcbMechanism::Ecb), ("aes-cbc", EcbMechanism::Cbc)];
    const VALUE_LENS: &[(&str, ValueLen)] = &[
        ("require", ValueLen::Require),
        ("forbid", ValueLen::Forbid),
        ("optional", ValueLen::Optional),
    ];
    const KEY_TYPES: &[(&str, KekType)] =
        &[("aes", KekType::Aes), ("generic-secret", KekType::GenericSecret)];
    const LOGINS: &[(&str, Login)] = &[("user", Login::User), ("none", Login::None)];
    const SHORTEST: Duration = Duration::from_millis(100);

    // A CK_ULONG.
    let any = || number(0..=u64::MAX);
    let replace_after = settings.read_or("replace-after-objects", 0, any());
    let profile = Profile {
        name: name.into(),
        description: settings.read_or("description", String::new(), plain_text),
        verified: settings.read_or("verified", false, boolean),
        module_paths: settings.read_or("module-paths", Vec::new(), list(plain_text)),
        method: settings.read_or("method", Method::Auto, choice(METHODS)),
        kw_mechanism: settings.read_or("kw-mechanism", CKM_AES_KEY_WRAP, any()),
        kwp_method: settings.read_or("kwp-method", Method::Auto, choice(METHODS)),
        kwp_mechanism: settings.read("kwp-mechanism", any()),
        ecb_mechanism: settings.read_or("ecb-mechanism", EcbMechanism::Ecb, choice(CIPHERS)),
        ecb_stream: settings.read_or("ecb-stream", true, boolean),
        workers: settings.read_or("workers", 1, count(1..=16)),
        sessions: settings.read_or("sessions", 4, count(1..=64)),
        pipeline_depth: settings.read_or("pipeline-depth", 1, count(1..=64)),
        read_write_sessions: settings.read_or("read-write-sessions", false, boolean),
        seed_private: settings.read_or("seed-private", true, boolean),
        verify_wraps: settings.read_or("verify-wraps", false, boolean),
        value_len: settings.read_or("value-len", ValueLen::Optional, choice(VALUE_LENS)),
        login: settings.read_or("login", Login::User, choice(LOGINS)),
        login_user_type: settings.read("login-user-type", any()),
        login_lock: settings.read_or("login-lock", false, boolean),
        init_args: settings.read("init-args", plain_text),
        os_locking: settings.read_or("os-locking", true, boolean),
        finalize: settings.read_or("finalize", true, boolean),
        new_keys_need_initialize: settings.read_or("new-keys-need-initialize", false, boolean),
        data_objects: settings.read_or("data-objects", true, boolean),
        start_date: settings.read_or("start-date", true, boolean),
        deny_rights: settings.read_or("deny-rights", true, boolean),
        key_type: settings.read_or("key-type", KekType::Aes, choice(KEY_TYPES)),
        wipe_freed_memory: settings.read_or("wipe-freed-memory", true, boolean),
        replace_after_objects: (replace_after > 0).then_some(replace_after),
        call_timeout: settings.read_or(
            "call-timeout",
            Duration::from_secs(2),
            duration(SHORTEST, Duration::from_secs(60)),
        ),
        start_timeout: settings.read_or(
            "start-timeout",
            Duration::from_secs(15),
            duration(SHORTEST, Duration::from_secs(600)),
        ),
        errors_token_lost: settings.read_or("errors-token-lost", Vec::new(), list(any())),
        errors_session_lost: settings.read_or("errors-session-lost", Vec::new(), list(any())),
        errors_ambiguous: settings.read_or("errors-ambiguous", Vec::new(), list(any())),
        errors_bad_input: settings.read_or("errors-bad-input", Vec::new(), list(any())),
        errors_pin: settings.read_or("errors-pin", Vec::new(), list(any())),
    };
    let needs_mechanism = matches!(profile.kwp_method, Method::Object | Method::Encrypt);
    if needs_mechanism && profile.kwp_mechanism.is_none() {
        settings.refuse(
            "kwp-method",
            "needs kwp-mechanism, the number of the token's RFC 5649 mechanism",
        );
    }
    if !profile.os_locking && profile.sessions > 1 {
        settings
            .refuse("sessions", "must be 1 with os-locking = false: modules crash without locks");
    }
    if profile.new_keys_need_initialize && profile.workers > 1 {
        settings.refuse(
            "workers",
            "must be 1 with new-keys-need-initialize, so that a search is never answered by an older one",
        );
    }
    (!settings.is_bad()).then_some(profile)
}

/// Durations as people write them: exact to the nanosecond, both ways.
mod human {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(value: &Duration, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&humantime::format_duration(*value))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
        humantime::parse_duration(&String::deserialize(d)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn read(text: &str) -> Result<Profile, String> {
        Profile::parse("p.toml", text).map_err(|error| error.to_string())
    }

    #[test]
    fn every_file_is_built_in_and_good() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/hsm-profiles");
        let mut files: Vec<String> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .map(|name| name.strip_suffix(".toml").unwrap().to_string())
            .collect();
        files.sort();
        assert_eq!(files, Profile::built_in_names().collect::<Vec<_>>());
        for name in files {
            let profile = Profile::built_in(&name).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(profile.name, name);
            assert!(!profile.description.is_empty(), "{name}");
            assert!(name == "generic" || !profile.module_paths.is_empty(), "{name}");
            assert!(profile.module_paths.iter().all(|path| path.starts_with('/')), "{name}");
            let json = serde_json::to_string(&profile).unwrap();
            assert_eq!(serde_json::from_str::<Profile>(&json).unwrap(), profile);
        }
    }

    #[test]
    fn defaults_are_what_pkcs11_promises() {
        let profile = read("").unwrap();
        assert_eq!(profile.method, Method::Auto);
        assert_eq!((profile.kw_mechanism, profile.kwp_mechanism), (0x2109, None));
        assert_eq!(profile.kwp_method, Method::Auto);
        assert_eq!((profile.ecb_mechanism, profile.ecb_stream), (EcbMechanism::Ecb, true));
        assert_eq!((profile.workers, profile.sessions, profile.pipeline_depth), (1, 4, 1));
        assert!(profile.seed_private && profile.os_locking && profile.finalize);
        assert!(!profile.read_write_sessions && !profile.new_keys_need_initialize);
        assert!(!profile.verified && !profile.verify_wraps);
        assert!(profile.data_objects && profile.start_date && profile.deny_rights);
        assert!(profile.wipe_freed_memory);
        assert_eq!(profile.key_type, KekType::Aes);
        assert_eq!((profile.value_len, profile.login), (ValueLen::Optional, Login::User));
        assert_eq!((profile.login_user_type, profile.init_args), (None, None));
        assert_eq!(profile.replace_after_objects, None);
        assert_eq!(profile.call_timeout, Duration::from_secs(2));
        assert_eq!(profile.start_timeout, Duration::from_secs(15));
    }

    #[test]
    fn what_was_measured_with_softhsm_stands_in_its_profile() {
        let profile = Profile::built_in("softhsm").unwrap();
        assert!(profile.verified && !profile.seed_private);
        assert_eq!((profile.method, profile.kwp_method), (Method::Object, Method::Ecb));
        assert_eq!((profile.workers, profile.sessions, profile.pipeline_depth), (2, 1, 32));
        assert_eq!(profile.value_len, ValueLen::Forbid);
        assert_eq!(profile.replace_after_objects, Some(10_000));
        assert_eq!(profile.errors_ambiguous, [5]);
        assert!(profile.data_objects && !profile.start_date);
    }

    #[test]
    fn every_value_is_read() {
        let profile = read(
            "method = 'object'\nkw-mechanism = 0x80000170\nkwp-method = 'encrypt'\n\
             kwp-mechanism = 0x210B\necb-mechanism = 'aes-cbc'\necb-stream = false\n\
             workers = 16\nsessions = 64\npipeline-depth = 64\nread-write-sessions = true\n\
             value-len = 'require'\nlogin = 'none'\nlogin-user-type = 0x80000001\n\
             init-args = \"configdir='sql:/x'\"\n\
             os-locking = true\nfinalize = false\nnew-keys-need-initialize = false\n\
             login-lock = true\nverify-wraps = true\ndata-objects = false\n\
             start-date = false\ndeny-rights = false\nkey-type = 'generic-secret'\n\
             wipe-freed-memory = false\n\
             replace-after-objects = 0\ncall-timeout = '1500ms'\nerrors-token-lost = [1]\n\
             errors-session-lost = [2]\nerrors-ambiguous = [3]\nerrors-bad-input = [4]\n\
             errors-pin = [5]",
        )
        .unwrap();
        assert_eq!(profile.method, Method::Object);
        assert_eq!((profile.kw_mechanism, profile.kwp_mechanism), (0x8000_0170, Some(0x210B)));
        assert_eq!(profile.kwp_method, Method::Encrypt);
        assert_eq!((profile.ecb_mechanism, profile.ecb_stream), (EcbMechanism::Cbc, false));
        assert_eq!((profile.workers, profile.sessions, profile.pipeline_depth), (16, 64, 64));
        assert!(profile.read_write_sessions && profile.login_lock && profile.verify_wraps);
        assert!(profile.os_locking && !profile.finalize);
        assert!(!profile.data_objects && !profile.start_date && !profile.deny_rights);
        assert!(!profile.wipe_freed_memory);
        assert_eq!(profile.key_type, KekType::GenericSecret);
        assert_eq!((profile.value_len, profile.login), (ValueLen::Require, Login::None));
        assert_eq!(profile.login_user_type, Some(0x8000_0001));
        assert_eq!(profile.init_args.as_deref(), Some("configdir='sql:/x'"));
        assert_eq!(profile.replace_after_objects, None);
        assert_eq!(profile.call_timeout, Duration::from_millis(1500));
        let errors =
            [profile.errors_token_lost, profile.errors_session_lost, profile.errors_ambiguous];
        assert_eq!(errors, [[1], [2], [3]]);
        assert_eq!([profile.errors_bad_input, profile.errors_pin], [[4], [5]]);
    }

    #[test]
    fn bad_values_are_refused_with_what_is_right() {
        for (text, expected) in [
            (
                "method = 'gcm'",
                "p.toml, line 1: method: must be one of \"auto\", \"object\", \"encrypt\", \"ecb\", not \"gcm\"",
            ),
            ("\nworkers = 0", "p.toml, line 2: workers: must be from 1 to 16, not 0"),
            ("sessions = 65", "sessions: must be from 1 to 64, not 65"),
            ("pipeline-depth = 0", "pipeline-depth: must be from 1 to 64, not 0"),
            ("kw-mechanism = -1", "kw-mechanism: must be from 0 to"),
            ("kw-mechanism = '0x2109'", "kw-mechanism: must be a number, without quotes"),
            ("ecb-mechanism = 'ecb'", "must be one of \"aes-ecb\", \"aes-cbc\""),
            ("value-len = true", "value-len: must be a string in quotes, not true or false"),
            ("key-type = 'des'", "key-type: must be one of \"aes\", \"generic-secret\""),
            ("login = 'so'", "login: must be one of \"user\", \"none\""),
            ("init-args = \"a\\u0000\"", "init-args: must have no control characters"),
            ("call-timeout = 2", "call-timeout: needs a unit and quotes, such as \"2s\""),
            ("call-timeout = '99ms'", "call-timeout: must be from 100ms to 1m, not 99ms"),
            ("call-timeout = '61s'", "call-timeout: must be from 100ms to 1m, not 1m 1s"),
            ("start-timeout = '1h'", "start-timeout: must be from 100ms to 10m, not 1h"),
            ("errors-pin = ['x']", "errors-pin: every item must be a number"),
            ("kwp-method = 'encrypt'", "kwp-method: needs kwp-mechanism"),
            ("sesions = 1", "p.toml, line 1: sesions: unknown key; did you mean sessions?"),
            ("[token]", "token: unknown key"),
            ("pin = '1234'", "pin: a PIN never stands in a configuration"),
            ("method", "p.toml, line 1: not valid TOML"),
            ("os-locking = false", "sessions: must be 1 with os-locking = false"),
            ("new-keys-need-initialize = true\nworkers = 2", "workers: must be 1 with"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn a_profile_that_is_not_there_is_met_with_those_that_are() {
        let error = settings_of("softhsm3").unwrap_err();
        assert!(error.contains("use one of aws-cloudhsm,"), "{error}");
        let error = settings_of("/nowhere/p.toml").unwrap_err();
        assert!(error.contains("\"/nowhere/p.toml\": No such file"), "{error}");
        assert!(Profile::built_in("x").unwrap_err().to_string().starts_with("profile \"x\": "));
    }
}
