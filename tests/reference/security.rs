//! `docs/security.md` names the test that tries a defence: it must be there.

use crate::document;

const DOCUMENT: &str = "docs/security.md";

/// Every test that is named, with the file that was named last before it.
fn named(text: &str) -> Vec<(&str, &str)> {
    let (mut file, mut found) = ("", Vec::new());
    // Every second part is what stands between backticks.
    for span in text.split('`').skip(1).step_by(2) {
        if span.starts_with("tests/") {
            file = span;
        } else if span.matches('_').count() > 2 && !span.contains(['.', ' ', '-']) {
            found.push((file, span));
        }
    }
    found
}

#[test]
fn every_test_that_is_named_is_there() {
    let text = document::read(DOCUMENT);
    let tests = named(&text);
    assert!(tests.len() > 30, "only {} were found", tests.len());
    for (file, name) in tests {
        let source = document::read(file);
        assert!(source.contains(&format!("fn {name}(")), "{DOCUMENT}: {file} has no {name}");
    }
}

#[test]
fn every_row_of_chaos_that_is_named_is_there() {
    let text = document::read(DOCUMENT);
    let rows: String = ["calls", "files", "front", "token", "workers"]
        .map(|name| document::read(&format!("tests/chaos/table/{name}.rs")))
        .concat();
    let (_, after) = text.split_once("chaos `").unwrap();
    let list = after.split(';').next().unwrap();
    for name in list.split('`').step_by(2) {
        assert!(rows.contains(&format!("name: \"{name}\"")), "{DOCUMENT}: chaos has no {name}");
    }
}
