//! The command that the README tells a newcomer to type first.

#![forbid(unsafe_code)]

use std::process::Command;

/// The program under test is the one that these tests were built with.
#[test]
#[ignore = "needs SoftHSM and pkcs11-tool: softhsm-test/run installs them and runs it"]
fn the_demo_goes_as_it_should() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/softhsm-test/demo");
    let output = Command::new(script)
        .arg("--debug")
        .env("P11_KMS_BIN", env!("CARGO_BIN_EXE_p11-kms"))
        .output()
        .expect("the script starts");
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}", output.status);
    assert!(said.contains("It is the seed."), "no proof was printed");
    assert!(said.contains("All of it went as it should"), "it stopped early");
}
