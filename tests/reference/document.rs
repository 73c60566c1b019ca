//! A document with generated parts.

use std::path::{Path, PathBuf};
use std::{env, fs};

/// Set to `1` it lets the tests write.
const UPDATE: &str = "P11_KMS_TEST_UPDATE";

/// A path of the repository.
pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// The text of a file of the repository.
pub(crate) fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Holds the generated parts of a document against what they should be: name and text. Each
/// must be there once, and no other.
pub(crate) fn check(name: &str, parts: &[(&str, String)]) {
    let old = read(name);
    let new = renewed(name, &old, parts);
    if env::var(UPDATE).is_ok_and(|value| value == "1") {
        if new != old {
            fs::write(path(name), new).unwrap();
        }
        return;
    }
    let differs = old.lines().zip(new.lines()).position(|(old, new)| old != new);
    assert!(
        old == new,
        "{name}, line {}: not what the code says. Run: {UPDATE}=1 cargo test --test reference",
        1 + differs.unwrap_or_else(|| old.lines().count().min(new.lines().count()))
    );
}

fn renewed(name: &str, old: &str, parts: &[(&str, String)]) -> String {
    let mut new = old.to_owned();
    for (part, text) in parts {
        let (begin, end) =
            (format!("<!-- generated: {part} -->\n"), format!("<!-- end: {part} -->"));
        let pieces: Vec<&str> = new.split(&begin).collect();
        let [before, rest] = pieces[..] else {
            panic!("{name} needs {begin:?} once, and has it {} times", pieces.len() - 1);
        };
        let (_, after) = rest.split_once(&end).unwrap_or_else(|| panic!("{name} lacks {end:?}"));
        new = format!("{before}{begin}\n{}\n\n{end}{after}", text.trim_end());
    }
    assert_eq!(new.matches("<!-- generated: ").count(), parts.len(), "{name} has other parts too");
    new
}

#[test]
fn a_generated_part_is_replaced_and_the_rest_is_kept() {
    let old = "a\n<!-- generated: x -->\nold\n<!-- end: x -->\nb\n";
    let new = renewed("d", old, &[("x", "new\n".to_owned())]);
    assert_eq!(new, "a\n<!-- generated: x -->\n\nnew\n\n<!-- end: x -->\nb\n");
    assert_eq!(renewed("d", &new, &[("x", "new".to_owned())]), new);
}
