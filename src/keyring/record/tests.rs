use proptest::prelude::*;

use super::*;

fn key_id(generation: Generation, epoch: Epoch, fill: u8) -> KeyId {
    KeyId::new(generation, epoch, &Fingerprint::new([fill; 40]))
}

/// What a node can come to: the newest KEK, or an older one that was put back over it.
fn active() -> impl Strategy<Value = Active> {
    (1..6_u32, 0..6_u32, 0..4_u32, 0..3_u8, 0..100_u64).prop_map(
        |(highest, below, epoch, fill, since)| {
            let epoch = Epoch::new(epoch).unwrap();
            let below = if epoch == Epoch::FIRST { 0 } else { below.min(highest) };
            let generation = Generation::new(highest - below);
            Active {
                generation,
                epoch,
                highest_generation: Generation::new(highest),
                key_id: key_id(generation, epoch, fill),
                fingerprint: Fingerprint::new([fill; 40]),
                since: Timestamp::new(since),
            }
        },
    )
}

fn known() -> impl Strategy<Value = (KeyId, Known)> {
    let time = || proptest::option::of((0..100_u64).prop_map(Timestamp::new));
    (1..6_u32, 0..3_u8, time(), any::<bool>(), time(), time()).prop_map(
        |(generation, fill, created, imported, destroyed, seen)| {
            let generation = Generation::new(generation);
            let last_decrypt = seen.map(|at| Sighting { at, node: format!("cp{fill}") });
            let known = Known { generation, created, imported, destroyed, last_decrypt };
            (key_id(generation, Epoch::FIRST, fill), known)
        },
    )
}

fn record() -> impl Strategy<Value = Record> {
    let keks = proptest::collection::btree_map(0..20_u8, known(), 0..5);
    (proptest::option::of(active()), keks, 0..3_u32).prop_map(|(active, keks, later)| {
        let reinstated = active.as_ref().and_then(|active| {
            let epoch = Epoch::new(active.epoch.number() + later)?;
            (epoch != Epoch::FIRST)
                .then_some(Reinstated { epoch, generation: active.highest_generation })
        });
        Record { active, reinstated, keks: keks.into_values().collect() }
    })
}

proptest! {
    #[test]
    fn what_is_written_reads_back(record in record(), label in "[a-z\"\\\\ ]{1,20}") {
        prop_assert_eq!(Record::parse(&record.to_text(&label), &label), Ok(record));
    }

    #[test]
    fn joining_is_the_same_in_any_order(a in record(), b in record(), c in record()) {
        let join = |a: &Record, b: &Record| a.clone().join(b.clone());
        prop_assert_eq!(join(&a, &a), a.clone());
        prop_assert_eq!(join(&a, &b), join(&b, &a));
        prop_assert_eq!(join(&join(&a, &b), &c), join(&a, &join(&b, &c)));
    }

    #[test]
    fn any_changed_byte_is_noticed(record in record(), place: prop::sample::Index, with: u8) {
        let mut bytes = record.to_text("k8s-kek").into_bytes();
        let place = place.index(bytes.len());
        prop_assume!(bytes[place] != with);
        bytes[place] = with;
        let text = String::from_utf8_lossy(&bytes);
        prop_assert!(Record::parse(&text, "k8s-kek").is_err());
    }

    #[test]
    fn one_that_was_cut_is_noticed(record in record(), place: prop::sample::Index) {
        let text = record.to_text("k8s-kek");
        let cut = &text[..place.index(text.len())];
        prop_assert!(Record::parse(cut, "k8s-kek").is_err());
    }

    #[test]
    fn no_text_panics(text: String) {
        let _ = Record::parse(&text, "k8s-kek");
    }
}

/// A body under a hash that is right.
fn sealed(body: &str) -> String {
    format!("{HEAD}{}\"\n{body}", HEXLOWER.encode(&Sha256::digest(body)))
}

#[test]
fn what_is_wrong_is_said() {
    let error = |body: &str| Record::parse(&sealed(body), "k8s-kek").unwrap_err().to_string();
    assert!(error("version = 2\nsomething = 1").contains("version 2"));
    assert!(error("label = \"k8s-kek\"").contains("version is missing"));
    assert!(error("version = 1\nlabel = \"other\"").contains("keyring \"other\""));
    assert!(error("version = 1\nlabel = \"k8s-kek\"\nsurplus = 1").contains("surplus"));
    assert!(error("version = ").contains("cannot be read"));
    assert_eq!(Record::parse("", "k8s-kek"), Err(BadRecord::Damaged));
}

#[test]
fn one_that_contradicts_itself_is_refused() {
    let generation = Generation::new(2);
    let good = Active {
        generation,
        epoch: Epoch::FIRST,
        highest_generation: generation,
        key_id: key_id(generation, Epoch::FIRST, 7),
        fingerprint: Fingerprint::new([7; 40]),
        since: Timestamp::new(1),
    };
    let first = Epoch::new(1).unwrap();
    let bad = [
        Active { key_id: key_id(generation, Epoch::FIRST, 8), ..good.clone() },
        Active { highest_generation: Generation::new(3), ..good.clone() },
        Active { highest_generation: Generation::new(1), ..good.clone() },
        Active { epoch: first, key_id: key_id(generation, first, 7), ..good.clone() },
    ];
    let parse = |active| {
        let record = Record { active: Some(active), ..Record::default() };
        Record::parse(&record.to_text("k8s-kek"), "k8s-kek")
    };
    assert!(parse(good).is_ok());
    for active in bad {
        assert!(matches!(parse(active), Err(BadRecord::Contradiction(_))));
    }
}
