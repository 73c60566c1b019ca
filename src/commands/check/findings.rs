#![forbid(unsafe_code)]
//! What was found, check by check.

use clap::ValueEnum;
use serde::Serialize;

use crate::cli::{CheckArgs, CheckId};

/// How one check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Grade {
    Pass,
    Warn,
    Fail,
}

/// One line.
#[derive(Serialize)]
pub(super) struct Finding {
    id: CheckId,
    result: Grade,
    message: String,
    remedy: String,
    /// Why it could not be tried.
    #[serde(skip)]
    untried: Option<CheckId>,
}

/// All lines, also of those checks that are not asked for: one of them may be the cause why
/// another could not be tried.
pub(super) struct Findings<'a> {
    args: &'a CheckArgs,
    lines: Vec<Finding>,
}

impl<'a> Findings<'a> {
    pub(super) const fn new(args: &'a CheckArgs) -> Self {
        Self { args, lines: Vec::new() }
    }

    pub(super) fn pass(&mut self, id: CheckId, message: impl Into<String>) {
        self.add(id, Grade::Pass, message.into(), String::new(), None);
    }

    pub(super) fn warn(
        &mut self,
        id: CheckId,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.add(id, Grade::Warn, message.into(), remedy.into(), None);
    }

    pub(super) fn fail(
        &mut self,
        id: CheckId,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.add(id, Grade::Fail, message.into(), remedy.into(), None);
    }

    /// It could not be tried, since that other one did not end well.
    pub(super) fn untried(&mut self, id: CheckId, cause: CheckId) {
        let message = format!("not tried: see {}", cause.name());
        let remedy = format!("put {} right first", cause.name());
        self.add(id, Grade::Warn, message, remedy, Some(cause));
    }

    /// The same for all of the token's that have not been told yet.
    pub(super) fn rest_untried(&mut self, cause: CheckId) {
        for id in CheckId::value_variants() {
            if id.needs_token() && !self.has(*id) {
                self.untried(*id, cause);
            }
        }
    }

    fn add(
        &mut self,
        id: CheckId,
        result: Grade,
        message: String,
        remedy: String,
        untried: Option<CheckId>,
    ) {
        self.lines.push(Finding { id, result, message, remedy, untried });
    }

    /// What was said of it holds no more.
    pub(super) fn take_back(&mut self, id: CheckId) {
        self.lines.retain(|finding| finding.id != id);
    }

    /// Is it asked for, or the failure that something asked for could not be tried for?
    fn counts(&self, finding: &Finding) -> bool {
        let is_cause =
            |other: &Finding| other.untried == Some(finding.id) && self.args.wants(other.id);
        self.args.wants(finding.id)
            || (finding.result == Grade::Fail && self.lines.iter().any(is_cause))
    }

    fn has(&self, id: CheckId) -> bool {
        self.lines.iter().any(|finding| finding.id == id)
    }

    /// Has that check failed?
    pub(super) fn has_failed(&self, id: CheckId) -> bool {
        self.lines.iter().any(|finding| finding.id == id && finding.result == Grade::Fail)
    }

    /// Is any check of the token asked for?
    pub(super) fn want_token(&self) -> bool {
        CheckId::value_variants().iter().any(|id| id.needs_token() && self.args.wants(*id))
    }

    pub(super) fn worst(&self) -> Grade {
        let count = self.lines.iter().filter(|finding| self.counts(finding));
        count.map(|finding| finding.result).max().unwrap_or(Grade::Pass)
    }

    /// What is to be shown, in the order of the checks.
    pub(super) fn shown(mut self) -> Vec<Finding> {
        let is_shown = |finding: &Finding| {
            self.counts(finding) && (!self.args.quiet || finding.result > Grade::Pass)
        };
        let shown: Vec<bool> = self.lines.iter().map(is_shown).collect();
        let mut shown = shown.into_iter();
        self.lines.retain(|_| shown.next() == Some(true));
        self.lines.sort_by_key(|finding| finding.id);
        self.lines
    }
}

/// The lines for people. What could not be tried stands together at the end.
pub(super) fn text(shown: &[Finding]) -> String {
    let mut lines = Vec::new();
    for Finding { id, result, message, remedy, untried } in shown {
        if untried.is_some() {
            continue;
        }
        let result = match result {
            Grade::Pass => "pass",
            Grade::Warn => "WARN",
            Grade::Fail => "FAIL",
        };
        lines.push(format!("{result}  {:<18} {message}", id.name()));
        if !remedy.is_empty() {
            lines.push(format!("      {:<18} -> {remedy}", ""));
        }
    }
    let mut causes: Vec<CheckId> = shown.iter().filter_map(|finding| finding.untried).collect();
    causes.sort_unstable();
    causes.dedup();
    for cause in causes {
        let of_cause = shown.iter().filter(|finding| finding.untried == Some(cause));
        let names: Vec<String> = of_cause.map(|finding| finding.id.name()).collect();
        lines.push(format!(
            "WARN  {:<18} put {} right first: {}",
            "not tried",
            cause.name(),
            names.join(", ")
        ));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::all_checks;

    #[test]
    fn what_could_not_be_tried_is_told_once_for_people_and_each_for_programs() {
        let args = all_checks();
        let mut findings = Findings::new(&args);
        findings.fail(CheckId::Login, "no", "do");
        findings.rest_untried(CheckId::Login);
        assert_eq!(findings.worst(), Grade::Fail);
        let shown = findings.shown();
        assert!(shown.iter().all(|it| it.result == Grade::Pass || !it.remedy.is_empty()));
        let text = text(&shown);
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.contains("put login right first: module, token"), "{text}");
    }

    #[test]
    fn a_cause_is_told_and_counts_although_it_is_not_asked_for() {
        for args in [
            CheckArgs { only: vec![CheckId::Login, CheckId::RoundTrip], ..all_checks() },
            CheckArgs { skip: vec![CheckId::Token], ..all_checks() },
        ] {
            let mut findings = Findings::new(&args);
            findings.fail(CheckId::Token, "no", "do");
            findings.fail(CheckId::Swap, "no", "do");
            findings.rest_untried(CheckId::Token);
            assert_eq!(findings.worst(), Grade::Fail);
            let shown = findings.shown();
            let of = |id| shown.iter().filter(|finding| finding.id == id).count();
            assert_eq!((of(CheckId::Token), of(CheckId::RoundTrip)), (1, 1));
            assert_eq!(of(CheckId::Swap), usize::from(args.wants(CheckId::Swap)));
        }
        // What ends nothing that is asked for is left out.
        let args = CheckArgs { only: vec![CheckId::Swap], ..all_checks() };
        let mut findings = Findings::new(&args);
        findings.fail(CheckId::Token, "no", "do");
        findings.rest_untried(CheckId::Token);
        assert_eq!(findings.worst(), Grade::Pass);
        assert!(findings.shown().is_empty());
    }

    #[test]
    fn quiet_shows_what_is_not_in_order() {
        let args = CheckArgs { quiet: true, ..all_checks() };
        let mut findings = Findings::new(&args);
        findings.warn(CheckId::Swap, "on", "off");
        findings.pass(CheckId::Config, "good");
        assert_eq!(findings.shown().len(), 1);
    }
}
