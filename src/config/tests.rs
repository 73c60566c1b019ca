//! What a configuration says, and what is said of a bad one.

use std::fs;

use proptest::prelude::*;

use super::*;

/// The least that a configuration must say.
const LEAST: &str = "[token]\nmodule = '/lib/token.so'\nuri = 'pkcs11:token=k8s'\n";

const PIN_FILE: &str = "pin-file = '/etc/p11-kms/pin'\n";

fn load(text: &str, env: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Config, String> {
    let env = env.iter().map(|(name, value)| (name.into(), value.into()));
    let flags: Vec<_> = flags.iter().map(|(key, v)| (key.to_string(), v.to_string())).collect();
    Config::parse(Path::new("c.toml"), text, env, &flags).map_err(|error| error.to_string())
}

/// A good configuration with `more` at its end.
fn with(more: &str) -> Result<Config, String> {
    load(&format!("{LEAST}{PIN_FILE}{more}"), &[], &[])
}

fn error(more: &str) -> String {
    with(more).expect_err(more)
}

#[test]
fn the_least_brings_the_defaults() {
    let config = with("").unwrap();
    assert_eq!(config.token.module, Path::new("/lib/token.so"));
    assert_eq!(config.token.uri.token.as_deref(), Some("k8s"));
    assert_eq!(config.token.pin, PinSource::File("/etc/p11-kms/pin".into()));
    assert_eq!(config.token.profile, Profile::built_in("generic").unwrap());
    assert!(!config.token.require_fips && !config.token.allow_weak_kek);
    let keyring = Keyring {
        label: "k8s-kek".into(),
        scan_interval: Duration::from_secs(10),
        activation_delay: Duration::from_secs(60),
        state_dir: "/var/lib/p11-kms".into(),
        reinstate: None,
    };
    assert_eq!(config.keyring, keyring);
    let server = Server {
        endpoint: Endpoint::Path("/run/p11-kms/kms.sock".into()),
        socket_mode: 0o600,
        socket_owner: None,
        socket_group: None,
        allow_uids: vec![0],
        allow_gids: vec![],
        request_timeout: Duration::from_secs(3),
        queue_length: 8192,
        max_connections: 64,
        max_streams: 16384,
    };
    assert_eq!(config.server, server);
    assert_eq!(config.health, Health { interval: Duration::from_secs(10) });
    assert_eq!(config.metrics, Metrics { listen: None, socket_mode: 0o660 });
    let etcd = Etcd {
        endpoints: vec![],
        cacert: None,
        cert: None,
        key: None,
        snapshot: None,
        prefix: "/registry".into(),
    };
    assert_eq!(config.etcd, etcd);
}

#[test]
fn every_key_is_read() {
    let config = load(
        r#"
        [token]
        module = "/lib/token.so"
        uri = "pkcs11:serial=1"
        pin-credential = "pin"
        profile = "generic"
        require-fips = true
        allow-weak-kek = true
        method = "encrypt"
        call-timeout = "1s"
        [keyring]
        label = "a"
        scan-interval = "1s"
        activation-delay = "500ms"
        state-dir = "/s"
        [server]
        endpoint = "unix:///@a"
        socket-mode = "0660"
        socket-owner = "root"
        socket-group = 7
        allow-uids = [0, 1000]
        allow-gids = [5]
        v1beta1 = false
        request-timeout = "100ms"
        queue-length = 1
        max-connections = 2
        max-streams = 3
        [health]
        interval = "10m"
        [metrics]
        listen = "[::1]:9807"
        socket-mode = "0600"
        [audit]
        file = "/var/log/audit.jsonl"
        on-failure = "refuse-all"
        [etcd]
        endpoints = ["https://10.0.0.1:2379", "10.0.0.2:2379"]
        cacert = "/ca"
        cert = "/cert"
        key = "/key"
        prefix = "/kubernetes.io"
        "#,
        &[],
        &[],
    )
    .unwrap();
    assert_eq!(config.token.pin, PinSource::Credential("pin".into()));
    assert!(config.token.require_fips && config.token.allow_weak_kek);
    assert_eq!(config.token.profile.method, Method::Encrypt);
    assert_eq!(config.token.profile.call_timeout, Duration::from_secs(1));
    assert_eq!(config.keyring.state_dir, Path::new("/s"));
    let place = AuditPlace::File("/var/log/audit.jsonl".into());
    assert_eq!(config.audit, Some(Audit { place, on_failure: OnFailure::RefuseAll }));
    assert_eq!(config.server.endpoint, Endpoint::Abstract("a".into()));
    assert_eq!(config.server.socket_mode, 0o660);
    assert_eq!((config.server.socket_owner, config.server.socket_group), (Some(0), Some(7)));
    assert_eq!(config.server.allow_uids, [0, 1000]);
    assert_eq!(config.server.allow_gids, [5]);
    assert_eq!((config.server.max_connections, config.server.max_streams), (2, 3));
    assert_eq!(config.health.interval, Duration::from_secs(600));
    let etcd = Etcd {
        endpoints: etcd_endpoints(&["https://10.0.0.1:2379", "10.0.0.2:2379"]),
        cacert: Some("/ca".into()),
        cert: Some("/cert".into()),
        key: Some("/key".into()),
        snapshot: None,
        prefix: "/kubernetes.io".into(),
    };
    assert_eq!(config.etcd, etcd);
}

fn etcd_endpoints(texts: &[&str]) -> Vec<EtcdEndpoint> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn etcd_is_read_alone_and_its_endpoints_in_three_forms() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    let load = |optional, env: &[(&str, &str)], flags: &[(&str, &str)]| {
        let env = env.iter().map(|(name, value)| (name.into(), value.into()));
        let flags: Vec<_> = flags.iter().map(|(key, v)| (key.to_string(), v.to_string())).collect();
        Etcd::load(&path, optional, env, &flags).map_err(|error| error.to_string())
    };
    assert!(load(false, &[], &[]).unwrap_err().contains("cannot read the configuration"));
    assert_eq!(load(true, &[], &[]).unwrap(), Etcd::default());
    let both = etcd_endpoints(&["https://a:1", "b:2"]);
    let variable = [("P11_KMS_ETCD__ENDPOINTS", "https://a:1, b:2")];
    assert_eq!(load(true, &variable, &[]).unwrap().endpoints, both);
    assert_eq!(load(true, &[], &[("etcd.endpoints", "https://a:1,b:2")]).unwrap().endpoints, both);
    // No [token] is asked for, but nothing unknown is taken either.
    fs::write(&path, "[etcd]\nendpoints = 'https://a:1,b:2'\n").unwrap();
    assert_eq!(load(false, &[], &[]).unwrap().endpoints, both);
    fs::write(&path, "[etcd]\nendpoint = 'https://a:1'\n").unwrap();
    let error = load(true, &[], &[]).unwrap_err();
    assert!(error.contains("line 2: etcd.endpoint: unknown key; did you mean etcd.endpoints?"));
}

