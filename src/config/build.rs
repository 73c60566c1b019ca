//! Puts a [`Config`] together and checks what spans several keys.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::Duration;

use nix::unistd::{Group, User};

use super::audit::audit;
use super::profile::{self, DEFAULT_PROFILE, Method, Profile};
use super::reference::PROFILE;
use super::reinstate::reinstate;
use super::source::Settings;
use super::value::{
    Value, absolute_path, boolean, count, duration, list, plain_text, quoted, small_number, text,
};
use super::{
    Config, DEFAULT_PREFIX, Endpoint, Etcd, EtcdEndpoint, Health, Keyring, Listen, Metrics,
    PinSource, Server, Token, TokenUri,
};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// The highest uid or gid; the one above it means "none" to the system.
const HIGHEST_ID: u32 = u32::MAX - 1;

/// The whole of it; none when `settings` now has a problem.
pub(super) fn config(settings: &mut Settings) -> Option<Config> {
    let token = token(settings);
    let keyring = keyring(settings);
    let server = server(settings);
    let health = Health {
        interval: settings.read_or("health.interval", 10 * SECOND, duration(SECOND, 600 * SECOND)),
    };
    let metrics = metrics(settings, &server.endpoint);
    let audit = audit(settings);
    let etcd = etcd(settings);
    Some(Config { token: token?, keyring, server, health, metrics, audit, etcd })
}

fn token(settings: &mut Settings) -> Option<Token> {
    let module =
        settings.require("token.module", "set it to the path of the PKCS#11 module", absolute_path);
    let uri = settings.require(
        "token.uri",
        "set it to a PKCS#11 URI that names the token, such as \"pkcs11:token=k8s\"",
        |value| text(value)?.parse::<TokenUri>().map_err(|error| error.to_string()),
    );
    let pin = pin(settings);
    let profile = profile(settings);
    let require_fips = settings.read_or("token.require-fips", false, boolean);
    let allow_weak_kek = settings.read_or("token.allow-weak-kek", false, boolean);
    if let Some(profile) = profile.as_ref().filter(|_| require_fips) {
        refuse_ecb(settings, profile);
    }
    Some(Token {
        module: module?,
        uri: uri?,
        pin: pin?,
        profile: profile?,
        require_fips,
        allow_weak_kek,
        allow_imported_kek: settings.read_or("token.allow-imported-kek", false, boolean),
    })
}

/// None of these errors shows a value: it may be the PIN, put in the wrong place.
fn pin(settings: &mut Settings) -> Option<PinSource> {
    let given = ["token.pin-file", "token.pin-credential"].map(|key| settings.has(key));
    match given {
        [true, true] => {
            let what = "token.pin-file is set as well: keep exactly one of the two";
            settings.refuse("token.pin-credential", what);
            None
        }
        [false, false] => {
            let what = "missing: set it to the path of a file with the user PIN, or set \
                        token.pin-credential to the name of a systemd credential";
            settings.refuse("token.pin-file", what);
            None
        }
        [true, false] => settings.read("token.pin-file", pin_file),
        [false, true] => settings.read("token.pin-credential", pin_credential),
    }
}

fn pin_file(value: &Value) -> Result<PinSource, String> {
    let path = plain_text(value)?;
    if !path.starts_with('/') {
        return Err("must be the absolute path of a file that holds the PIN, never the PIN".into());
    }
    Ok(PinSource::File(PathBuf::from(path)))
}

fn pin_credential(value: &Value) -> Result<PinSource, String> {
    let name = text(value)?;
    // What systemd takes for a name of a credential (systemd.exec(5)).
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | ':');
    let reserved = matches!(name.as_str(), "" | "." | "..");
    if reserved || name.len() > 255 || !name.chars().all(plain) {
        let what = "must be the name of a systemd credential, as in LoadCredential=NAME:PATH, \
                    never the PIN";
        return Err(what.into());
    }
    Ok(PinSource::Credential(name))
}

fn profile(settings: &mut Settings) -> Option<Profile> {
    let name = settings.read_or("token.profile", DEFAULT_PROFILE.into(), plain_text);
    let mut values = match profile::settings_of(&name) {
        Ok(values) => values,
        Err(what) => {
            settings.refuse("token.profile", what);
            return None;
        }
    };
    values.add_from_token(settings, PROFILE);
    let profile = profile::from_settings(&name, &mut values);
    settings.absorb(values);
    profile
}

