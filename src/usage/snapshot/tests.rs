//! Snapshots that are made here, whole and damaged. Real ones are in `tests/usage.rs`.

use std::io::Write;

use proptest::prelude::*;

use super::*;

const PAGE: usize = 4096;
const PREFIX: &[u8] = b"/registry/";

/// What a revision holds.
#[derive(Clone)]
struct Revision {
    main: u64,
    mark: &'static [u8],
    pair: Vec<u8>,
}

fn put(main: u64, key: &str, value: &[u8]) -> Revision {
    let pair = KeyValue {
        key: key.as_bytes().to_vec().into(),
        mod_revision: main as i64,
        value: value.to_vec().into(),
    };
    Revision { main, mark: b"", pair: pair.encode_to_vec() }
}

fn delete(main: u64, key: &str) -> Revision {
    Revision { mark: b"t", ..put(main, key, b"") }
}

impl Revision {
    fn name(&self) -> Vec<u8> {
        [&self.main.to_be_bytes(), &b"_"[..], &[0; 8], self.mark].concat()
    }
}

/// A page of a tree. Each element is what stands in it and behind it.
fn page(id: u64, flags: u16, elements: &[([u8; 8], Vec<u8>)], branch: bool) -> Vec<u8> {
    let table = 16 + 16 * elements.len();
    let data: usize = elements.iter().map(|(_, data)| data.len()).sum();
    let pages = (table + data).div_ceil(PAGE);
    let mut bytes = id.to_le_bytes().to_vec();
    bytes.extend(flags.to_le_bytes());
    bytes.extend((elements.len() as u16).to_le_bytes());
    bytes.extend((pages as u32 - 1).to_le_bytes());
    let mut at = table;
    for (number, (words, data)) in elements.iter().enumerate() {
        let start = (at - 16 - 16 * number) as u32;
        at += data.len();
        if branch {
            bytes.extend(start.to_le_bytes());
            bytes.extend((data.len() as u32).to_le_bytes());
            bytes.extend(words);
        } else {
            // The first word of a leaf's element is its flags, the other its key's length.
            bytes.extend(&words[..4]);
            bytes.extend(start.to_le_bytes());
            bytes.extend(&words[4..]);
            let key = u32::from_le_bytes(words[4..].try_into().unwrap());
            bytes.extend((data.len() as u32 - key).to_le_bytes());
        }
    }
    elements.iter().for_each(|(_, data)| bytes.extend(data));
    bytes.resize(pages * PAGE, 0);
    bytes
}

fn leaf(id: u64, pairs: &[(Vec<u8>, Vec<u8>, u32)]) -> Vec<u8> {
    let elements: Vec<_> = pairs
        .iter()
        .map(|(key, value, flags)| {
            let mut words = [0; 8];
            words[..4].copy_from_slice(&flags.to_le_bytes());
            words[4..].copy_from_slice(&(key.len() as u32).to_le_bytes());
            (words, [key.as_slice(), value].concat())
        })
        .collect();
    page(id, 2, &elements, false)
}

fn branch(id: u64, children: &[u64]) -> Vec<u8> {
    let elements: Vec<_> =
        children.iter().map(|child| (child.to_le_bytes(), child.to_be_bytes().to_vec())).collect();
    page(id, 1, &elements, true)
}

fn meta(number: u64, root: u64, pages: u64, transaction: u64) -> Vec<u8> {
    let mut bytes = [number, 4].map(u64::to_le_bytes).concat();
    for word in [0xED0C_DAED_u32, 2, PAGE as u32, 0] {
        bytes.extend(word.to_le_bytes());
    }
    for word in [root, 0, 2, pages, transaction] {
        bytes.extend(word.to_le_bytes());
    }
    let sum = bytes[16..].iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    bytes.extend(sum.to_le_bytes());
    bytes.resize(PAGE, 0);
    bytes
}

/// A file whose bucket of keys has that page as its root.
fn file_of(root: u64, tree: &[Vec<u8>]) -> Vec<u8> {
    let bucket = [root, 0].map(u64::to_le_bytes).concat();
    let buckets = [(b"key".to_vec(), bucket, 1), (b"meta".to_vec(), vec![0; 16], 1)];
    let first = 3 * PAGE;
    let pages = (first + PAGE + tree.concat().len()) / PAGE;
    let mut bytes = [meta(0, 0, 0, 6), meta(1, 3, pages as u64, 7), vec![0; PAGE]].concat();
    bytes.extend(leaf(3, &buckets));
    bytes.extend(tree.concat());
    bytes
}

