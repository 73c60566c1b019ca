//! The counts.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};

use serde::Serialize;

use super::envelope::{self, Stored};
use super::resource;

/// How many objects need what, resource by resource, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Tally {
    /// etcd's revision that was counted: the moment.
    pub revision: i64,
    /// By the resource, such as `secrets` or `widgets.example.com`.
    pub resources: BTreeMap<String, Counts>,
    /// All of them together.
    pub total: Counts,
    /// The first keys in their order, below the prefix, of objects that are unreadable.
    pub unreadable_keys: BTreeSet<String>,
}

/// So many keys of unreadable objects are named, and no more kept.
const NAMED: usize = 10;

/// How many objects need what.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Counts {
    /// All objects.
    pub objects: u64,
    /// Under KMS v2: by the key_id, of all providers.
    pub key_ids: BTreeMap<String, u64>,
    /// The same: by the provider's name in the EncryptionConfiguration, then by key_id.
    pub kms_v2: BTreeMap<String, BTreeMap<String, u64>>,
    /// Under other providers: by the kind, such as `aescbc` or `kms v1`, then by the name
    /// of the key or plugin.
    pub other_providers: BTreeMap<&'static str, BTreeMap<String, u64>>,
    /// Not encrypted.
    pub unencrypted: u64,
    /// Encrypted, and nobody can tell under what: damaged, or of an unknown form.
    pub unreadable: u64,
}

impl Counts {
    fn add(&mut self, stored: &Stored<'_>) {
        self.objects += 1;
        match stored {
            Stored::Kms { provider, key_id } => {
                one_more(&mut self.key_ids, key_id);
                one_more(entry(&mut self.kms_v2, provider), key_id);
            }
            Stored::Other(kind, name) => {
                one_more(self.other_providers.entry(kind).or_default(), name);
            }
            Stored::Plain => self.unencrypted += 1,
            Stored::Unreadable => self.unreadable += 1,
        }
    }

    /// One line for each kind: the number, and what it is.
    fn lines(&self) -> Vec<(u64, String)> {
        let mut lines = Vec::new();
        for (provider, key_ids) in &self.kms_v2 {
            let line = |(key_id, count): (&String, &u64)| {
                let text = format!("need key_id {} (provider {})", plain(key_id), plain(provider));
                (*count, text)
            };
            lines.extend(key_ids.iter().map(line));
        }
        for (kind, names) in &self.other_providers {
            let line = |(name, count): (&String, &u64)| (*count, format!("under {kind} {name:?}"));
            lines.extend(names.iter().map(line));
        }
        lines.push((self.unreadable, "unreadable: damaged, or of an unknown form".to_owned()));
        lines.push((self.unencrypted, "not encrypted".to_owned()));
        lines.retain(|(count, _)| *count > 0);
        lines
    }
}

impl Tally {
    /// Counts one object: its key without the prefix, and its value.
    pub(super) fn add(&mut self, key: &[u8], value: &[u8]) {
        let stored = envelope::read(value);
        if matches!(stored, Stored::Unreadable) {
            self.unreadable_keys.insert(String::from_utf8_lossy(key).into_owned());
            if self.unreadable_keys.len() > NAMED {
                self.unreadable_keys.pop_last();
            }
        }
        entry(&mut self.resources, &resource::of(key)).add(&stored);
        self.total.add(&stored);
    }

    /// The resources with objects that need one of these KEKs, and how many.
    #[must_use]
    pub fn needing(&self, key_ids: &[&str]) -> Vec<(String, u64)> {
        self.where_some(|counts| {
            let wanted = |(key_id, _): &(&String, &u64)| key_ids.contains(&key_id.as_str());
            counts.key_ids.iter().filter(wanted).map(|(_, count)| count).sum()
        })
    }

    /// The resources with objects of which nobody can tell what they need, and how many.
    #[must_use]
    pub fn unreadable(&self) -> Vec<(String, u64)> {
        self.where_some(|counts| counts.unreadable)
    }

    fn where_some(&self, count: impl Fn(&Counts) -> u64) -> Vec<(String, u64)> {
        let counted = self.resources.iter().map(|(name, counts)| (name.clone(), count(counts)));
        counted.filter(|(_, count)| *count > 0).collect()
    }
}

/// For people: a block for each resource of which something is encrypted, one line for
/// all others, and the total.
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (open, encrypted): (Vec<_>, Vec<_>) =
            self.resources.iter().partition(|(_, counts)| counts.unencrypted == counts.objects);
        for (resource, counts) in &encrypted {
            block(f, &plain(resource), counts)?;
        }
        if !open.is_empty() {
            f.write_str("not encrypted at all: ")?;
            for (place, (resource, counts)) in open.iter().enumerate() {
                let comma = if place == 0 { "" } else { ", " };
                write!(f, "{comma}{} {}", plain(resource), counts.objects)?;
            }
            f.write_char('\n')?;
        }
        block(f, "total", &self.total)?;
        for key in &self.unreadable_keys {
            writeln!(f, "unreadable: {}", plain(key))?;
        }
        if self.total.unreadable > NAMED as u64 {
            writeln!(f, "and more that are unreadable")?;
        }
        write!(f, "counted at revision {} of etcd", self.revision)
    }
}

