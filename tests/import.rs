//! Bringing a KEK that was made elsewhere onto the token, wrapped by `openssl` as an outsider
//! would wrap it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "the helpers are part of the tests"
)]

mod common;

use std::fs;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};

use aes_kw::{KeyInit, KwAes256};
use common::process::{Ended, run};
use common::token::Token;
use common::worker::Worker;
use common::{hex, seed};
use p11_kms::algorithm::Algorithm;
use p11_kms::generation::Generation;
use p11_kms::keyring::{Epoch, KeyId};
use p11_kms::token::frame::Operation;
use p11_kms::token::protocol::{
    Class, Failure, Fingerprint, FoundKey, Import, ImportForm, OaepHash, UnwrappingKey,
};

const PLAIN: &str = "--this-file-is-the-plain-key";

/// A token with the RSA pair "u".
fn with_rsa() -> Token {
    let token = Token::new();
    make_rsa(&token, "u");
    token
}

fn make_rsa(token: &Token, label: &str) {
    let pair = ["--keypairgen", "--key-type", "rsa:2048", "--usage-wrap", "--label", label];
    token.pkcs11_tool(pair);
}

/// Writes a file that only we may read, and gives its path.
fn file(token: &Token, bytes: &[u8]) -> String {
    let path = token.path("kek");
    let _ = fs::remove_file(&path);
    let mut made = fs::OpenOptions::new();
    let mut made = made.write(true).create_new(true).mode(0o600).open(&path).unwrap();
    std::io::Write::write_all(&mut made, bytes).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Wraps the bytes for the RSA pair; gives the path of the file.
fn wrapped(token: &Token, key: &[u8], hash: &str) -> String {
    let public = token.path("u.der");
    if !public.exists() {
        let read = ["--read-object", "--type", "pubkey", "--label", "u", "--output-file"];
        token.pkcs11_tool(read.into_iter().chain([public.to_str().unwrap()]));
    }
    let plain = file(token, key);
    let blob = token.path("blob");
    let mut command = token.prepared("openssl");
    command.args(["pkeyutl", "-encrypt", "-pubin", "-keyform", "DER", "-inkey"]).arg(&public);
    command.args(["-pkeyopt", "rsa_padding_mode:oaep", "-pkeyopt"]);
    command.arg(format!("rsa_oaep_md:{hash}")).args(["-in", &plain, "-out"]).arg(&blob);
    let done = run(command);
    done.expect(0, &[]);
    fs::remove_file(plain).unwrap();
    blob.to_str().unwrap().to_owned()
}

fn import(token: &Token, file: &str, flags: &[&str]) -> Ended {
    token.run(&[&["--output", "json", "key", "import", file], flags].concat())
}

fn oaep<'a>(hash: &'a str, key: &'a str) -> [&'a str; 6] {
    ["--wrapped-with", "rsa-oaep", "--hash", hash, "--unwrapping-key", key]
}

/// KW on the host.
fn kw(key: &[u8], seed: &[u8]) -> Vec<u8> {
    let mut out = vec![0; seed.len() + 8];
    KwAes256::new(key.try_into().unwrap()).wrap_key(seed, &mut out).unwrap();
    out
}

fn fingerprint(key: &[u8]) -> Fingerprint {
    Fingerprint::new(kw(key, Fingerprint::CONSTANT).try_into().unwrap())
}

/// It is on the token as it should be, and wraps as the key does on the host.
#[track_caller]
fn is_there(token: &Token, generation: u32, key: &[u8]) {
    let mut worker = Worker::start(token, &[]);
    let found = worker.find().keys;
    let label = format!("k8s-kek-{generation:04}");
    let kek = found.iter().find(|kek| kek.label == label).unwrap();
    assert_eq!(kek.fingerprint, Ok(fingerprint(key)));
    let attributes = kek.attributes;
    for is in [attributes.token, attributes.private, attributes.sensitive, attributes.wrap] {
        assert_eq!(is, Some(true), "{attributes:?}");
    }
    for is in [attributes.extractable, attributes.never_extractable, attributes.local] {
        assert_eq!(is, Some(false), "{attributes:?}");
    }
    assert_eq!(kek.id.len(), 16);
    for len in [16, 32, 1000] {
        let seed = seed(1, len);
        let operation = Operation::Wrap(Algorithm::Kw);
        worker.send(operation, &fingerprint(key), &seed);
        assert_eq!(worker.bytes(), kw(key, &seed));
        worker.send(Operation::Unwrap(Algorithm::Kw), &fingerprint(key), &kw(key, &seed));
        assert_eq!(worker.bytes(), seed);
    }
}

