//! A reader for bbolt files, which is the form of etcd's own file: buckets of pairs, in
//! B+ trees of pages. It reads from the last pair to the first.
//!
//! The form is bbolt's (go.etcd.io/bbolt, format version 2). Nothing in the file is
//! believed: each offset and length is checked, every page can be visited once at most,
//! and no more than one page is in memory.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::snapshot::Bad;

/// Of a page: id (8), flags (2), count (2), overflow (4).
const PAGE_HEADER: usize = 16;

/// Of an element in a page: 16 bytes, in leaves and in branches.
const ELEMENT: usize = 16;

/// Of a bucket: root (8), sequence (8). With the root 0 its only page follows.
const BUCKET_HEADER: usize = 16;

const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
const META: u16 = 0x04;

/// The flag of a leaf's element that is a bucket.
const IS_BUCKET: u32 = 0x01;

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;

/// Of a meta page behind its header: magic, version, page size, flags (4 each), root,
/// sequence, freelist, pages, transaction, checksum (8 each).
const META_LEN: usize = 64;

/// The page sizes that bbolt itself looks for.
const PAGE_SIZES: std::ops::RangeInclusive<u32> = 10..=25;

/// The largest page with what flows over from it. Four values can be on one, each of
/// which etcd takes up to 10 MiB at most if its authors' advice is kept.
const LARGEST_PAGE: u64 = 128 << 20;

/// Deeper than any tree: three levels hold millions of pairs.
const DEEPEST: usize = 32;

/// An open file.
pub(super) struct Bolt<'a> {
    file: &'a File,
    page_size: u64,
    /// Pages in use, by the newest meta page.
    pages: u64,
    root: u64,
}

/// Where a bucket's tree begins.
pub(super) enum Root {
    /// At this page.
    At(u64),
    /// On this one, within the bucket's own entry.
    Inline(Vec<u8>),
}

/// A pair, and whether it is a bucket.
pub(super) struct Pair<'a> {
    pub(super) key: &'a [u8],
    pub(super) value: &'a [u8],
    pub(super) is_bucket: bool,
}

struct Meta {
    page_size: u32,
    root: u64,
    pages: u64,
    transaction: u64,
}

impl<'a> Bolt<'a> {
    /// Reads the meta pages of a file that is `len` bytes long.
    pub(super) fn open(file: &'a File, len: u64) -> Result<Self, Bad> {
        // The second one lies where the first one says, or, if that one is damaged,
        // somewhere. A transaction that broke off leaves one of the two behind.
        let first = meta_at(file, len, 0)?;
        let sizes = PAGE_SIZES.map(|power| 1u32 << power);
        let second = match &first {
            Some(meta) => meta_at(file, len, u64::from(meta.page_size))?,
            None => sizes
                .filter_map(|size| match meta_at(file, len, u64::from(size)) {
                    Ok(Some(meta)) if meta.page_size == size => Some(Ok(meta)),
                    Ok(_) => None,
                    Err(error) => Some(Err(error)),
                })
                .next()
                .transpose()?,
        };
        let newest = first.into_iter().chain(second).max_by_key(|meta| meta.transaction);
        let meta = newest.ok_or(Bad::Damaged("neither of its two first pages is of bbolt"))?;
        let page_size = u64::from(meta.page_size);
        if meta.pages.checked_mul(page_size).is_none_or(|end| end > len) {
            return Err(Bad::Damaged("its end is missing"));
        }
        Ok(Self { file, page_size, pages: meta.pages, root: meta.root })
    }

    /// The bucket of that name.
    pub(super) fn bucket(&self, name: &[u8]) -> Result<Option<Root>, Bad> {
        let mut found = None;
        self.walk(Root::At(self.root), &mut |_| (), &mut |pair| {
            if pair.key == name && pair.is_bucket {
                found = Some(pair.value.to_vec());
            }
            Ok(())
        })?;
        let Some(value) = found else { return Ok(None) };
        let (header, page) =
            value.split_at_checked(BUCKET_HEADER).ok_or(Bad::Damaged("a bucket has no root"))?;
        Ok(Some(match u64_at(header, 0)? {
            0 => Root::Inline(page.to_vec()),
            root => Root::At(root),
        }))
    }