/// A file with these revisions, `fill` of them on a leaf.
fn whole(revisions: &[Revision], fill: usize) -> Vec<u8> {
    let mut tree = Vec::new();
    let mut children = Vec::new();
    let mut next = 4;
    for part in revisions.chunks(fill) {
        let pairs: Vec<_> = part.iter().map(|it| (it.name(), it.pair.clone(), 0)).collect();
        let page = leaf(next, &pairs);
        children.push(next);
        next += (page.len() / PAGE) as u64;
        tree.push(page);
    }
    tree.push(branch(next, &children));
    file_of(next, &tree)
}

fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let sum = Sha256::digest(&bytes);
    bytes.extend(sum);
    bytes
}

fn counted(bytes: &[u8]) -> Result<Tally, Bad> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    let mut last = None;
    let tally = count_open(&file, PREFIX, &mut |progress| last = Some(progress));
    if tally.is_ok() {
        let Progress { done, total, .. } = last.unwrap();
        assert_eq!(done, total);
    }
    tally
}

fn revisions() -> Vec<Revision> {
    let kms = b"k8s:enc:kms:v2:p11-kms:\x12\x03new";
    let old = b"k8s:enc:kms:v2:p11-kms:\x12\x03old";
    let long = [&old[..], &[0xff; 20_000]].concat();
    vec![
        put(2, "/registry/secrets/a/1", old),
        put(3, "/registry/secrets/a/2", old),
        put(4, "/registry/secrets/a/3", old),
        put(5, "/elsewhere/secrets/a/1", old),
        put(6, "compact_rev_key", b"1"),
        put(7, "/registry/secrets/a/1", kms),
        delete(8, "/registry/secrets/a/2"),
        delete(9, "/registry/secrets/a/3"),
        put(10, "/registry/secrets/a/3", kms),
        // Too long for a page: the rest of a varint that never ends.
        put(11, "/registry/configmaps/a/1", &long),
        put(12, "/registry/configmaps/a/2", b"k8s\0"),
    ]
}

fn check(tally: &Tally) {
    assert_eq!(tally.revision, 12);
    assert_eq!(tally.needing(&["new"]), [("secrets".to_owned(), 2)]);
    assert_eq!(tally.needing(&["old"]), []);
    assert_eq!(tally.unreadable(), [("configmaps".to_owned(), 1)]);
    assert_eq!((tally.total.objects, tally.total.unencrypted), (4, 1));
}

#[test]
fn the_newest_revision_of_each_key_counts() {
    for fill in [1, 3, 100] {
        let bytes = whole(&revisions(), fill);
        check(&counted(&bytes).unwrap());
        check(&counted(&sealed(bytes)).unwrap());
    }
}

#[test]
fn a_bucket_may_lie_within_its_parent() {
    let page = leaf(0, &[(put(2, "", b"").name(), put(2, "/registry/a/b", b"x").pair, 0)]);
    let bucket = [vec![0; 16], page].concat();
    let mut bytes = [meta(0, 0, 0, 6), meta(1, 3, 6, 7), vec![0; PAGE]].concat();
    bytes.extend(leaf(3, &[(b"key".to_vec(), bucket, 1)]));
    bytes.resize(6 * PAGE, 0);
    assert_eq!(counted(&bytes).unwrap().total.unencrypted, 1);
}

#[test]
fn either_meta_page_is_enough_and_the_newer_one_counts() {
    let good = whole(&revisions(), 3);
    for broken in [0, PAGE] {
        let mut bytes = good.clone();
        bytes[broken + 20] ^= 1;
        // The first one is older and leads to nothing.
        assert_eq!(counted(&bytes).is_ok(), broken == 0);
    }
    let mut bytes = good;
    bytes[20] ^= 1;
    bytes[PAGE + 20] ^= 1;
    let error = counted(&bytes).unwrap_err().to_string();
    assert!(error.contains("neither of its two first pages"), "{error}");
}

fn refused(bytes: &[u8], expected: &str) {
    let error = counted(bytes).unwrap_err().to_string();
    assert!(error.contains(expected), "{error}");
}