/// Nothing of it is on the token, and nothing of it was said.
#[track_caller]
fn nothing(token: &Token, ended: &Ended, key: &[u8]) {
    let listed = token.pkcs11_tool(["--list-objects", "--type", "secrkey"]);
    assert!(!listed.stdout.contains("Secret Key"), "{listed:?}");
    silent(ended, key);
}

#[track_caller]
fn silent(ended: &Ended, key: &[u8]) {
    let said = format!("{}{}", ended.stdout, ended.stderr).to_lowercase();
    assert!(key.len() < 8 || !said.contains(&hex(&key[..8])), "the key is in the output");
}

#[test]
fn a_key_under_rsa_oaep_becomes_the_next_kek() {
    let token = with_rsa();
    token.run(&["key", "generate"]).expect(0, &[]);
    let key = seed(1, 32);
    let ended = import(&token, &wrapped(&token, &key, "sha1"), &oaep("sha1", "u"));
    ended.expect(0, &[]);
    silent(&ended, &key);
    assert_eq!(ended.stderr, "");
    let line = ended.json();
    assert_eq!(line["label"], "k8s-kek-0002");
    let key_id = KeyId::new(Generation::new(2), Epoch::FIRST, &fingerprint(&key));
    assert_eq!(line["key-id"], key_id.as_str());
    is_there(&token, 2, &key);
}

#[test]
fn a_plain_key_becomes_the_next_kek_and_a_warning() {
    let token = Token::new();
    let contents = |key: &[u8]| [key.to_vec(), hex(key).into(), format!("{}\n", hex(key)).into()];
    for (generation, form) in (1..).zip(0..3) {
        let key = seed(generation, 32);
        let path = file(&token, &contents(&key)[form]);
        let ended = import(&token, &path, &[PLAIN]);
        ended.expect(0, &["WARNING", &path, "destroy it"]);
        silent(&ended, &key);
        assert_eq!(ended.json()["generation"], generation);
        is_there(&token, generation, &key);
    }
}

#[test]
fn a_plain_key_comes_over_standard_input() {
    let token = Token::new();
    let key = seed(1, 32);
    let path = file(&token, &key);
    let mut command = token.prepared("sh");
    command.args(["-c", "exec 3<\"$1\"; shift; exec \"$@\" <&3", "sh", &path]);
    command.arg(env!("CARGO_BIN_EXE_p11-kms")).arg("--config").arg(token.config());
    command.args(["key", "import", "-", PLAIN]);
    let ended = run(command);
    ended.expect(0, &["WARNING", "where it came from"]);
    assert!(ended.stdout.starts_with("imported KEK \"k8s-kek-0001\" (generation 1)\nkey_id "));
    is_there(&token, 1, &key);
}

#[test]
fn a_plain_key_that_others_can_read_is_refused() {
    let token = Token::new();
    let path = file(&token, &seed(1, 32));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let ended = import(&token, &path, &[PLAIN]);
    ended.expect(2, &["key file", "is open to others (mode 0644)", "chmod 0600"]);
    nothing(&token, &ended, &seed(1, 32));
    let ended = import(&token, "/nowhere/key", &[PLAIN]);
    ended.expect(2, &["key file /nowhere/key: No such file"]);
    let ended = import(&token, &file(&token, b""), &[PLAIN]);
    ended.expect(2, &["it must have 1 to 4096 bytes"]);
}

