#![forbid(unsafe_code)]
//! Notes: small texts that a keyring keeps on the token, as data objects (PKCS#11 3.1
//! section 4.5).
//!
//! A new one is made before the old ones go. Whoever dies in between, or writes at the same
//! time as others, leaves several, and no text is lost.

use cryptoki::error::Error as CryptokiError;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

use super::errors;
use super::writer::Writer;
use crate::config::Profile;
use crate::token::protocol::{Class, Failure, NewNote, Note};

/// `CKA_APPLICATION` of all our notes.
const APPLICATION: &str = "p11-kms";

/// Longest text, in bytes. A longer one is not ours.
const LONGEST: usize = 64 * 1024;

/// Most bytes of all texts together: as JSON they still fit into an answer.
const MOST: usize = 512 * 1024;

/// How often the token is searched while notes go away as they are read.
const LOOKS: u32 = 4;

/// All notes of the keyring. `None`: the token would not be searched for them, so that nobody
/// knows whether there are any.
pub(super) fn find(
    session: &Session,
    profile: &Profile,
    base: &str,
) -> Result<Option<Vec<Note>>, Failure> {
    if !profile.data_objects {
        return Ok(Some(Vec::new()));
    }
    match search(session, profile, base) {
        Ok(found) => Ok(Some(found.into_iter().map(|(_, text)| Note(text)).collect())),
        Err(failure) if failure.class.ends_worker() => Err(failure),
        Err(_) => Ok(None),
    }
}

/// Writes a note, then destroys those that it replaces. The payload is a [`NewNote`].
pub(super) fn write(
    writer: &Writer<'_>,
    token_serial: &str,
    payload: &[u8],
) -> Result<(), Failure> {
    let Writer { session, tools, base, .. } = writer;
    let NewNote { token_serial: wanted, text, replaces } = serde_json::from_slice(payload)
        .map_err(|error| refused(format!("the note cannot be read: {error}")))?;
    if wanted != token_serial {
        return Err(refused("the note is for another token".to_owned()));
    }
    if !tools.profile.data_objects {
        return Err(refused("this token stores no data objects (token.data-objects)".to_owned()));
    }
    let before = search(session, tools.profile, base)?;
    if !before.iter().any(|(_, known)| *known == text) {
        make(writer, &text)?;
    }
    for (note, old) in before {
        if old == text || !replaces.contains(&sha256(&old)) {
            continue;
        }
        match session.destroy_object(note) {
            Ok(()) => {}
            // Another writer was faster.
            Err(error) if errors::is_gone(&error) => {}
            Err(error) => {
                let doing = "destroying a note that a new one replaces";
                return Err(writer.failure(&error, doing));
            }
        }
    }
    Ok(())
}

fn make(writer: &Writer<'_>, text: &str) -> Result<(), Failure> {
    let Writer { session, base, .. } = writer;
    let mut template = ours(base);
    template.push(Attribute::Private(true));
    template.push(Attribute::Value(text.as_bytes().to_vec()));
    let failed = |error| writer.failure(&error, "storing a data object");
    let note = session.create_object(&template).map_err(failed)?;
    // The old ones go because of this one, so it must be what was asked for.
    if read(session, note, base).map_err(failed)?.as_deref() == Some(text) {
        return Ok(());
    }
    session.destroy_object(note).map_err(failed)?;
    Err(refused(
        "this token does not keep data objects as they were given to it; set token.data-objects = \
         false"
            .to_owned(),
    ))
}

/// Every note with its place. A code that can mean a lost token counts as that only if the
/// search for keys fails too.
fn search(
    session: &Session,
    profile: &Profile,
    base: &str,
) -> Result<Vec<(ObjectHandle, String)>, Failure> {
    let failed =
        |error: &CryptokiError| errors::from_cryptoki(error, "searching for data objects", profile);
    let keys = [Attribute::Class(ObjectClass::SECRET_KEY), Attribute::KeyType(KeyType::AES)];
    let mut outcome = Ok(Vec::new());
    for _ in 0..LOOKS {
        outcome = match look(session, base) {
            Ok((found, true)) => return Ok(found),
            Ok((found, false)) => Ok(found),
            Err(error) => {
                let failure = failed(&error);
                if failure.class != Class::TokenLost {
                    return Err(failure);
                }
                session.find_objects(&keys).map_err(|_| failure.clone())?;
                Err(Failure::new(Class::Refused, failure.message))
            }
        };
    }
    outcome
}