/// The seeds that kube-apiserver sends are all wrapped with KW, so that no KWP
/// under `require-fips` is only an error where somebody asked for both.
fn refuse_ecb(settings: &mut Settings, profile: &Profile) {
    let what = "is \"ecb\", where the host takes part in the wrapping, and token.require-fips \
                forbids that: use \"encrypt\" or \"object\"";
    if profile.method == Method::Ecb {
        if settings.has("token.method") {
            settings.refuse("token.method", what);
        } else {
            let what = format!("method of profile {} {what}", quoted(&profile.name));
            settings.refuse("token.require-fips", what);
        }
    }
    if profile.kwp_method == Method::Ecb && settings.has("token.kwp-method") {
        settings.refuse("token.kwp-method", what);
    }
}

fn keyring(settings: &mut Settings) -> Keyring {
    let delay = duration(Duration::ZERO, 24 * HOUR);
    Keyring {
        label: settings.read_or("keyring.label", "k8s-kek".into(), label),
        scan_interval: settings.read_or(
            "keyring.scan-interval",
            10 * SECOND,
            duration(SECOND, HOUR),
        ),
        activation_delay: settings.read_or("keyring.activation-delay", 60 * SECOND, delay),
        state_dir: state_dir(settings),
        reinstate: settings.read("keyring.reinstate", reinstate),
    }
}

pub(super) fn state_dir(settings: &mut Settings) -> PathBuf {
    settings.read_or("keyring.state-dir", PathBuf::from("/var/lib/p11-kms"), absolute_path)
}

fn label(value: &Value) -> Result<String, String> {
    let label = plain_text(value)?;
    match label.len() {
        0 => Err("must not be empty: it is what the KEKs' labels begin with".into()),
        1..=200 => Ok(label),
        length => Err(format!("must have at most 200 bytes, not {length}")),
    }
}

fn server(settings: &mut Settings) -> Server {
    let endpoint = settings.read_or(
        "server.endpoint",
        Endpoint::Path("/run/p11-kms/kms.sock".into()),
        |value| text(value)?.parse::<Endpoint>().map_err(|error| error.to_string()),
    );
    settings.read("server.v1beta1", |value| match boolean(value)? {
        false => Ok(()),
        true => Err("KMS v1 is not available in this version: remove it".into()),
    });
    let (allow_uids, allow_gids) = allowed(settings, &endpoint);
    Server {
        endpoint,
        socket_mode: settings.read_or("server.socket-mode", 0o600, socket_mode),
        socket_owner: settings.read("server.socket-owner", |value| {
            id(value, "user", |name| {
                User::from_name(name).map(|user| user.map(|user| user.uid.as_raw()))
            })
        }),
        socket_group: settings.read("server.socket-group", |value| {
            id(value, "group", |name| {
                Group::from_name(name).map(|group| group.map(|group| group.gid.as_raw()))
            })
        }),
        allow_uids,
        allow_gids,
        request_timeout: settings.read_or(
            "server.request-timeout",
            3 * SECOND,
            duration(Duration::from_millis(100), 60 * SECOND),
        ),
        queue_length: settings.read_or("server.queue-length", 8192, count(1..=1_000_000)),
        max_connections: settings.read_or("server.max-connections", 64, count(1..=65_536)),
        max_streams: settings.read_or("server.max-streams", 16384, small_number(1..=65_536)),
    }
}