#[test]
fn a_plain_key_is_refused_where_fips_is_required() {
    let token = Token::new();
    let path = file(&token, &seed(1, 32));
    let fips = ["--set", "token.require-fips=true", "--set", "token.kwp-method=object"];
    let kwp = ["--set", "token.kwp-mechanism=0x210A", PLAIN];
    let ended = import(&token, &path, &[&fips[..], &kwp].concat());
    ended.expect(4, &["token.require-fips", "--wrapped-with"]);
    nothing(&token, &ended, &seed(1, 32));
    // The worker does not rely on the command.
    let mut worker = Worker::start(&token, &[("token.require-fips", "true")]);
    let import = Import { label: "k8s-kek-0001".to_owned(), form: ImportForm::Plain };
    let failure = ask(&mut worker, &import, &seed(1, 32)).unwrap_err();
    assert!(failure.message.contains("token.require-fips"), "{failure}");
}

fn ask(worker: &mut Worker, import: &Import, file: &[u8]) -> Result<FoundKey, Failure> {
    worker.send(Operation::Import, &Fingerprint::NONE, &import.encode(file).unwrap());
    worker.answer().unwrap()
}

#[test]
fn a_wrapped_key_of_another_length_leaves_nothing() {
    let token = with_rsa();
    for (len, why) in [(16, "AES-128"), (24, "AES-192"), (20, ""), (33, ""), (1, "")] {
        let key = seed(1, len);
        let ended = import(&token, &wrapped(&token, &key, "sha1"), &oaep("sha1", "u"));
        ended.expect(3, &["KEK \"k8s-kek-0001\" was not imported", why]);
        nothing(&token, &ended, &key);
    }
}

#[test]
fn a_wrapped_file_that_is_wrong_leaves_nothing() {
    let token = with_rsa();
    make_rsa(&token, "another");
    for _ in 0..2 {
        make_rsa(&token, "twice");
    }
    let key = seed(1, 32);
    let blob = wrapped(&token, &key, "sha1");
    let fails = |file: &str, flags: &[&str], why: &[&str]| {
        let ended = import(&token, file, flags);
        ended.expect(3, &[&["KEK \"k8s-kek-0001\" was not imported"], why].concat());
        nothing(&token, &ended, &key);
    };
    fails(&blob, &oaep("sha1", "another"), &["not wrapped for \"another\" with SHA-1", "damaged"]);
    fails(&blob, &oaep("sha256", "u"), &["with SHA-256", "wrap it with SHA-1"]);
    fails(&blob, &oaep("sha1", "nobody"), &["0 RSA private keys", "\"nobody\""]);
    fails(&blob, &oaep("sha1", "twice"), &["2 RSA private keys"]);
    let sha256 = wrapped(&token, &key, "sha256");
    fails(&sha256, &oaep("sha1", "u"), &["not wrapped for \"u\" with SHA-1"]);

    let blob = fs::read(wrapped(&token, &key, "sha1")).unwrap();
    let mut damaged = blob.clone();
    damaged[100] ^= 1;
    fails(&file(&token, &damaged), &oaep("sha1", "u"), &["damaged"]);
    fails(&file(&token, &blob[1..]), &oaep("sha1", "u"), &["the file has 255 bytes", "has 256"]);
    fails(&file(&token, &key), &oaep("sha1", "u"), &["the file has 32 bytes"]);
}

#[test]
fn a_plain_file_that_is_wrong_leaves_nothing() {
    let token = Token::new();
    for (content, why) in [
        (seed(1, 31), "it has 31 bytes"),
        (seed(1, 33), "it has 33 bytes"),
        (hex(&seed(1, 16)).into_bytes(), "32 hex digits are an AES-128 key"),
        (seed(1, 64), "not all hex digits"),
    ] {
        let ended = import(&token, &file(&token, &content), &[PLAIN]);
        ended.expect(3, &["KEK \"k8s-kek-0001\" was not imported", why]);
        nothing(&token, &ended, &content);
        assert!(!ended.stderr.contains("WARNING"), "{ended:?}");
    }
}