#[test]
fn what_is_damaged_is_refused() {
    let good = whole(&revisions(), 3);
    let len = good.len();
    refused(&[], "neither of its two first pages");
    refused(&[0; 8192], "neither of its two first pages");
    refused(&good[..len - PAGE], "its end is missing");
    refused(&good[..len - 1], "it is not whole");
    let good = sealed(good);
    refused(&good[..good.len() - 1], "it is not whole");
    for place in [0, 100, 3 * PAGE, len - 1, len, len + 31] {
        let mut bytes = good.clone();
        bytes[place] ^= 0x10;
        refused(&bytes, "checksum");
    }
    assert!(!tempfile::tempdir().unwrap().path().join("no").exists());
    let directory = tempfile::tempdir().unwrap();
    let error = count(directory.path(), PREFIX, &mut |_| ()).unwrap_err().to_string();
    assert!(error.contains("not a file"), "{error}");
}

#[test]
fn revisions_that_are_not_etcds_are_refused() {
    let mut twice = revisions();
    twice.push(put(12, "/registry/configmaps/a/2", b"k8s\0"));
    refused(&whole(&twice, 3), "not in order");
    let mut swapped = revisions();
    swapped.swap(1, 2);
    refused(&whole(&swapped, 100), "not in order");
    let odd = Revision { mark: b"x", ..put(13, "/registry/a/b", b"") };
    refused(&whole(&[odd], 1), "a name that etcd does not give");
    let torn = Revision { pair: vec![0x0a, 0xff], ..put(13, "", b"") };
    refused(&whole(&[torn], 1), "no key and value");
    let nothing = [leaf(4, &[])];
    assert_eq!(counted(&file_of(4, &nothing)).unwrap(), Tally::default());
    let mut other = whole(&revisions(), 3);
    let name = other.windows(3).position(|window| window == b"key").unwrap();
    other[name] = b'x';
    refused(&other, "no bucket of keys");
}

#[test]
fn trees_that_are_none_come_to_an_end() {
    let loose = |tree: &[Vec<u8>]| file_of(4, tree);
    refused(&loose(&[branch(4, &[4])]), "in more than one place");
    refused(&loose(&[branch(4, &[5, 5, 5, 5, 5, 5, 5, 5]), leaf(5, &[])]), "more than one place");
    refused(&loose(&[branch(4, &[99])]), "outside");
    refused(&loose(&[branch(4, &[u64::MAX])]), "outside");
    refused(&loose(&[leaf(5, &[])]), "not where it must be");
    refused(&loose(&[page(4, 16, &[], false)]), "of another kind");
    let deep: Vec<_> = (4..44).map(|id| branch(id, &[id + 1])).chain([leaf(44, &[])]).collect();
    refused(&loose(&deep), "too deep");
    // Lengths that no page has room for.
    let mut bytes = loose(&[leaf(4, &[(b"a".to_vec(), b"b".to_vec(), 0)])]);
    for place in [20, 24, 28] {
        let mut bytes = bytes.clone();
        bytes[4 * PAGE + place + 2] = 0xff;
        refused(&bytes, "too short");
    }
    bytes[4 * PAGE + 10] = 0xff;
    bytes[4 * PAGE + 11] = 0xff;
    refused(&bytes, "too short");
    let mut bytes = loose(&[leaf(4, &[])]);
    bytes[4 * PAGE + 15] = 0xff;
    refused(&bytes, "outside");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_bytes_are_counted_or_refused(bytes: Vec<u8>, pages in 0usize..4) {
        let mut file = whole(&revisions(), 3);
        let start = (pages * PAGE).min(file.len() - bytes.len().min(PAGE));
        for (place, byte) in bytes.iter().enumerate().take(PAGE) {
            file[start + place] = *byte;
        }
        let _ = counted(&file);
        let mut bytes = bytes;
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        let _ = counted(&bytes);
    }

    #[test]
    fn flipped_bits_are_counted_or_refused(
        flips in proptest::collection::vec((0usize..11 * PAGE, 0u8..8), 1..20),
    ) {
        let mut file = whole(&revisions(), 3);
        let len = file.len();
        for (place, bit) in flips {
            file[place % len] ^= 1 << bit;
        }
        // Without its checksum, damage in a value is seen by nobody.
        let _ = counted(&file);
        let mut sealed_before = sealed(whole(&revisions(), 3));
        if file[..] != sealed_before[..len] {
            sealed_before[..len].copy_from_slice(&file);
            prop_assert!(matches!(counted(&sealed_before), Err(Bad::Checksum)));
        }
    }

    #[test]
    fn a_part_is_refused(len in 0usize..11 * PAGE) {
        let file = sealed(whole(&revisions(), 3));
        prop_assert!(counted(&file[..len.min(file.len() - 1)]).is_err());
    }
}
