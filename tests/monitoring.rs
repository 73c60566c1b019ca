//! The files in `docs/monitoring/`, held against Prometheus' own promtool.

#![forbid(unsafe_code)]

use std::process::Command;

/// The script's own lines say which check failed.
#[test]
#[ignore = "needs promtool and jq: softhsm-test/run runs it where they are to be had"]
fn alerts_dashboard_and_runbooks_are_valid_and_fit_the_metrics() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/softhsm-test/monitoring-check");
    let output = Command::new(script).output().expect("the script starts");
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}{}", String::from_utf8_lossy(&output.stderr));
    // Exit code 3 too: what was not tried is not known to be good.
    assert!(output.status.success(), "{}", output.status);
    assert!(said.lines().count() > 10, "too few checks");
}