#[test]
fn a_token_without_rsa_aes_says_what_it_has_instead() {
    let token = with_rsa();
    let flags = ["--wrapped-with", "rsa-aes", "--unwrapping-key", "u"];
    let ended = import(&token, &file(&token, &seed(1, 296)), &flags);
    let lack = "cannot unwrap with CKM_RSA_AES_KEY_WRAP";
    ended.expect(3, &[lack, "--wrapped-with rsa-oaep"]);
    nothing(&token, &ended, &seed(1, 296));
}

#[test]
fn a_token_that_refuses_plain_keys_is_quoted() {
    let token = Token::new();
    let faults = token.misbehaving();
    faults.set("C_CreateObject return=CKR_ATTRIBUTE_VALUE_INVALID").unwrap();
    let ended = import(&token, &file(&token, &seed(1, 32)), &[PLAIN]);
    ended.expect(3, &["CKR_ATTRIBUTE_VALUE_INVALID", "may take no keys in the clear"]);
    nothing(&token, &ended, &seed(1, 32));
}

#[test]
fn a_key_that_does_not_work_is_destroyed_again() {
    let token = with_rsa();
    let faults = token.misbehaving();
    let blob = wrapped(&token, &seed(1, 32), "sha1");
    for rule in [
        "C_WrapKey return=CKR_FUNCTION_FAILED",
        "C_WrapKey return=CKR_KEY_FUNCTION_NOT_PERMITTED",
        "C_GetAttributeValue corrupt",
    ] {
        faults.set(rule).unwrap();
        let ended = import(&token, &blob, &oaep("sha1", "u"));
        ended.expect(3, &["\"k8s-kek-0001\"", "destroyed again"]);
        nothing(&token, &ended, &seed(1, 32));
    }
    // And if that fails too, it is said.
    faults
        .set("C_WrapKey return=CKR_KEY_FUNCTION_NOT_PERMITTED\nC_DestroyObject return=CKR_ACTION_PROHIBITED")
        .unwrap();
    let ended = import(&token, &blob, &oaep("sha1", "u"));
    ended.expect(3, &["could not be destroyed again", "with another tool"]);
}

/// The token says no, and has made the key all the same.
#[test]
fn a_try_that_failed_leaves_no_copy() {
    let token = Token::new();
    let faults = token.misbehaving();
    faults.set("C_CreateObject times=1 after-return=CKR_TEMPLATE_INCONSISTENT").unwrap();
    let key = seed(1, 32);
    let ended = import(&token, &file(&token, &key), &[PLAIN]);
    ended.expect(0, &["WARNING"]);
    assert_eq!(ended.json()["left-out"], serde_json::json!(["CKA_DERIVE"]));
    assert_eq!(Worker::start(&token, &[]).find().keys.len(), 1);
    is_there(&token, 1, &key);

    let token = Token::new();
    let faults = token.misbehaving();
    faults.set("C_CreateObject times=1 after-return=CKR_DEVICE_ERROR").unwrap();
    let ended = import(&token, &file(&token, &key), &[PLAIN]);
    ended.expect(3, &["\"k8s-kek-0001\" was not imported", "CKR_DEVICE_ERROR"]);
    nothing(&token, &ended, &key);
}

#[test]
fn a_label_that_is_taken_is_refused_before() {
    let token = Token::new();
    // The keyring does not see it, since it is no AES key.
    token.keygen("k8s-kek-0001", "GENERIC:32", &["--private", "--sensitive"]);
    let ended = import(&token, &file(&token, &seed(1, 32)), &[PLAIN]);
    ended.expect(3, &["a key with the label \"k8s-kek-0001\" is there already"]);
    assert!(Worker::start(&token, &[]).find().keys.is_empty());

    let mut worker = Worker::start(&token, &[]);
    let key = UnwrappingKey { label: "u".to_owned(), hash: OaepHash::Sha1 };
    for form in [ImportForm::Plain, ImportForm::RsaOaep(key)] {
        let foreign = Import { label: "another".to_owned(), form };
        let failure = ask(&mut worker, &foreign, &seed(1, 32)).unwrap_err();
        assert_eq!(failure.class, Class::Refused);
        assert!(failure.message.contains("not one of this keyring"), "{failure}");
    }
}
