//! A snapshot of etcd. The input is its pages, of 1024 bytes; the checksums of the first two
//! are made to fit, or nothing behind them would ever be read.

#![no_main]

use std::fs::File;
use std::io::Write;

use libfuzzer_sys::fuzz_target;
use nix::sys::memfd::{MFdFlags, memfd_create};
use p11_kms::usage::Tally;
use p11_kms::usage::snapshot::{Bad, count_open};

const PAGE: usize = 1024;

/// Of a meta page: behind the page's own header, the checksum at its end.
const META: std::ops::Range<usize> = 16..72;
const CHECKSUM: std::ops::Range<usize> = 72..80;

fuzz_target!(|bytes: &[u8]| {
    let _ = counted(bytes);
    let mut pages = bytes.to_vec();
    pages.resize(pages.len().next_multiple_of(512), 0);
    for page in pages.chunks_mut(PAGE).take(2).filter(|page| page.len() >= CHECKSUM.end) {
        let sum = fnv64a(&page[META]).to_le_bytes();
        page[CHECKSUM].copy_from_slice(&sum);
    }
    if let Ok(tally) = counted(&pages) {
        let sum: u64 = tally.resources.values().map(|counts| counts.objects).sum();
        assert_eq!(sum, tally.total.objects);
        for counts in tally.resources.values() {
            let needed: u64 = counts.key_ids.values().sum();
            let others: u64 = counts.other_providers.values().flat_map(|it| it.values()).sum();
            let parts = needed + others + counts.unencrypted + counts.unreadable;
            assert_eq!(parts, counts.objects);
        }
    }
});

fn counted(bytes: &[u8]) -> Result<Tally, Bad> {
    let mut file = File::from(memfd_create("snapshot", MFdFlags::empty()).unwrap());
    file.write_all(bytes).unwrap();
    let mut last = 0;
    count_open(&file, b"/registry/", &mut |progress| {
        assert!((last..=progress.total).contains(&progress.done));
        last = progress.done;
    })
}

fn fnv64a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
