//! What a worker changes on the token besides making KEKs: notes, and destroying a KEK.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "the helpers are part of the tests"
)]

mod common;

use common::token::Token;
use common::worker::Worker;
use p11_kms::token::frame::Operation;
use p11_kms::token::protocol::{Class, Fingerprint, Found, FoundKey, NewNote};

#[test]
fn a_note_is_found_and_replaced() {
    let token = Token::new();
    let mut worker = Worker::start(&token, &[]);
    assert_eq!((worker.find().keys, worker.notes().len()), (Vec::new(), 0));
    worker.write("one", &[]).unwrap().unwrap();
    assert_eq!(worker.notes(), ["one"]);
    worker.write("two \u{e4} \"\n", &["one", "never there"]).unwrap().unwrap();
    assert_eq!(worker.notes(), ["two \u{e4} \"\n"]);
    // Another process sees the same, and writes the same once.
    let mut other = Worker::start(&token, &[]);
    assert_eq!(other.notes(), ["two \u{e4} \"\n"]);
    other.write("two \u{e4} \"\n", &["two \u{e4} \"\n"]).unwrap().unwrap();
    assert_eq!(worker.notes(), ["two \u{e4} \"\n"]);
    other.write("three", &[]).unwrap().unwrap();
    assert_eq!(worker.notes(), ["three", "two \u{e4} \"\n"]);
}

#[test]
fn a_note_may_be_as_long_as_a_job() {
    let token = Token::new();
    let mut worker = Worker::start(&token, &[]);
    let long = "a line of a record\n".repeat(3000);
    worker.write(&long, &[]).unwrap().unwrap();
    assert_eq!(worker.notes(), [long.as_str()]);
    // A wrap after it has its usual buffers again.
    worker.generate("k8s-kek-0001");
    assert!(worker.find().keys[0].fingerprint.is_ok());
}

#[test]
fn what_is_not_ours_is_left_alone() {
    let token = Token::new();
    let mut worker = Worker::start(&token, &[]);
    worker.write("ours", &[]).unwrap().unwrap();
    for (label, application, text) in [
        ("k8s-kek.record", "another", &b"of another application"[..]),
        ("k8s-kek-b.record", "p11-kms", b"of another keyring"),
        ("k8s-kek.record", "p11-kms", b"\xff\xfe is not UTF-8"),
    ] {
        token.store_data(label, application, text);
    }
    // One that is damaged is shown to be so: it is no note that is not there.
    let damaged = "\u{fffd}\u{fffd} is not UTF-8";
    assert_eq!(worker.notes(), ["ours", damaged]);
    let all = ["ours", "of another application", "of another keyring"];
    worker.write("new", &all).unwrap().unwrap();
    assert_eq!(worker.notes(), ["new", damaged]);
    assert_eq!(token.data_objects(), 4);
    assert_eq!(
        Worker::start(&token, &[("keyring.label", "k8s-kek-b")]).notes(),
        ["of another keyring"]
    );
}

#[test]
fn writers_at_the_same_time_lose_nothing() {
    let token = Token::new();
    let mut first = Worker::start(&token, &[]);
    let mut second = Worker::start(&token, &[]);
    first.write("start", &[]).unwrap().unwrap();
    for round in 0..10 {
        let base = first.notes();
        let base: Vec<&str> = base.iter().map(String::as_str).collect();
        let [one, two] = [format!("{round} of the first"), format!("{round} of the second")];
        first.send_note(&one, &base);
        second.send_note(&two, &base);
        for worker in [&mut first, &mut second] {
            worker.answer::<()>().unwrap().unwrap();
        }
        assert_eq!(first.notes(), [one.as_str(), &two]);
        assert_eq!(second.notes(), [one.as_str(), &two]);
    }
}

/// SoftHSM never shows a process an object that it has seen half made.
#[test]
fn who_looks_while_others_write_sees_it_all_in_the_end() {
    let token = Token::new();
    let mut reader = Worker::start(&token, &[]);
    let mut writer = Worker::start(&token, &[]);
    for round in 0..8 {
        let [before, text] = [round, round + 1].map(|number| format!("note {number}"));
        let label = format!("k8s-kek-{:04}", round + 1);
        writer.send_note(&text, &[&before]);
        writer.send(Operation::Generate, &Fingerprint::NONE, label.as_bytes());
        for _ in 0..5 {
            reader.find();
        }
        writer.answer::<()>().unwrap().unwrap();
        writer.answer::<FoundKey>().unwrap().unwrap();
        assert_eq!(reader.notes(), [text]);
        assert_eq!(reader.find().keys.len(), round + 1);
    }
}

