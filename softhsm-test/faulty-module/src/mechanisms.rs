#![forbid(unsafe_code)]
//! Mechanism numbers that stand for others: `FAULTY_MECHANISMS=2109:1036,210a:1065`.

use std::str::FromStr;

use cryptoki_sys::CK_MECHANISM_TYPE;

/// Pairs of the caller's number and that of the real module.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Mechanisms(Vec<(CK_MECHANISM_TYPE, CK_MECHANISM_TYPE)>);

impl Mechanisms {
    /// What the real module is asked for.
    pub(crate) fn outward(&self, mechanism: CK_MECHANISM_TYPE) -> CK_MECHANISM_TYPE {
        self.0.iter().find(|pair| pair.0 == mechanism).map_or(mechanism, |pair| pair.1)
    }

    /// What the caller is told.
    pub(crate) fn inward(&self, mechanism: CK_MECHANISM_TYPE) -> CK_MECHANISM_TYPE {
        self.0.iter().find(|pair| pair.1 == mechanism).map_or(mechanism, |pair| pair.0)
    }
}

impl FromStr for Mechanisms {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |digits: &str| CK_MECHANISM_TYPE::from_str_radix(digits.trim(), 16).ok();
        let pair = |text: &str| {
            let (caller, real) = text.split_once(':')?;
            Some((number(caller)?, number(real)?))
        };
        let pairs = text.split(',').filter(|part| !part.trim().is_empty()).map(|part| {
            pair(part).ok_or_else(|| {
                format!("{part:?} is no pair of numbers: write them like 2109:1036, in hex")
            })
        });
        pairs.collect::<Result<_, _>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_side_hears_its_own_number() {
        let map: Mechanisms = "2109:1036, 210a:1065".parse().unwrap();
        assert_eq!((map.outward(0x2109), map.outward(0x210a)), (0x1036, 0x1065));
        assert_eq!((map.inward(0x1036), map.inward(0x1065)), (0x2109, 0x210a));
        assert_eq!((map.outward(0x1081), map.inward(0x1081)), (0x1081, 0x1081));
        assert_eq!("".parse::<Mechanisms>().unwrap(), Mechanisms::default());
        for text in ["2109", "2109:", "x:1", "1:2:3"] {
            assert!(text.parse::<Mechanisms>().unwrap_err().contains("2109:1036"), "{text}");
        }
    }
}