#[test]
fn what_has_no_default_must_be_there() {
    let error = load("", &[], &[]).unwrap_err();
    let lines: Vec<&str> = error.lines().collect();
    assert_eq!(lines.len(), 3, "{error}");
    assert!(lines[0].starts_with("c.toml: token.module: missing: set it to the path"), "{error}");
    assert!(lines[1].starts_with("c.toml: token.uri: missing: set it to a PKCS#11 URI"), "{error}");
    assert!(lines[2].starts_with("c.toml: token.pin-file: missing: set it to"), "{error}");
    assert!(lines[2].contains("token.pin-credential"), "{error}");
}

#[test]
fn bad_values_are_refused_with_place_key_and_remedy() {
    for (more, expected) in [
        ("modul = 'x'", "c.toml, line 5: token.modul: unknown key; did you mean token.module?"),
        ("color = 'x'", "c.toml, line 5: token.color: unknown key"),
        ("[tokn]", "c.toml, line 5: tokn: unknown section; did you mean [token]?"),
        ("[[server]]", "c.toml, line 5: server: is a section: write [server] on a line of its own"),
        ("profile = 'nope'", "c.toml, line 5: token.profile: unknown profile \"nope\": use one of"),
        ("profile = '/no/p.toml'", "token.profile: cannot read profile \"/no/p.toml\": No such"),
        ("pin-credential = 'a'", "line 5: token.pin-credential: token.pin-file is set as well"),
        ("workers = 17", "c.toml, line 5: token.workers: must be from 1 to 16, not 17"),
        ("method = 'x'", "c.toml, line 5: token.method: must be one of \"auto\", \"object\","),
        ("call-timeout = '61s'", "token.call-timeout: must be from 100ms to 1m, not 1m 1s"),
        ("require-fips = 1", "token.require-fips: must be true or false, without quotes"),
        ("require-fips = true\nmethod = 'ecb'", "line 6: token.method: is \"ecb\", where the host"),
        (
            "require-fips = true\nkwp-method = 'ecb'",
            "token.kwp-method: is \"ecb\", where the host takes part in the wrapping, and \
             token.require-fips forbids that: use \"encrypt\" or \"object\"",
        ),
        ("[keyring]\nlabel = ''", "c.toml, line 6: keyring.label: must not be empty"),
        ("[keyring]\nlabel = \"a\\n\"", "keyring.label: must have no control characters"),
        ("[keyring]\nscan-interval = '999ms'", "keyring.scan-interval: must be from 1s to 1h"),
        ("[keyring]\nscan-interval = '2h'", "keyring.scan-interval: must be from 1s to 1h, not 2h"),
        (
            "[keyring]\nactivation-delay = '25h'",
            "keyring.activation-delay: must be from 0s to 1day",
        ),
        ("[keyring]\nactivation-delay = 60", "needs a unit and quotes, such as \"60s\""),
        ("[keyring]\nstate-dir = 'lib'", "keyring.state-dir: must be an absolute path that starts"),
        ("[health]\ninterval = '0s'", "health.interval: must be from 1s to 10m, not 0s"),
        ("[server]\nendpoint = '/run/x'", "line 6: server.endpoint: is not a Unix socket: write"),
        ("[server]\nrequest-timeout = '1ms'", "server.request-timeout: must be from 100ms to 1m"),
        ("[server]\nqueue-length = 0", "server.queue-length: must be from 1 to 1000000, not 0"),
        ("[server]\nmax-connections = 0", "server.max-connections: must be from 1 to"),
        ("[server]\nmax-streams = 'x'", "server.max-streams: must be a number, without quotes"),
        ("[server]\nsocket-mode = '0606'", "must give others no access, not \"0606\": the last"),
        ("[server]\nsocket-mode = '4600'", "must be three or four octal digits in quotes"),
        ("[server]\nsocket-mode = '+600'", "must be three or four octal digits in quotes"),
        ("[server]\nsocket-mode = 600", "must be three or four octal digits in quotes, such as"),
        ("[server]\nsocket-owner = 'no such'", "server.socket-owner: there is no user \"no such\""),
        ("[server]\nsocket-group = 'no such'", "server.socket-group: there is no group"),
        ("[server]\nallow-uids = 0", "server.allow-uids: must be a list in brackets, such as [0]"),
        ("[server]\nallow-uids = ['root']", "server.allow-uids: every item must be a number"),
        ("[server]\nallow-gids = [4294967295]", "server.allow-gids: every item must be from 0 to"),
        ("[server]\nallow-uids = []", "server.allow-uids: nobody could connect: list a user"),
        ("[server]\nv1beta1 = true", "server.v1beta1: KMS v1 is not available in this version"),
        ("[keyring]\nreinstate = { generation = 1 }", "write it as { generation = 1, epoch = 1 }"),
        ("[keyring]\nreinstate = 1", "write it as { generation = 1, epoch = 1 }"),
        ("[metrics]\nlisten = '0.0.0.0:1'", "line 6: metrics.listen: must be an address of this"),
        ("[metrics]\nlisten = 9807", "line 6: metrics.listen: must be a string in quotes"),
        ("[metrics]\nlisten = 'unix:///@m'", "metrics.listen: must not be an abstract socket"),
        (
            "[metrics]\nlisten = 'unix:///run/p11-kms/kms.sock'",
            "line 6: metrics.listen: is server.endpoint, where kube-apiserver calls",
        ),
        ("[metrics]\nsocket-mode = '0666'", "metrics.socket-mode: must give others no access"),
        ("[audit]\nfile = 'audit.jsonl'", "audit.file: must be \"journal\" or the absolute path"),
        ("[audit]\nfile = 1", "audit.file: must be a string in quotes, not a number"),
        (
            "[audit]\nfile = 'journal'\non-failure = 'no'",
            "audit.on-failure: must be \"refuse\", \"refuse-all\" or \"continue\", not \"no\"",
        ),
        (
            "[audit]\non-failure = 'refuse'",
            "audit.on-failure: there is no audit log: set audit.file",
        ),
        ("[etcd]\nendpoints = 1", "line 6: etcd.endpoints: must be a list, such as [\"https"),
        (
            "[etcd]\nendpoints = ['10.0.0.1']",
            "line 6: etcd.endpoints: every item is not a member of etcd: write it as \
             https://10.0.0.1:2379, not \"10.0.0.1\"",
        ),
        ("[etcd]\nkey = 'etcd.key'", "line 6: etcd.key: must be an absolute path that starts"),
        (
            "[etcd]\nendpoints = 'a:1'\nsnapshot = '/s'",
            "line 7: etcd.snapshot: etcd.endpoints is set as well: keep one of the two",
        ),
        ("[metrics]\nlistn = 1", "metrics.listn: unknown key; did you mean metrics.listen?"),
    ] {
        let error = error(more);
        assert!(error.contains(expected), "{more}: {error}");
        assert_eq!(error.lines().count(), 1, "{more}: {error}");
    }
}