fn block(f: &mut fmt::Formatter<'_>, name: &str, counts: &Counts) -> fmt::Result {
    let s = if counts.objects == 1 { "" } else { "s" };
    writeln!(f, "{name}: {} object{s}", counts.objects)?;
    let lines = counts.lines();
    let width = lines.iter().map(|(count, _)| count.to_string().len()).max().unwrap_or(0);
    for (count, text) in lines {
        writeln!(f, "  {count:>width$} {text}")?;
    }
    Ok(())
}

/// What stands in etcd may hold anything: nothing of it commands the terminal.
fn plain(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { shown.extend(c.escape_debug()) } else { shown.push(c) }
    }
    shown
}

fn entry<'a, T: Default>(map: &'a mut BTreeMap<String, T>, name: &str) -> &'a mut T {
    map.entry(name.to_owned()).or_default()
}

fn one_more(map: &mut BTreeMap<String, u64>, name: &str) {
    *entry(map, name) += 1;
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: &[u8] = b"k8s:enc:kms:v2:p11-kms:\x12\x03new";
    const OLD: &[u8] = b"k8s:enc:kms:v2:p11-kms:\x12\x03old";
    const OLD_ELSEWHERE: &[u8] = b"k8s:enc:kms:v2:other:\x12\x03old";

    fn tally() -> Tally {
        let mut tally = Tally { revision: 7, ..Tally::default() };
        for _ in 0..10 {
            tally.add(b"secrets/a/b", NEW);
        }
        tally.add(b"secrets/a/c", OLD);
        tally.add(b"secrets/a/d", b"k8s:enc:aescbc:v1:key1:x");
        tally.add(b"secrets/a/e", b"k8s:enc:kms:v1:p11-kms:x");
        tally.add(b"secrets/a/f", b"k8s\0");
        tally.add(b"configmaps/a/b", OLD_ELSEWHERE);
        tally.add(b"configmaps/a/c", b"k8s:enc:kms:v2:p11-kms:");
        tally.add(b"pods/a/b", b"k8s\0");
        tally.add(b"pods/a/c", b"k8s\0");
        tally.add(b"x\x1b[2Jy/a", b"k8s\0");
        tally
    }

    #[test]
    fn who_needs_a_kek_is_told_by_resource() {
        let tally = tally();
        let pair = |resource: &str, count| (resource.to_owned(), count);
        assert_eq!(tally.needing(&["old"]), [pair("configmaps", 1), pair("secrets", 1)]);
        assert_eq!(tally.needing(&["new"]), [pair("secrets", 10)]);
        assert_eq!(tally.needing(&["new", "old"]), [pair("configmaps", 1), pair("secrets", 11)]);
        assert_eq!(tally.needing(&["else"]), []);
        assert_eq!(tally.unreadable(), [pair("configmaps", 1)]);
        let parts: u64 = tally.resources.values().map(|counts| counts.objects).sum();
        assert_eq!((tally.total.objects, parts), (19, 19));
    }

    #[test]
    fn the_text_is_aligned_and_harmless() {
        let expected = "\
configmaps: 2 objects
  1 need key_id old (provider other)
  1 unreadable: damaged, or of an unknown form
secrets: 14 objects
  10 need key_id new (provider p11-kms)
   1 need key_id old (provider p11-kms)
   1 under aescbc \"key1\"
   1 under kms v1 \"p11-kms\"
   1 not encrypted
not encrypted at all: pods 2, x\\u{1b}[2Jy 1
total: 19 objects
   1 need key_id old (provider other)
  10 need key_id new (provider p11-kms)
   1 need key_id old (provider p11-kms)
   1 under aescbc \"key1\"
   1 under kms v1 \"p11-kms\"
   1 unreadable: damaged, or of an unknown form
   4 not encrypted
unreadable: configmaps/a/c
counted at revision 7 of etcd";
        assert_eq!(tally().to_string(), expected);
        let nothing = Tally::default().to_string();
        assert_eq!(nothing, "total: 0 objects\ncounted at revision 0 of etcd");
    }

    /// The names are an interface.
    #[test]
    fn the_json_keeps_its_names() {
        let json = serde_json::to_value(tally()).unwrap();
        assert_eq!(json["revision"], 7);
        let expected = serde_json::json!({
            "objects": 14,
            "key-ids": {"new": 10, "old": 1},
            "kms-v2": {"p11-kms": {"new": 10, "old": 1}},
            "other-providers": {"aescbc": {"key1": 1}, "kms v1": {"p11-kms": 1}},
            "unencrypted": 1,
            "unreadable": 0,
        });
        assert_eq!(json["resources"]["secrets"], expected);
        assert_eq!(json["total"]["objects"], 19);
        assert_eq!(json["unreadable-keys"], serde_json::json!(["configmaps/a/c"]));
        assert_eq!(json.as_object().unwrap().len(), 4);
    }
}
