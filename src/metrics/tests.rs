#![forbid(unsafe_code)]
//! Off, nothing is counted; on, each number is where it belongs.

use super::*;

/// The value of the line that begins so.
fn value(text: &str, line: &str) -> f64 {
    let found = text.lines().find_map(|it| it.strip_prefix(line)?.strip_prefix(' '));
    found.unwrap_or_else(|| panic!("{line} is not in\n{text}")).parse().unwrap()
}

/// One test for all: what is counted is the process's.
#[test]
fn what_is_counted_is_shown() {
    // Nothing happens, and nothing is remembered for later.
    request_begun(Method::Encrypt);
    request(Method::Encrypt, Code::Ok, Duration::from_millis(1));
    audit_failing(true);

    let exporter = start().unwrap();
    let shown = || exporter.render(&Scrape::default());
    let encrypts = "p11_kms_requests_total{method=\"Encrypt\",code=\"Ok\"}";
    assert_eq!(value(&shown(), encrypts), 0.0);
    assert_eq!(value(&shown(), "p11_kms_audit_failing"), 0.0);

    request_begun(Method::Encrypt);
    assert_eq!(value(&shown(), "p11_kms_requests_in_flight{method=\"Encrypt\"}"), 1.0);
    request(Method::Encrypt, Code::Ok, Duration::from_millis(3));
    audit_line(AuditEvent::RefusedPeer);
    audit_failed(7);
    audit_refused();
    audit_failing(true);
    token_operation_duration(Operation::Wrap, Duration::from_millis(3), 4);
    // No time is kept of these.
    token_operation_duration(Operation::Find, Duration::from_millis(3), 4);
    exporter.upkeep();
    let text = shown();
    for (line, wanted) in [
        (encrypts, 1.0),
        ("p11_kms_requests_in_flight{method=\"Encrypt\"}", 0.0),
        ("p11_kms_request_duration_seconds_bucket{method=\"Encrypt\",le=\"0.0025\"}", 0.0),
        ("p11_kms_request_duration_seconds_bucket{method=\"Encrypt\",le=\"0.005\"}", 1.0),
        ("p11_kms_token_operation_duration_seconds_count{operation=\"wrap\"}", 4.0),
        ("p11_kms_token_operation_duration_seconds_sum{operation=\"wrap\"}", 0.012),
        ("p11_kms_audit_lines_total{event=\"refused-peer\"}", 1.0),
        ("p11_kms_audit_lines_total{event=\"gap\"}", 0.0),
        ("p11_kms_audit_failures_total", 7.0),
        ("p11_kms_audit_refused_total", 1.0),
        ("p11_kms_audit_failing", 1.0),
        ("p11_kms_token_up_since_timestamp_seconds", 0.0),
    ] {
        assert!((value(&text, line) - wanted).abs() < 1e-9, "{line}\n{text}");
    }
    assert!(!text.contains("duration_seconds_count{operation=\"find\""), "{text}");
    a_kek_that_has_gone_leaves_no_line(&exporter);
}

fn a_kek_that_has_gone_leaves_no_line(exporter: &Exporter) {
    let kek = Kek { generation: 7, key_id_hash: "sha256:1".into(), ..Kek::default() };
    let scrape = Scrape { active_generation: Some(7), keks: vec![kek], ..Scrape::default() };
    let text = exporter.render(&scrape);
    assert_eq!(value(&text, "p11_kms_active_generation"), 7.0);
    assert!(text.contains("{generation=\"7\",key_id_hash=\"sha256:1\""), "{text}");
    let text = exporter.render(&Scrape::default());
    assert!(!text.contains("{generation="), "{text}");
}

#[test]
fn names_are_those_that_prometheus_wants() {
    let mut names: Vec<_> = FAMILIES.iter().map(|family| family.name).collect();
    for Family { name, kind, help, .. } in FAMILIES {
        assert!(name.starts_with("p11_kms_"), "{name}");
        assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
        assert!(help.ends_with('.'), "{name}: {help}");
    }
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), FAMILIES.len());
}
