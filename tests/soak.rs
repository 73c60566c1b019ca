//! The short form of `softhsm-test/soak`.
//!
//! Ignored without the Kubernetes client, which `softhsm-test/run` builds: `KMS_CLIENT`.

mod common;

use std::path::Path;
use std::process::Command;

use common::process::run;

#[test]
#[ignore = "needs the Kubernetes client: see softhsm-test/run"]
fn forty_thousand_calls_leave_nothing_behind() {
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("softhsm-test/soak"));
    command.args(["--ops", "40000"]).env("P11_KMS_BIN", env!("CARGO_BIN_EXE_p11-kms"));
    command.env("SOFTHSM2_MODULE", common::token::module());
    let ended = run(command);
    assert!(ended.stdout.ends_with("soak: passed\n"), "{ended:?}");
    ended.expect(0, &[]);
}