#[test]
fn an_abstract_socket_needs_a_list() {
    let endpoint = "[server]\nendpoint = 'unix:///@kms'\n";
    for more in ["", "allow-uids = []", "allow-gids = []", "allow-uids = []\nallow-gids = []"] {
        let error = error(&format!("{endpoint}{more}"));
        assert!(error.contains("server.allow-uids: an abstract socket has no permissions"));
    }
    let server = with(&format!("{endpoint}allow-gids = [7]")).unwrap().server;
    assert_eq!((server.allow_uids, server.allow_gids), (vec![], vec![7]));
    let server = with(&format!("{endpoint}allow-uids = [0]")).unwrap().server;
    assert_eq!((server.allow_uids, server.allow_gids), (vec![0], vec![]));
    assert_eq!(error(&format!("{endpoint}allow-uids = ['x']")).lines().count(), 1);
}

#[test]
fn text_that_is_not_toml_is_refused_once() {
    for text in ["[token", "[token]\nmodule = ", "[token]\nmodule = 'a'\nmodule = 'b'"] {
        let error = load(text, &[], &[]).unwrap_err();
        assert!(error.starts_with("c.toml, line ") && error.contains(": not valid TOML: "));
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn environment_and_flags_replace_the_file() {
    let text = format!("{LEAST}{PIN_FILE}sessions = 1\n[server]\nallow-uids = [0]\n");
    let env = [
        ("P11_KMS_TOKEN__MODULE", "/env.so"),
        ("P11_KMS_TOKEN__SESSIONS", "2"),
        ("P11_KMS_TOKEN__KW_MECHANISM", "0x80000170"),
        ("P11_KMS_TOKEN__REQUIRE_FIPS", "true"),
        ("P11_KMS_SERVER__ALLOW_UIDS", "0,1000"),
        ("P11_KMS_SERVER__SOCKET_MODE", "0640"),
        ("P11_KMS_SERVER__SOCKET_OWNER", "12"),
        ("P11_KMS_HEALTH__INTERVAL", "5s"),
        ("P11_KMS_CONFIG", "x"),
        ("P11_KMS_TEST_MODULE", "x"),
        ("P11_KMS_PORT_9807_TCP", "tcp://10.0.0.1:9807"),
        ("PATH", "/bin"),
    ];
    let config = load(&text, &env, &[("token.module", "/flag.so"), ("token.sessions", "3")]);
    let config = config.unwrap();
    assert_eq!(config.token.module, Path::new("/flag.so"));
    assert_eq!(config.token.profile.sessions, 3);
    assert_eq!(config.token.profile.kw_mechanism, 0x8000_0170);
    assert!(config.token.require_fips);
    assert_eq!(config.server.allow_uids, [0, 1000]);
    assert_eq!(config.server.socket_mode, 0o640);
    assert_eq!(config.server.socket_owner, Some(12));
    assert_eq!(config.health.interval, Duration::from_secs(5));
    // A bad value that is replaced does no harm.
    assert!(load(&format!("{text}[health]\ninterval = 1"), &env, &[]).is_ok());
}

#[test]
fn a_flag_replaces_the_files_way_to_the_pin() {
    let text = format!("{LEAST}pin-credential = 'pin'\n");
    let by_hand = load(&text, &[], &[("token.pin-file", "/root/pin")]).unwrap();
    assert_eq!(by_hand.token.pin, PinSource::File("/root/pin".into()));
    let both = load(&format!("{text}{PIN_FILE}"), &[], &[]).unwrap_err();
    assert!(both.contains("keep exactly one of the two"), "{both}");
}

#[test]
fn the_sample_that_is_installed_is_right_and_says_the_defaults() {
    let sample = include_str!("../../systemd/config.toml");
    let config = load(sample, &[], &[]).unwrap();
    let least = "[token]\nmodule = '/usr/lib/softhsm/libsofthsm2.so'\nuri = 'pkcs11:token=k8s'\n\
                 pin-credential = 'pin'\nprofile = 'softhsm'\n";
    assert_eq!(config, load(least, &[], &[]).unwrap());
}

#[test]
fn all_of_it_may_come_from_the_environment() {
    let env = [
        ("P11_KMS_TOKEN__MODULE", "/lib/token.so"),
        ("P11_KMS_TOKEN__URI", "pkcs11:token=k8s"),
        ("P11_KMS_TOKEN__PIN_CREDENTIAL", "pin"),
    ];
    assert_eq!(load("", &env, &[]).unwrap().token.module, Path::new("/lib/token.so"));
}

#[test]
fn errors_name_the_variable_or_the_flag() {
    let text = format!("{LEAST}{PIN_FILE}");
    for (name, value, expected) in [
        ("TOKEN__URI", "x", "P11_KMS_TOKEN__URI: token.uri: must begin with \"pkcs11:\""),
        (
            "TOKEN__WORKERS",
            "x",
            "P11_KMS_TOKEN__WORKERS: token.workers: must be a number, not \"x\"",
        ),
        ("TOKEN__FINALIZE", "0", "token.finalize: must be true or false, not \"0\""),
        ("SERVER__ALLOW_UIDS", "0,x", "P11_KMS_SERVER__ALLOW_UIDS: server.allow-uids: every item"),
        (
            "TOKEN__MODUL",
            "x",
            "P11_KMS_TOKEN__MODUL: matches no key; did you mean P11_KMS_TOKEN__M",
        ),
        ("NONSENSE", "x", "P11_KMS_NONSENSE: matches no key: write P11_KMS_SECTION__KEY, such as"),
        (
            "METRICS__LISTEN",
            "x",
            "P11_KMS_METRICS__LISTEN: metrics.listen: must be \"127.0.0.1:9807\"",
        ),
        (
            "AUDIT__FILE",
            "x",
            "P11_KMS_AUDIT__FILE: audit.file: must be \"journal\" or the absolute path",
        ),
        ("SERVER__V1BETA1", "true", "server.v1beta1: KMS v1 is not available in this version"),
    ] {
        let error = load(&text, &[(&format!("P11_KMS_{name}"), value)], &[]).unwrap_err();
        assert!(error.contains(expected), "{error}");
        assert!(!error.contains("c.toml"), "{error}");
    }
    for (key, value, expected) in [
        ("token.workers", "0", "command line: token.workers: must be from 1 to 16, not 0"),
        (
            "token.worker",
            "1",
            "command line: token.worker: unknown key; did you mean token.workers?",
        ),
        ("workers", "1", "command line: workers: unknown here: it belongs under [token]"),
        ("token", "1", "command line: token: names a section: write token.KEY"),
    ] {
        let error = load(&text, &[], &[(key, value)]).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_variable_that_is_not_utf8_is_refused() {
    use std::os::unix::ffi::OsStringExt;
    let bad = OsString::from_vec(b"/x\xff".to_vec());
    let env = [(OsString::from("P11_KMS_TOKEN__MODULE"), bad.clone()), ("OTHER".into(), bad)];
    let error = Config::parse(Path::new("c.toml"), LEAST, env.into_iter(), &[]).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("P11_KMS_TOKEN__MODULE: token.module: must be UTF-8"), "{error}");
}

#[test]
fn a_variable_with_an_odd_name_is_shown_in_one_short_line() {
    let name = format!("P11_KMS_TOKEN\u{1b}[2J\n{}", "X".repeat(5000));
    let error = load(&format!("{LEAST}{PIN_FILE}"), &[(&name, "1")], &[]).unwrap_err();
    assert!(error.starts_with("P11_KMS_TOKEN\\u{1b}[2J\\nXXX"), "{error}");
    assert!(error.len() < 300 && !error.contains(char::is_control), "{error}");
}

#[test]
fn of_very_many_problems_the_first_are_told() {
    let lines = |count: usize| (0..count).map(|n| format!("x{n} = 1\n")).collect::<String>();
    let error = load(&lines(40), &[], &[("keyring.label", "")]).unwrap_err();
    assert_eq!(error.lines().count(), 41);
    assert!(error.ends_with("\nand 4 more"), "{error}");
    let error = Profile::parse("p.toml", &lines(40)).unwrap_err().to_string();
    assert_eq!(error.lines().count(), 40);
    assert!(!error.contains("more"), "{error}");
}

#[test]
fn a_pin_in_the_wrong_place_is_refused_and_never_echoed() {
    for (text, expected) in [
        ("pin = '87654321'", "token.pin: a PIN never stands in a configuration"),
        ("pin = 87654321", "token.pin: a PIN never"),
        ("pin-value = '87654321'", "token.pin-value: a PIN never"),
        ("user_pin = '87654321'", "token.user_pin: a PIN never"),
        ("[token.pin]\nvalue = '87654321'", "token.pin: a PIN never"),
        ("pin-file = '87654321'", "token.pin-file: must be the absolute path of a file"),
        ("pin-file = 87654321", "token.pin-file: must be a string in quotes, not a number"),
        ("pin-credential = '8765 4321/'", "token.pin-credential: must be the name of a systemd"),
        ("pin-file = '87654321", "not valid TOML"),
        ("pin-file = 87654321 87654321", "not valid TOML"),
        ("pin-file = 87654321x", "not valid TOML"),
        ("pin-file = user:87654321", "not valid TOML"),
        ("pni = '87654321'", "token.pni: unknown key"),
        ("[keyring]\npin = '87654321'", "keyring.pin: a PIN never"),
    ] {
        let error = load(&format!("{LEAST}{text}"), &[], &[]).unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
        assert!(!error.contains("8765"), "{text}: {error}");
    }
    let uri = "[token]\nmodule = '/m'\nuri = 'pkcs11:token=a?pin-value=87654321'\n";
    let error = load(&format!("{uri}{PIN_FILE}"), &[], &[]).unwrap_err();
    assert!(error.contains("line 3: token.uri: must not hold \"pin-value\""), "{error}");
    assert!(!error.contains("8765"), "{error}");
    for name in ["TOKEN__PIN", "TOKEN__PIN_VALUE", "PIN", "TOKEN_PIN"] {
        let name = format!("P11_KMS_{name}");
        let error = load(LEAST, &[(&name, "87654321")], &[]).unwrap_err();
        assert!(error.contains(&name) && !error.contains("8765"), "{error}");
    }
    let error = load(LEAST, &[], &[("token.pin", "87654321")]).unwrap_err();
    assert!(error.contains("command line: token.pin: a PIN never"), "{error}");
    assert!(!error.contains("8765"), "{error}");
}

#[test]
fn a_profile_from_a_file_is_named_in_its_errors() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mine.toml");
    let path = path.to_str().unwrap();
    fs::write(path, "method = 'ecb'\nworkers = 3\nsessions = 2\n").unwrap();
    let more = format!("profile = '{path}'\nworkers = 4\n");
    let profile = with(&more).unwrap().token.profile;
    assert_eq!((profile.name.as_str(), profile.method), (path, Method::Ecb));
    assert_eq!((profile.workers, profile.sessions), (4, 2));

    let error = error(&format!("{more}require-fips = true"));
    assert!(error.contains("line 7: token.require-fips: method of profile"), "{error}");
    fs::write(path, "\nworkers = 'x'\nmetod = 'ecb'\n").unwrap();
    let error = with(&format!("profile = '{path}'")).unwrap_err();
    assert!(error.contains(&format!("{path}, line 2: workers: must be a number")), "{error}");
    assert!(error.contains(&format!("{path}, line 3: metod: unknown key; did you mean method?")));
    fs::write(path, "workers = ").unwrap();
    let error = with(&format!("profile = '{path}'")).unwrap_err();
    assert!(error.contains(&format!("token.profile: {path}, line 1: not valid TOML")), "{error}");
}

#[test]
fn a_file_is_read_or_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    let load = || Config::load(&path, std::iter::empty(), &[]).map_err(|error| error.to_string());
    let error = load().unwrap_err();
    assert!(error.starts_with(&format!("{}: cannot read the configuration: No", path.display())));
    assert!(error.contains("--config"), "{error}");
    fs::write(&path, format!("{LEAST}{PIN_FILE}")).unwrap();
    assert!(load().is_ok());
    fs::write(&path, "#".repeat(1 << 21)).unwrap();
    assert!(load().unwrap_err().contains("larger than a megabyte"));
    fs::write(&path, b"\xff").unwrap();
    assert!(load().unwrap_err().contains("UTF-8"));
}

/// Lines that look like a configuration, so that the reading gets far.
fn line() -> impl Strategy<Value = String> {
    let name = "(module|uri|pin|pin-file|profile|workers|call-timeout|label|endpoint|socket-mode|listen|\
                allow-uids|interval|[a-z-]{0,8})";
    let value =
        "('[ -~]{0,20}'|-?[0-9]{1,30}|true|\\[[0-9, ']{0,9}\\]|'[0-9]{1,9}(ms|s|h|y)'|\\PC{0,9})";
    let section = "\\[(token|keyring|server|health|metrics|audit|[a-z.]{0,9})\\]";
    prop_oneof![
        section.prop_map(|section| section),
        (name, value).prop_map(|(name, value)| format!("{name} = {value}")),
    ]
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "\\PC*|(.|\n)*") {
        let _ = with(&text);
        let _ = load(&text, &[], &[]);
    }

    #[test]
    fn anything_like_a_configuration_is_read_or_refused(
        lines in proptest::collection::vec(line(), 0..12),
        variable in "P11_KMS_[A-Z_]{0,20}", value in "\\PC*",
        key in "[a-z.-]{0,20}",
    ) {
        let _ = load(&lines.join("\n"), &[(&variable, &value)], &[(&key, &value)]);
    }

    #[test]
    fn any_value_of_any_key_is_read_or_refused(key in 0..reference::PROFILE.len(), value in "\\PC*") {
        let key = format!("token.{}", reference::PROFILE[key].name);
        let _ = load(&format!("{LEAST}{PIN_FILE}"), &[], &[(&key, &value)]);
    }
}