/// Who may connect. An abstract socket has no permissions, so there the lists
/// are all that stands between a seed and every process of the host, and a
/// default would be a guess.
fn allowed(settings: &mut Settings, endpoint: &Endpoint) -> (Vec<u32>, Vec<u32>) {
    const UIDS: &str = "server.allow-uids";
    const GIDS: &str = "server.allow-gids";
    let read =
        |settings: &mut Settings, key| settings.read(key, list(small_number(0..=HIGHEST_ID)));
    let (uids, gids) = (read(settings, UIDS), read(settings, GIDS));
    // A list that could not be read is a problem already, and none to add to.
    let lists = |key, ids: &Option<Vec<u32>>| {
        settings.has(key) && ids.as_ref().is_none_or(|ids| !ids.is_empty())
    };
    let nobody = !lists(UIDS, &uids) && !lists(GIDS, &gids);
    let is_abstract = matches!(endpoint, Endpoint::Abstract(_));
    if is_abstract && nobody {
        let what = "an abstract socket has no permissions: list the users that may connect, such \
                    as [0], or set server.allow-gids";
        settings.refuse(UIDS, what);
    } else if nobody && uids.is_some() {
        let what = "nobody could connect: list a user, such as [0], or set server.allow-gids";
        settings.refuse(UIDS, what);
    }
    let default = if is_abstract { Vec::new() } else { vec![0] };
    (uids.unwrap_or(default), gids.unwrap_or_default())
}

fn socket_mode(value: &Value) -> Result<u32, String> {
    let form = "must be three or four octal digits in quotes, such as \"0600\"";
    let (Value::Text(text) | Value::Words(text)) = value else {
        return Err(form.into());
    };
    let octal = text.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
    let mode = match u32::from_str_radix(text, 8) {
        Ok(mode) if octal && matches!(text.len(), 3 | 4) && mode <= 0o777 => mode,
        _ => return Err(format!("{form}, not {}", quoted(text))),
    };
    if mode & 0o007 != 0 {
        return Err(format!(
            "must give others no access, not {}: the last digit must be 0, such as \"0600\"",
            quoted(text)
        ));
    }
    Ok(mode)
}

fn metrics(settings: &mut Settings, served: &Endpoint) -> Metrics {
    let listen = settings.read("metrics.listen", |value| {
        text(value)?.parse::<Listen>().map_err(|error| error.to_string())
    });
    if let (Some(Listen::Unix(path)), Endpoint::Path(kms)) = (&listen, served)
        && path == kms
    {
        let what = "is server.endpoint, where kube-apiserver calls: choose another path";
        settings.refuse("metrics.listen", what);
    }
    Metrics { listen, socket_mode: settings.read_or("metrics.socket-mode", 0o660, socket_mode) }
}

/// A uid or gid, by number or by name.
fn id(
    value: &Value,
    kind: &str,
    find: impl Fn(&str) -> nix::Result<Option<u32>>,
) -> Result<u32, String> {
    let read = small_number(0..=HIGHEST_ID);
    if let Value::Integer(_) = value {
        return read(value);
    }
    let name = plain_text(value)?;
    if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit()) {
        return read(&Value::Words(name));
    }
    match find(&name) {
        Ok(Some(id)) => Ok(id),
        Ok(None) => {
            Err(format!("there is no {kind} {}: create it or write a number", quoted(&name)))
        }
        Err(error) => Err(format!("cannot look {kind} {} up: {error}", quoted(&name))),
    }
}

/// `[etcd]`. What is missing there may come from a flag, so only what contradicts
/// itself is refused.
pub(super) fn etcd(settings: &mut Settings) -> Etcd {
    let endpoints = settings.read_or("etcd.endpoints", Vec::new(), endpoints);
    let etcd = Etcd {
        endpoints,
        cacert: settings.read("etcd.cacert", absolute_path),
        cert: settings.read("etcd.cert", absolute_path),
        key: settings.read("etcd.key", absolute_path),
        snapshot: settings.read("etcd.snapshot", absolute_path),
        prefix: settings.read_or("etcd.prefix", DEFAULT_PREFIX.into(), plain_text),
    };
    if etcd.snapshot.is_some() && !etcd.endpoints.is_empty() {
        settings.refuse("etcd.snapshot", "etcd.endpoints is set as well: keep one of the two");
    }
    etcd
}

/// A list, or one text with commas as etcdctl takes it.
fn endpoints(value: &Value) -> Result<Vec<EtcdEndpoint>, String> {
    let one = |value: &Value| {
        let text = text(value)?;
        text.parse::<EtcdEndpoint>().map_err(|error| format!("{error}, not {}", quoted(&text)))
    };
    match value {
        Value::Text(words) => list(one)(&Value::Words(words.clone())),
        Value::List(_) | Value::Words(_) => list(one)(value),
        _ => Err("must be a list, such as [\"https://10.0.0.1:2379\"]".into()),
    }
}
