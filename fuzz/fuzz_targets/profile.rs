//! Profiles: read or refused, and a good one gets to the worker unchanged.

#![no_main]

use libfuzzer_sys::fuzz_target;
use p11_kms::config::Profile;
use p11_kms_fuzz::{SECRET, check_refusal, with_pin};

fuzz_target!(|text: &str| {
    match Profile::parse("p.toml", text) {
        Ok(profile) => {
            let json = serde_json::to_string(&profile).unwrap();
            assert_eq!(serde_json::from_str::<Profile>(&json).unwrap(), profile);
        }
        Err(error) => check_refusal(&error, &["p.toml"]),
    }
    if let Some(text) = with_pin(text) {
        let error = Profile::parse("p.toml", &text).unwrap_err().to_string();
        assert!(!error.contains(SECRET), "{error}");
    }
});
