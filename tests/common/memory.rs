//! Looking for bytes in the memory of a process, as somebody with its rights could.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

/// Bytes of a needle that must be found together. A secret is looked for by all of its pieces, since
/// key wrap works on one at a time, and by its last bytes.
const PIECE: usize = 8;

const PAGE: u64 = 4096;

/// Bytes that are read at a time.
const CHUNK: usize = 1 << 20;

const NOTHING: [u8; 4096] = [0; 4096];

/// Secrets to look for.
pub(crate) struct Search {
    /// Which secret a piece belongs to.
    pieces: HashMap<[u8; PIECE], usize>,
    /// Do the first three bytes occur in any piece? Most of memory is passed over by this.
    begins: Vec<bool>,
}

impl Search {
    /// A search for these secrets, of at least [`PIECE`] bytes each.
    pub(crate) fn new(secrets: &[Vec<u8>]) -> Self {
        let mut pieces = HashMap::new();
        let mut begins = vec![false; 1 << 24];
        for (number, secret) in secrets.iter().enumerate() {
            for piece in secret.chunks_exact(PIECE).chain([&secret[secret.len() - PIECE..]]) {
                begins[begin(piece)] = true;
                pieces.insert(piece.try_into().unwrap(), number);
            }
        }
        Self { pieces, begins }
    }

    /// The numbers of the secrets that lie in the memory of that process, and where.
    pub(crate) fn in_process(&self, id: u32) -> Found {
        let maps = fs::read_to_string(format!("/proc/{id}/maps")).unwrap();
        let memory = File::open(format!("/proc/{id}/mem")).unwrap();
        let mut found = Found::default();
        for line in maps.lines() {
            let mut fields = line.split_whitespace();
            let (start, end) = fields.next().unwrap().split_once('-').unwrap();
            let address = |hex| u64::from_str_radix(hex, 16).unwrap();
            let readable = fields.next().unwrap().starts_with('r');
            let name = fields.nth(3).unwrap_or("");
            // These two belong to the kernel.
            if readable && !name.starts_with("[v") {
                self.in_range(&memory, address(start), address(end), name, &mut found);
            }
        }
        found
    }

    fn in_range(&self, memory: &File, start: u64, end: u64, name: &str, found: &mut Found) {
        let mut buffer = vec![0; CHUNK + PIECE - 1];
        let mut at = start;
        while at < end {
            let wanted = usize::try_from(end - at).unwrap().min(buffer.len());
            // A page may not be there, or no longer.
            let len = memory.read_at(&mut buffer[..wanted], at).unwrap_or(0);
            if len == 0 {
                at += PAGE;
                continue;
            }
            found.bytes += len;
            for from in (0..len).step_by(NOTHING.len() - PIECE + 1) {
                let part = &buffer[from..len.min(from + NOTHING.len())];
                // Most of memory.
                if part != &NOTHING[..part.len()] {
                    self.in_part(part, name, found);
                }
            }
            at += u64::try_from(len.min(CHUNK)).unwrap();
        }
    }

    fn in_part(&self, part: &[u8], name: &str, found: &mut Found) {
        for window in part.windows(PIECE) {
            if !self.begins[begin(window)] {
                continue;
            }
            if let Some(number) = self.pieces.get(window) {
                found.secrets.insert(*number);
                found.places.insert(name.to_owned());
            }
        }
    }
}

fn begin(piece: &[u8]) -> usize {
    usize::from(piece[0]) << 16 | usize::from(piece[1]) << 8 | usize::from(piece[2])
}

/// What a search found. It holds no secret.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) secrets: HashSet<usize>,
    /// The names of the mappings.
    pub(crate) places: HashSet<String>,
    /// How much was looked at.
    pub(crate) bytes: usize,
}
