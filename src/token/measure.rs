#![forbid(unsafe_code)]
//! What the metrics are told of the token: our words turned into theirs.

use std::time::Duration;

use super::frame::Operation;
use super::protocol::{Class, Failure};
use crate::metrics::{self, Outcome, StartReason};

/// Answers that were read together.
#[derive(Default)]
pub(super) struct Batch {
    wraps: u32,
    unwraps: u32,
    /// Something else was among them.
    mixed: bool,
}

impl Batch {
    /// The token answered an operation, well or not.
    pub(super) fn saw(&mut self, operation: Operation, failure: Option<&Failure>) {
        match operation {
            Operation::Wrap(_) => self.wraps += 1,
            Operation::Unwrap(_) => self.unwraps += 1,
            _ => self.mixed = true,
        }
        let outcome = failure.map_or(Outcome::Ok, |failure| outcome(failure.class));
        metrics::token_operation(kind(operation), outcome);
    }

    /// They took the token so long together. A session does one thing at a time, but which of them
    /// took how long nobody saw: each is given its share. A search may take as long as a hundred
    /// wraps, so with anything else among them nothing is kept.
    pub(super) fn took(&self, time: Duration) {
        let Self { wraps, unwraps, .. } = *self;
        let Some(each) = self.share(time) else { return };
        for (operation, count) in
            [(metrics::Operation::Wrap, wraps), (metrics::Operation::Unwrap, unwraps)]
        {
            metrics::token_operation_duration(operation, each, count as usize);
        }
    }

    /// How long each wrap and unwrap took, if that can be told.
    fn share(&self, time: Duration) -> Option<Duration> {
        if self.mixed { None } else { time.checked_div(self.wraps + self.unwraps) }
    }
}

const fn kind(operation: Operation) -> metrics::Operation {
    match operation {
        Operation::Wrap(_) => metrics::Operation::Wrap,
        Operation::Unwrap(_) => metrics::Operation::Unwrap,
        Operation::Find => metrics::Operation::Find,
        Operation::Generate => metrics::Operation::Generate,
        Operation::Import => metrics::Operation::Import,
        Operation::Destroy => metrics::Operation::Destroy,
        Operation::Inspect => metrics::Operation::Inspect,
        Operation::WriteNote => metrics::Operation::WriteNote,
    }
}

/// The failure's class as the metrics have it.
pub(super) const fn outcome(class: Class) -> Outcome {
    match class {
        Class::BadBlob => Outcome::BadBlob,
        Class::UnknownKek => Outcome::UnknownKek,
        Class::Expired => Outcome::Expired,
        Class::Refused => Outcome::Refused,
        Class::SessionLost => Outcome::SessionLost,
        Class::TokenLost => Outcome::TokenLost,
        Class::Hung => Outcome::Hung,
        Class::Module => Outcome::Module,
        Class::NoToken => Outcome::NoToken,
        Class::PinSource => Outcome::PinSource,
        Class::PinWrong => Outcome::PinWrong,
        Class::PinAtRisk => Outcome::PinAtRisk,
    }
}

/// Why the worker is started that replaces one that broke so.
pub(super) const fn after(class: Class) -> StartReason {
    match class {
        Class::SessionLost => StartReason::SessionLost,
        Class::Hung => StartReason::Hung,
        Class::PinSource | Class::PinWrong | Class::PinAtRisk => StartReason::Pin,
        // No other class ends a worker that was at work.
        Class::TokenLost
        | Class::Module
        | Class::NoToken
        | Class::BadBlob
        | Class::UnknownKek
        | Class::Expired
        | Class::Refused => StartReason::TokenLost,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::algorithm::Algorithm;

    #[test]
    fn a_search_is_not_charged_to_a_wrap() {
        let time = Duration::from_millis(30);
        let batch = |operations: &[Operation]| {
            let mut batch = Batch::default();
            operations.iter().for_each(|operation| batch.saw(*operation, None));
            batch.share(time)
        };
        let (wrap, unwrap) = (Operation::Wrap(Algorithm::Kw), Operation::Unwrap(Algorithm::Kw));
        assert_eq!(batch(&[]), None);
        assert_eq!(batch(&[wrap]), Some(time));
        assert_eq!(batch(&[wrap, unwrap, wrap]), Some(time / 3));
        assert_eq!(batch(&[Operation::Find]), None);
        assert_eq!(batch(&[wrap, Operation::Find]), None);
        assert_eq!(batch(&[Operation::Generate, unwrap, unwrap]), None);
    }

    /// The classes go over the wire between the processes by the same names.
    #[test]
    fn the_metrics_name_a_class_as_the_protocol_does() {
        for class in [
            Class::BadBlob,
            Class::UnknownKek,
            Class::Expired,
            Class::Refused,
            Class::SessionLost,
            Class::TokenLost,
            Class::Hung,
            Class::Module,
            Class::NoToken,
            Class::PinSource,
            Class::PinWrong,
            Class::PinAtRisk,
        ] {
            let name = serde_json::to_value(class).unwrap();
            assert_eq!(name, outcome(class).name());
        }
    }
}