    /// Hands out every pair of a tree, the last one first. `passed` is told the bytes
    /// of each page when it is done.
    pub(super) fn walk(
        &self,
        root: Root,
        passed: &mut dyn FnMut(u64),
        take: &mut dyn FnMut(Pair<'_>) -> Result<(), Bad>,
    ) -> Result<(), Bad> {
        // The children that are still to be visited, level by level; the last is next.
        let mut levels: Vec<Vec<u64>> = Vec::new();
        // In a tree each page has one parent: more visits than pages go in circles.
        let mut visits = self.pages;
        let mut page = match root {
            Root::Inline(bytes) => Page::read(bytes)?,
            Root::At(id) => self.page(id, &mut visits)?,
        };
        loop {
            match page.flags {
                LEAF => page.each_pair(take)?,
                BRANCH if levels.len() < DEEPEST => levels.push(page.children()?),
                BRANCH => return Err(Bad::Damaged("a tree is too deep")),
                _ => return Err(Bad::Damaged("a page is of another kind than it must be")),
            }
            passed(page.bytes.len() as u64);
            let next = loop {
                match levels.last_mut() {
                    None => return Ok(()),
                    Some(level) => match level.pop() {
                        Some(id) => break id,
                        None => levels.truncate(levels.len() - 1),
                    },
                }
            };
            page = self.page(next, &mut visits)?;
        }
    }

    /// Reads a page, with what flows over from it.
    fn page(&self, id: u64, visits: &mut u64) -> Result<Page, Bad> {
        const OUTSIDE: Bad = Bad::Damaged("a page lies outside of it");
        let start = id.checked_mul(self.page_size).filter(|_| id < self.pages).ok_or(OUTSIDE)?;
        let mut header = [0; PAGE_HEADER];
        self.file.read_exact_at(&mut header, start)?;
        if u64_at(&header, 0)? != id {
            return Err(Bad::Damaged("a page is not where it must be"));
        }
        let count = u64::from(u32_at(&header, 12)?) + 1;
        if id + count > self.pages {
            return Err(OUTSIDE);
        }
        *visits =
            visits.checked_sub(count).ok_or(Bad::Damaged("a page is in more than one place"))?;
        let len = count * self.page_size;
        if len > LARGEST_PAGE {
            return Err(Bad::Damaged("a page is larger than etcd writes any"));
        }
        let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut bytes, start)?;
        Page::read(bytes)
    }
}

/// The meta page there; none if there is none that is whole.
fn meta_at(file: &File, len: u64, start: u64) -> Result<Option<Meta>, Bad> {
    let mut bytes = [0; PAGE_HEADER + META_LEN];
    if start + bytes.len() as u64 > len {
        return Ok(None);
    }
    file.read_exact_at(&mut bytes, start)?;
    let (header, meta) = bytes.split_at(PAGE_HEADER);
    let (sealed, checksum) = meta.split_at(META_LEN - 8);
    let page_size = u32_at(meta, 8)?;
    let whole = u16_at(header, 8)? == META
        && u32_at(meta, 0)? == MAGIC
        && u32_at(meta, 4)? == VERSION
        && page_size.is_power_of_two()
        && PAGE_SIZES.contains(&page_size.trailing_zeros())
        && u64_at(checksum, 0)? == fnv64a(sealed);
    if !whole {
        return Ok(None);
    }
    let (root, pages, transaction) = (u64_at(meta, 16)?, u64_at(meta, 40)?, u64_at(meta, 48)?);
    Ok(Some(Meta { page_size, root, pages, transaction }))
}

/// A page of a tree in memory.
struct Page {
    bytes: Vec<u8>,
    flags: u16,
    count: usize,
}

impl Page {
    fn read(bytes: Vec<u8>) -> Result<Self, Bad> {
        let flags = u16_at(&bytes, 8)?;
        let count = usize::from(u16_at(&bytes, 10)?);
        if PAGE_HEADER + count * ELEMENT > bytes.len() {
            return Err(SHORT);
        }
        Ok(Self { bytes, flags, count })
    }

    /// The pages below a branch: pos (4), key length (4), page (8).
    fn children(&self) -> Result<Vec<u64>, Bad> {
        (0..self.count).map(|number| u64_at(&self.bytes, element(number) + 8)).collect()
    }

    /// The pairs of a leaf: flags, pos, key length, value length (4 each). The position
    /// counts from the element itself.
    fn each_pair(&self, take: &mut dyn FnMut(Pair<'_>) -> Result<(), Bad>) -> Result<(), Bad> {
        // They do not overlap: what they need together is on the page.
        let mut room = self.bytes.len();
        for number in (0..self.count).rev() {
            let at = element(number);
            let word = |place| u32_at(&self.bytes, at + place).map(|word| word as usize);
            let (flags, start, key, value) = (word(0)?, at + word(4)?, word(8)?, word(12)?);
            let bytes = self.bytes.get(start..start + key + value).ok_or(SHORT)?;
            let (key, value) = bytes.split_at_checked(key).ok_or(SHORT)?;
            room = room.checked_sub(bytes.len()).ok_or(SHORT)?;
            take(Pair { key, value, is_bucket: flags == IS_BUCKET as usize })?;
        }
        Ok(())
    }
}

const SHORT: Bad = Bad::Damaged("a page is too short for what it holds");

fn element(number: usize) -> usize {
    PAGE_HEADER + number * ELEMENT
}

/// bbolt writes numbers as the machine has them, and every machine that Kubernetes runs
/// its control plane on has the low byte first but one.
fn u16_at(bytes: &[u8], place: usize) -> Result<u16, Bad> {
    at(bytes, place).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], place: usize) -> Result<u32, Bad> {
    at(bytes, place).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], place: usize) -> Result<u64, Bad> {
    at(bytes, place).map(u64::from_le_bytes)
}

fn at<const N: usize>(bytes: &[u8], place: usize) -> Result<[u8; N], Bad> {
    bytes.get(place..).and_then(<[u8]>::first_chunk).copied().ok_or(SHORT)
}

/// FNV-1a of 64 bits.
fn fnv64a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
