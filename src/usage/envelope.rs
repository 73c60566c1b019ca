//! A stored value: what is needed to read it.

#![forbid(unsafe_code)]

use prost::Message;

use crate::proto::envelope::EncryptedObject;

/// What begins every value that kube-apiserver encrypts.
const PREFIX: &[u8] = b"k8s:enc:";

/// What a stored object needs before it can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored<'a> {
    /// A KEK of a KMS v2 plugin.
    Kms {
        /// The provider's name in the EncryptionConfiguration.
        provider: &'a str,
        /// The KEK, by the plugin's own name for it. Never empty.
        key_id: String,
    },
    /// Another provider: its kind, such as `aescbc` or `kms v1`, and the name of its
    /// key or plugin.
    Other(&'static str, &'a str),
    /// Nothing.
    Plain,
    /// Nobody can tell: it says that it is encrypted, and the rest makes no sense.
    Unreadable,
}

/// The providers by what stands after `k8s:enc:` (k8s.io/apiserver, the transformer
/// prefixes). Not one of these: a form from the future, perhaps with a KEK of ours.
const KINDS: &[(&[u8], Option<&str>)] = &[
    (b"kms:v2:", None),
    (b"kms:v1:", Some("kms v1")),
    (b"aescbc:v1:", Some("aescbc")),
    (b"aesgcm:v1:", Some("aesgcm")),
    (b"secretbox:v1:", Some("secretbox")),
];

/// Reads as much of a value as tells what it needs. The ciphertext is passed over.
#[must_use]
pub fn read(value: &[u8]) -> Stored<'_> {
    match value.strip_prefix(PREFIX) {
        None => Stored::Plain,
        Some(rest) => encrypted(rest).unwrap_or(Stored::Unreadable),
    }
}

fn encrypted(rest: &[u8]) -> Option<Stored<'_>> {
    let (kind, rest) =
        KINDS.iter().find_map(|(text, kind)| Some((kind, rest.strip_prefix(*text)?)))?;
    let end = rest.iter().position(|byte| *byte == b':')?;
    let (name, body) = rest.split_at_checked(end)?;
    let name = std::str::from_utf8(name).ok().filter(|name| !name.is_empty())?;
    if let Some(kind) = kind {
        return Some(Stored::Other(kind, name));
    }
    let EncryptedObject { key_id } = EncryptedObject::decode(body.get(1..)?).ok()?;
    (!key_id.is_empty()).then_some(Stored::Kms { provider: name, key_id })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As kube-apiserver writes it, with all of its fields.
    #[derive(Clone, PartialEq, Message)]
    struct Whole {
        #[prost(bytes = "vec", tag = "1")]
        encrypted_data: Vec<u8>,
        #[prost(string, tag = "2")]
        key_id: String,
        #[prost(bytes = "vec", tag = "3")]
        encrypted_dek_source: Vec<u8>,
        #[prost(btree_map = "string, bytes", tag = "4")]
        annotations: std::collections::BTreeMap<String, Vec<u8>>,
        #[prost(int32, tag = "5")]
        encrypted_dek_source_type: i32,
    }

    fn stored(provider: &str, key_id: &str, data: &[u8]) -> Vec<u8> {
        let whole = Whole {
            encrypted_data: data.to_vec(),
            key_id: key_id.to_owned(),
            encrypted_dek_source: vec![7; 40],
            annotations: [("wrap.example.com".to_owned(), b"kw".to_vec())].into(),
            encrypted_dek_source_type: 1,
        };
        let prefix = format!("k8s:enc:kms:v2:{provider}:");
        [prefix.into_bytes(), whole.encode_to_vec()].concat()
    }

    #[test]
    fn every_provider_is_known() {
        let kms = Stored::Kms { provider: "p11-kms", key_id: "3d51".to_owned() };
        assert_eq!(read(&stored("p11-kms", "3d51", &[1; 500])), kms);
        for (value, kind) in [
            ("k8s:enc:kms:v1:old:\0\u{1}", "kms v1"),
            ("k8s:enc:aescbc:v1:old:xyz", "aescbc"),
            ("k8s:enc:aesgcm:v1:old:xyz", "aesgcm"),
            ("k8s:enc:secretbox:v1:old:", "secretbox"),
        ] {
            assert_eq!(read(value.as_bytes()), Stored::Other(kind, "old"));
        }
        for value in ["", "k8s\0\n\u{c}\n\u{2}v1", "{\"kind\":\"Secret\"}", "k8s:en", "k8s:ENC:x"] {
            assert_eq!(read(value.as_bytes()), Stored::Plain);
        }
    }

    #[test]
    fn what_makes_no_sense_is_never_taken_for_another_providers() {
        for value in [
            "k8s:enc:",
            "k8s:enc:kms:v3:p11-kms:x",
            "k8s:enc:kms:v2:",
            "k8s:enc:kms:v2:p11-kms",
            "k8s:enc:kms:v2:p11-kms:",
            "k8s:enc:kms:v2::\u{12}\u{1}a",
            "k8s:enc:kms:v2:p11-kms:\u{12}\u{9}a",
            "k8s:enc:kms:v2:p11-kms:no protobuf",
            "k8s:enc:aescbc:v1:",
            "k8s:enc:aescbc:v1::",
            "k8s:enc:aescbc:v2:key1:",
        ] {
            assert_eq!(read(value.as_bytes()), Stored::Unreadable, "{value:?}");
        }
        assert_eq!(read(&stored("p11-kms", "", b"x")), Stored::Unreadable);
        assert_eq!(read(b"k8s:enc:kms:v2:p11-kms:\x12\x01\xff"), Stored::Unreadable);
        assert_eq!(read(b"k8s:enc:aescbc:v1:\xff:"), Stored::Unreadable);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(head in 0..=KINDS.len(), bytes: Vec<u8>) {
            let kind = KINDS.get(head).map_or(&b""[..], |(kind, _)| kind);
            let value = [PREFIX, kind, b"name:", &bytes].concat();
            prop_assert_ne!(read(&value), Stored::Plain);
            let _ = read(&bytes);
        }

        #[test]
        fn what_was_stored_is_found_and_a_part_of_it_is_not(
            provider in "[a-z0-9.-]{1,20}", key_id in "\\PC{1,64}", data: Vec<u8>,
        ) {
            let value = stored(&provider, &key_id, &data);
            let kms = Stored::Kms { provider: &provider, key_id };
            prop_assert_eq!(read(&value), kms);
            for end in PREFIX.len()..value.len() {
                // A cut one may still have its key_id; it never has another one.
                match read(&value[..end]) {
                    Stored::Unreadable => {}
                    part => prop_assert_eq!(part, read(&value)),
                }
            }
        }
    }
}
