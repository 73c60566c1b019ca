use super::super::kek::tests::{POLICY, good_key};
use super::super::lifecycle::{Lifecycle, Rules};
use super::*;
use crate::timestamp::Timestamp;
use std::time::Duration;
use tokio::time::Instant;

fn seen_after(before: &Ring, keys: Vec<FoundKey>) -> Ring {
    let sorted = Sorted::new(keys, POLICY, before.record());
    let rules = Rules { delay: Duration::ZERO, reinstate: None };
    let clocks = (Instant::now(), Timestamp::new(1));
    let (record, noted) = (before.record(), Record::default());
    let decision = Lifecycle::default().decide(&sorted.keks, record, &noted, rules, clocks);
    Ring::new(sorted, decision.record, decision.trouble, before)
}

fn ring(keys: Vec<FoundKey>) -> Ring {
    seen_after(&Ring::default(), keys)
}

fn active_generation(ring: &Ring) -> Option<u32> {
    ring.active().map(|active| active.kek.generation.number())
}

#[test]
fn the_highest_generation_is_active_and_older_ones_stay() {
    let ring = ring(vec![good_key(2, 2), good_key(10, 3), good_key(0, 1)]);
    assert_eq!(active_generation(&ring), Some(10));
    let states: Vec<_> = ring.keks().iter().map(|kek| ring.state(kek).name()).collect();
    assert_eq!(states, ["deactivated", "deactivated", "active"]);
}

#[test]
fn of_two_with_one_generation_the_lower_fingerprint_is_active_on_every_node() {
    for keys in [[good_key(1, 5), good_key(1, 4)], [good_key(1, 4), good_key(1, 5)]] {
        let ring = ring(keys.to_vec());
        assert_eq!(ring.active().unwrap().kek.fingerprint.as_bytes(), &[4; 40]);
        assert_eq!(ring.keks().len(), 2, "both decrypt");
    }
}

#[test]
fn a_clone_of_a_kek_is_the_same_kek() {
    let ring = ring(vec![good_key(1, 5), good_key(1, 5)]);
    assert_eq!(ring.keks().len(), 1);
}

#[test]
fn a_kek_is_found_by_its_name_in_any_epoch() {
    let ring = ring(vec![good_key(1, 1), good_key(2, 2)]);
    for kek in ring.keks() {
        for epoch in Epoch::all() {
            let key_id = KeyId::new(kek.generation, epoch, &kek.fingerprint);
            assert_eq!(ring.get(key_id.as_str()), Some(kek));
        }
    }
    assert_eq!(ring.get("another"), None);
}

#[test]
fn a_vanished_active_kek_is_not_replaced_by_an_older_one() {
    let before = ring(vec![good_key(1, 1), good_key(2, 2)]);
    let after = seen_after(&before, vec![good_key(1, 1)]);
    assert_eq!(active_generation(&after), None);
    let why = after.why_none("k8s-kek");
    assert!(why.contains("k8s-kek-0002") && why.contains("--generation 3"), "{why}");
    assert!(after.get(before.keks()[0].key_id.as_str()).is_some(), "the old one decrypts");

    let still = seen_after(&after, vec![good_key(1, 1)]);
    assert_eq!(active_generation(&still), None, "not after a second look either");

    let back = seen_after(&still, vec![good_key(1, 1), good_key(2, 2)]);
    assert_eq!(active_generation(&back), Some(2));

    let newer = seen_after(&still, vec![good_key(1, 1), good_key(3, 3)]);
    assert_eq!(active_generation(&newer), Some(3));
}

#[test]
fn another_key_under_the_active_label_is_not_taken_for_it() {
    for fill in [1, 9] {
        let before = ring(vec![good_key(1, 5)]);
        let after = seen_after(&before, vec![good_key(1, fill)]);
        assert_eq!(active_generation(&after), None);
    }
}

#[test]
fn an_active_kek_that_is_refused_now_is_not_said_to_be_gone() {
    let before = ring(vec![good_key(1, 1)]);
    let mut bad = good_key(1, 1);
    bad.attributes.extractable = Some(true);
    let why = seen_after(&before, vec![bad]).why_none("k8s-kek");
    assert!(why.contains("CKA_EXTRACTABLE"), "{why}");
}

#[test]
fn a_refused_key_says_why_there_is_none() {
    let mut bad = good_key(1, 1);
    bad.attributes.extractable = Some(true);
    let ring = ring(vec![bad]);
    assert!(ring.why_none("k8s-kek").contains("CKA_EXTRACTABLE"));
    assert!(self::ring(vec![]).why_none("k8s-kek").contains("p11-kms key generate"));
}
