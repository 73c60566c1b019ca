//! `keyring.reinstate`: which older KEK is to be active again.

#![forbid(unsafe_code)]

use super::value::{Value, number};

/// The last epoch that may be asked for.
const LAST_EPOCH: u64 = 63;

const FORM: &str = "write it as { generation = 1, epoch = 1 }: the generation that is to be active \
    again, and an epoch that is higher than any before";

/// An older KEK that the operator puts back on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reinstate {
    /// Its generation.
    pub generation: u32,
    /// Counts the reinstatements of this keyring: 1 to 63. It makes the key_id a new one.
    pub epoch: u32,
}

/// `{ generation = 1, epoch = 1 }`; in the environment `generation=1,epoch=1` will do.
pub(super) fn reinstate(value: &Value) -> Result<Reinstate, String> {
    let pairs: Vec<(String, Value)> = match value {
        Value::Table(pairs) => pairs.clone(),
        Value::Words(words) => pairs(words).ok_or(FORM)?,
        _ => return Err(FORM.into()),
    };
    let (mut generation, mut epoch) = (None, None);
    for (name, value) in &pairs {
        let (place, range) = match name.as_str() {
            "generation" => (&mut generation, 0..=u64::from(u32::MAX)),
            "epoch" => (&mut epoch, 1..=LAST_EPOCH),
            _ => return Err(FORM.into()),
        };
        let number = number(range)(value).map_err(|what| format!("{name} {what}"))?;
        if place.replace(u32::try_from(number).map_err(|_| FORM)?).is_some() {
            return Err(FORM.into());
        }
    }
    match (generation, epoch) {
        (Some(generation), Some(epoch)) => Ok(Reinstate { generation, epoch }),
        _ => Err(FORM.into()),
    }
}

fn pairs(words: &str) -> Option<Vec<(String, Value)>> {
    let words = words.trim();
    let inner = match words.strip_prefix('{') {
        Some(rest) => rest.strip_suffix('}')?,
        None => words,
    };
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        Some((name.trim().to_owned(), Value::Words(value.trim().to_owned())))
    };
    inner.split(',').map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Result<Reinstate, String> {
        reinstate(&Value::Words(text.to_owned()))
    }

    #[test]
    fn both_forms_are_read() {
        let expected = Reinstate { generation: 1, epoch: 2 };
        let table = |name: &str, number| (name.to_owned(), Value::Integer(number));
        let value = Value::Table(vec![table("epoch", 2), table("generation", 1)]);
        assert_eq!(reinstate(&value), Ok(expected));
        assert_eq!(words("{ generation = 1, epoch = 2 }"), Ok(expected));
        assert_eq!(words("generation=1,epoch=2"), Ok(expected));
    }

    #[test]
    fn anything_else_is_told_the_form() {
        for text in ["", "1", "generation=1", "epoch=1", "generation=1,epoch=1,x=1", "{epoch=1"] {
            assert!(words(text).unwrap_err().contains("{ generation = 1, epoch = 1 }"), "{text}");
        }
        assert!(words("generation=1,generation=1").unwrap_err().contains("generation = 1"));
        let error = words("generation=1,epoch=0").unwrap_err();
        assert_eq!(error, "epoch must be from 1 to 63, not 0");
        assert!(words("generation=1,epoch=64").is_err());
    }
}
