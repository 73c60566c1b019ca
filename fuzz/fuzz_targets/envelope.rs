//! A stored value. What it is said to need must stand in it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use p11_kms::usage::envelope::{Stored, read};

fuzz_target!(|value: &[u8]| {
    let stands = |text: &str| {
        !text.is_empty() && value.windows(text.len()).any(|window| window == text.as_bytes())
    };
    match read(value) {
        Stored::Kms { provider, key_id } => {
            assert!(value.starts_with(format!("k8s:enc:kms:v2:{provider}:").as_bytes()));
            assert!(!provider.contains(':') && stands(provider) && stands(&key_id));
        }
        Stored::Other(kind, name) => {
            let kind = kind.strip_suffix(" v1").unwrap_or(kind);
            assert!(value.starts_with(format!("k8s:enc:{kind}:v1:{name}:").as_bytes()));
            assert!(!name.contains(':') && stands(name));
        }
        Stored::Plain => assert!(!value.starts_with(b"k8s:enc:")),
        Stored::Unreadable => assert!(value.starts_with(b"k8s:enc:")),
    }
});