#[test]
fn who_dies_between_the_new_note_and_the_old_one_leaves_both() {
    let token = Token::new();
    let faults = token.misbehaving();
    let mut worker = Worker::start(&token, &[]);
    worker.write("old", &[]).unwrap().unwrap();
    faults.set("C_DestroyObject abort").unwrap();
    assert!(worker.write("new", &["old"]).is_none(), "it lives");
    faults.clear().unwrap();
    let mut next = Worker::start(&token, &[]);
    assert_eq!(next.notes(), ["new", "old"]);
    // The job is repeated: the new one is there, and only the old one goes.
    next.write("new", &["old"]).unwrap().unwrap();
    assert_eq!(next.notes(), ["new"]);
}

#[test]
fn who_dies_before_the_new_note_leaves_the_old_one() {
    let token = Token::new();
    let faults = token.misbehaving();
    let mut worker = Worker::start(&token, &[]);
    worker.write("old", &[]).unwrap().unwrap();
    faults.set("C_CreateObject abort").unwrap();
    assert!(worker.write("new", &["old"]).is_none(), "it lives");
    faults.clear().unwrap();
    assert_eq!(Worker::start(&token, &[]).notes(), ["old"]);
}

/// A token that keeps something else than it was given must not cost us the old notes.
#[test]
fn a_note_that_reads_otherwise_is_taken_back() {
    let token = Token::new();
    let faults = token.misbehaving();
    let mut worker = Worker::start(&token, &[]);
    worker.write("old", &[]).unwrap().unwrap();
    // The first reading of a value is of the old note, the second of the new one.
    faults.set("C_GetAttributeValue corrupt after=1 times=1").unwrap();
    let failure = worker.write("new", &["old"]).unwrap().unwrap_err();
    assert_eq!(failure.class, Class::Refused);
    assert!(failure.message.contains("does not keep data objects"), "{failure}");
    faults.clear().unwrap();
    assert_eq!(worker.notes(), ["old"]);
}

#[test]
fn a_note_for_another_token_is_not_written() {
    let token = Token::new();
    let mut worker = Worker::start(&token, &[]);
    let note = NewNote {
        token_serial: "another".to_owned(),
        text: "text".to_owned(),
        replaces: Vec::new(),
    };
    worker.send(Operation::WriteNote, &Fingerprint::NONE, &serde_json::to_vec(&note).unwrap());
    let failure = worker.answer::<()>().unwrap().unwrap_err();
    assert_eq!(failure.class, Class::Refused, "{failure}");
    assert!(worker.notes().is_empty());
}

#[test]
fn a_token_that_refuses_data_objects_says_that_nobody_knows() {
    let token = Token::new();
    let faults = token.misbehaving();
    let mut worker = Worker::start(&token, &[]);
    worker.generate("k8s-kek-0001");
    for code in ["CKR_FUNCTION_FAILED", "CKR_DEVICE_MEMORY", "CKR_ATTRIBUTE_VALUE_INVALID"] {
        faults.set(&format!("C_CreateObject return={code}")).unwrap();
        let failure = worker.write("text", &[]).unwrap().unwrap_err();
        assert_eq!(failure.class, Class::Refused, "{failure}");
        assert!(failure.message.contains(code), "{failure}");
    }
    // The search for keys is the first one, that for notes the second.
    for code in ["CKR_ATTRIBUTE_TYPE_INVALID", "CKR_FUNCTION_FAILED"] {
        faults.set(&format!("C_FindObjectsInit every=2 return={code}")).unwrap();
        let found = worker.find();
        assert_eq!((found.keys.len(), found.notes), (1, None), "{code}");
    }
}

#[test]
fn a_session_that_is_lost_while_notes_are_read_is_no_empty_list() {
    let token = Token::new();
    let faults = token.misbehaving();
    let mut worker = Worker::start(&token, &[]);
    worker.write("text", &[]).unwrap().unwrap();
    for rule in [
        "C_FindObjectsInit after=1 times=1 return=CKR_SESSION_HANDLE_INVALID",
        "C_FindObjectsInit after=1 times=1 return=CKR_DEVICE_ERROR",
        "C_GetAttributeValue times=1 return=CKR_OBJECT_HANDLE_INVALID",
    ] {
        faults.set(rule).unwrap();
        assert_eq!(worker.notes(), ["text"], "{rule}");
        assert_eq!(faults.strikes(), 1, "{rule}");
    }
    faults.set("C_FindObjectsInit after=1 return=CKR_DEVICE_REMOVED").unwrap();
    worker.send(Operation::Find, &Fingerprint::NONE, b"");
    let failure = worker.answer::<Found>().unwrap().unwrap_err();
    assert_eq!(failure.class, Class::TokenLost, "{failure}");
}