/// One search. `false`: a note went away meanwhile. What was written in its place may have
/// come too late for this search.
fn look(
    session: &Session,
    base: &str,
) -> Result<(Vec<(ObjectHandle, String)>, bool), CryptokiError> {
    let mut found = Vec::new();
    let mut complete = true;
    let mut room = MOST;
    for note in session.find_objects(&ours(base))? {
        match read(session, note, base) {
            Ok(Some(text)) => {
                // What has no room is not to be taken for nothing.
                let text = if text.len() <= room { text } else { String::new() };
                room -= text.len();
                found.push((note, text));
            }
            Ok(None) => {}
            Err(error) if errors::is_gone(&error) => complete = false,
            Err(error) => return Err(error),
        }
    }
    Ok((found, complete))
}

/// The text of a data object. `None`: it is not one of ours. The template of a search cannot
/// be relied on for that: tokens ignore what they do not store.
fn read(
    session: &Session,
    note: ObjectHandle,
    base: &str,
) -> Result<Option<String>, CryptokiError> {
    let wanted = [
        AttributeType::Label,
        AttributeType::Application,
        AttributeType::Private,
        AttributeType::Value,
    ];
    Ok(text_of(session.get_attributes(note, &wanted)?, base))
}

fn text_of(attributes: Vec<Attribute>, base: &str) -> Option<String> {
    let (mut is_labelled, mut is_ours, mut text) = (false, false, None);
    for attribute in attributes {
        match attribute {
            Attribute::Label(it) => is_labelled = it == label(base).as_bytes(),
            Attribute::Application(it) => is_ours = it == APPLICATION.as_bytes(),
            // One that anybody could have written without the PIN says nothing.
            Attribute::Private(false) => return None,
            // What is damaged must be seen to be so.
            Attribute::Value(it) if it.len() <= LONGEST => {
                text = Some(String::from_utf8_lossy(&it).into_owned());
            }
            Attribute::Value(_) => text = Some(String::new()),
            _ => {}
        }
    }
    text.filter(|_| is_labelled && is_ours)
}

/// What all notes of the keyring have.
fn ours(base: &str) -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::DATA),
        Attribute::Token(true),
        Attribute::Application(APPLICATION.as_bytes().to_vec()),
        Attribute::Label(label(base).into_bytes()),
    ]
}

fn label(base: &str) -> String {
    format!("{base}.record")
}

fn sha256(text: &str) -> String {
    HEXLOWER.encode(&Sha256::digest(text))
}

fn refused(why: String) -> Failure {
    Failure::new(Class::Refused, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_text_of_ours_is_a_note() {
        let note = |label: &str, application: &str, value: Vec<u8>| {
            let attributes = vec![
                Attribute::Label(label.into()),
                Attribute::Application(application.into()),
                Attribute::Value(value),
            ];
            text_of(attributes, "k8s-kek")
        };
        let longest = vec![b'x'; LONGEST];
        assert_eq!(note("k8s-kek.record", APPLICATION, longest).unwrap().len(), LONGEST);
        // What is damaged is no note that is not there.
        let too_long = vec![b'x'; LONGEST + 1];
        assert_eq!(note("k8s-kek.record", APPLICATION, too_long).as_deref(), Some(""));
        assert_eq!(note("k8s-kek.record", APPLICATION, vec![0xff]).as_deref(), Some("\u{fffd}"));
        assert_eq!(note("k8s-kek.record", "", b"text".to_vec()), None);
        assert_eq!(note("k8s-kek-b.record", APPLICATION, b"text".to_vec()), None);
        assert_eq!(text_of(vec![Attribute::Value(b"text".to_vec())], "k8s-kek"), None);
        let public = vec![
            Attribute::Label(b"k8s-kek.record".to_vec()),
            Attribute::Application(APPLICATION.into()),
            Attribute::Private(false),
            Attribute::Value(b"text".to_vec()),
        ];
        assert_eq!(text_of(public, "k8s-kek"), None, "anybody may have written it");
    }
}
