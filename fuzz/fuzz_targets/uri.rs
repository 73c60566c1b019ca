//! PKCS#11 URIs: what is read comes back as it was, and no error shows a value.

#![no_main]

use libfuzzer_sys::fuzz_target;
use p11_kms::config::TokenUri;

/// Stands for a PIN. A value of any attribute may be one, put in the wrong place.
const SECRET: &str = "Zq7Zq7Zq7";

/// Longest text of an error, in bytes: it is shown in one line.
const LONGEST: usize = 500;

fuzz_target!(|text: &str| {
    match text.parse::<TokenUri>() {
        Ok(uri) => assert_eq!(uri.to_string().parse(), Ok(uri)),
        Err(error) => assert!(error.to_string().len() <= LONGEST, "{error}"),
    }
    if text.contains(SECRET) {
        return;
    }
    let with_pin = format!("{text}?pin-value={SECRET}");
    match with_pin.parse::<TokenUri>() {
        Ok(uri) => panic!("{with_pin} was read as {uri}"),
        Err(error) => assert!(!error.to_string().contains(SECRET), "{error}"),
    }
});