#[test]
fn without_data_objects_nothing_is_searched_and_nothing_written() {
    let token = Token::new();
    Worker::start(&token, &[]).write("text", &[]).unwrap().unwrap();
    let mut worker = Worker::start(&token, &[("token.data-objects", "false")]);
    assert_eq!((worker.find().keys, worker.notes().len()), (Vec::new(), 0));
    let failure = worker.write("other", &["text"]).unwrap().unwrap_err();
    assert_eq!(failure.class, Class::Refused);
    assert_eq!(failure.message, "this token stores no data objects (token.data-objects)");
    assert_eq!(Worker::start(&token, &[]).notes(), ["text"]);
}

#[test]
fn a_kek_is_destroyed_with_its_clones_and_nothing_else() {
    let token = Token::new();
    let key = common::seed(7, 32);
    token.import("k8s-kek-0001", &key);
    token.import("k8s-kek-0001", &key);
    token.import("k8s-kek-0002", &key);
    token.import("k8s-kek-0001", &common::seed(8, 32));
    let mut worker = Worker::start(&token, &[]);
    let found = worker.find().keys;
    assert_eq!(found.len(), 4);
    let clone = found.iter().find(|key| key.label == "k8s-kek-0002").unwrap();
    let kek = clone.fingerprint.clone().unwrap();
    worker.destroy(&kek, "k8s-kek-0001").unwrap();
    let left = worker.find().keys;
    let mut labels: Vec<&str> = left.iter().map(|key| key.label.as_str()).collect();
    labels.sort_unstable();
    assert_eq!(labels, ["k8s-kek-0001", "k8s-kek-0002"]);
    assert!(left.iter().all(|key| (key.label == "k8s-kek-0002") == (key.fingerprint == Ok(kek))));

    for label in ["k8s-kek-0001", "k8s-kek-0003", "k8s-kek", ""] {
        let failure = worker.destroy(&kek, label).unwrap_err();
        assert_eq!(failure.class, Class::UnknownKek, "{label}");
    }
    assert_eq!(worker.find().keys.len(), 2);
}

#[test]
fn a_kek_that_is_still_there_is_not_called_destroyed() {
    let token = Token::with_kek();
    let faults = token.misbehaving();
    let mut worker = Worker::start(&token, &[]);
    let kek = worker.find().keys[0].fingerprint.clone().unwrap();
    faults.set("C_DestroyObject return=CKR_ACTION_PROHIBITED").unwrap();
    let failure = worker.destroy(&kek, "k8s-kek-0001").unwrap_err();
    assert_eq!(failure.class, Class::Refused);
    assert!(failure.message.contains("CKR_ACTION_PROHIBITED"), "{failure}");
    faults.clear().unwrap();
    worker.destroy(&kek, "k8s-kek-0001").unwrap();
    assert!(worker.find().keys.is_empty());
}

/// SoftHSM cannot read the date again, so its profile asks for none. NSS can: see `nss.rs`. What
/// else a KEK need not have is left out as well: `key_commands.rs` has that.
#[test]
fn a_kek_is_made_without_a_date_where_the_token_refuses_one() {
    let token = Token::new();
    let faults = token.misbehaving();
    let mut plain = Worker::start(&token, &[]);
    let mut dated = Worker::start(&token, &[("token.start-date", "true")]);
    assert!(dated.generate("k8s-kek-0001").fingerprint.is_ok());
    let refusals = [
        "CKR_ATTRIBUTE_TYPE_INVALID",
        "CKR_ATTRIBUTE_VALUE_INVALID",
        "CKR_ATTRIBUTE_READ_ONLY",
        "CKR_TEMPLATE_INCONSISTENT",
    ];
    let left_out = [
        &["CKA_START_DATE"][..],
        &["CKA_DERIVE"],
        &["CKA_DERIVE", "CKA_START_DATE"],
        &["CKA_SIGN", "CKA_VERIFY", "CKA_DERIVE", "CKA_START_DATE"],
    ];
    for (number, (code, (times, left_out))) in
        (2..).zip(refusals.into_iter().zip([1, 2, 6, 8].into_iter().zip(left_out)))
    {
        let label = format!("k8s-kek-000{number}");
        faults.set(&format!("C_GenerateKey times=6 return={code}")).unwrap();
        plain.send(Operation::Generate, &Fingerprint::NONE, label.as_bytes());
        let failure = plain.answer::<FoundKey>().unwrap().unwrap_err();
        assert!(failure.message.contains(code), "{failure}");
        faults.set(&format!("C_GenerateKey times={times} return={code}")).unwrap();
        assert_eq!(dated.generate(&label).left_out, left_out);
        assert_eq!(faults.strikes(), times);
    }
    faults.clear().unwrap();
    assert_eq!(plain.find().keys.len(), 5);
}
