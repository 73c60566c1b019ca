#![forbid(unsafe_code)]
//! What was measured, held against what kube-apiserver allows.

use std::time::Duration;

use serde::Serialize;

use super::sample::Measured;

/// What a Decrypt should take at most (Kubernetes, "Using a KMS provider": they come by the
/// thousand when kube-apiserver starts).
pub(super) const DECRYPT_AIM: Duration = Duration::from_millis(10);

/// What an Encrypt should take at most (the same).
pub(super) const ENCRYPT_AIM: Duration = Duration::from_millis(100);

/// When kube-apiserver gives a call up (`timeout` of its kms provider, as it is by default).
pub(super) const TIMEOUT: Duration = Duration::from_secs(3);

/// How good is it?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Grade {
    /// As Kubernetes wants it.
    Pass,
    /// It works, more slowly than it should.
    Warn,
    /// Calls fail, or come too late for kube-apiserver.
    Fail,
}

/// One of the things that were measured, judged.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Verdict {
    pub(super) id: &'static str,
    pub(super) result: Grade,
    pub(super) message: String,
}

impl Verdict {
    /// Judges by the aim, which p99 is to keep, and by the timeout. Under load there is no aim.
    pub(super) fn new(id: &'static str, measured: &Measured, aim: Option<Duration>) -> Self {
        let (result, message) = lost(measured)
            .map(|message| (Grade::Fail, message))
            .unwrap_or_else(|| against(measured.p99_micros, "p99", aim));
        Self { id, result, message }
    }

    /// Judges calls that came all at once: by the last, which must keep the timeout and
    /// should keep half of it.
    pub(super) fn of_storm(measured: &Measured) -> Self {
        let (result, message) = lost(measured)
            .map(|message| (Grade::Fail, message))
            .unwrap_or_else(|| against(measured.max_micros, "the last answer", Some(TIMEOUT / 2)));
        Self { id: "storm", result, message }
    }
}

/// Calls that kube-apiserver would have lost.
fn lost(measured: &Measured) -> Option<String> {
    let Measured { calls, failed, over_3s, .. } = measured;
    if *failed > 0 {
        let why = measured.first_failure.as_deref().unwrap_or_default();
        return Some(format!("{failed} of {calls} calls failed, the first: {why}"));
    }
    (*over_3s > 0)
        .then(|| format!("{over_3s} of {calls} calls over 3 s, where kube-apiserver gives up"))
}

fn against(micros: Option<u32>, name: &str, aim: Option<Duration>) -> (Grade, String) {
    let took = Duration::from_micros(micros.unwrap_or_default().into());
    let shown = millis(took);
    match aim {
        Some(aim) if took > aim => {
            (Grade::Warn, format!("{name} {shown} ms, over {} ms", aim.as_millis()))
        }
        Some(aim) => (Grade::Pass, format!("{name} {shown} ms, within {} ms", aim.as_millis())),
        None => (Grade::Pass, format!("{name} {shown} ms, and none over 3 s")),
    }
}

/// Milliseconds, as exactly as people want them.
pub(super) fn millis(time: Duration) -> String {
    let millis = time.as_secs_f64() * 1000.0;
    match millis {
        0.0..10.0 => format!("{millis:.2}"),
        10.0..100.0 => format!("{millis:.1}"),
        _ => format!("{millis:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::Samples;
    use super::*;

    fn measured(millis: &[u64], failed: usize) -> Measured {
        let mut samples = Samples::default();
        for millis in millis {
            samples.add(Duration::from_millis(*millis), Ok(()));
        }
        for _ in 0..failed {
            samples.add(Duration::ZERO, Err("the token says no".to_owned()));
        }
        samples.measured(Duration::from_secs(1))
    }

    fn grade(millis: &[u64], failed: usize, aim: Option<Duration>) -> Grade {
        Verdict::new("x", &measured(millis, failed), aim).result
    }

    #[test]
    fn the_aim_warns_and_the_timeout_fails() {
        assert_eq!(grade(&[10], 0, Some(DECRYPT_AIM)), Grade::Pass);
        assert_eq!(grade(&[11], 0, Some(DECRYPT_AIM)), Grade::Warn);
        assert_eq!(grade(&[11], 0, Some(ENCRYPT_AIM)), Grade::Pass);
        assert_eq!(grade(&[2999], 0, None), Grade::Pass);
        assert_eq!(grade(&[1, 3001], 0, None), Grade::Fail);
        assert_eq!(grade(&[1], 1, Some(DECRYPT_AIM)), Grade::Fail);
        assert_eq!(grade(&[], 1, None), Grade::Fail);
    }

    #[test]
    fn a_storm_is_judged_by_its_last_answer() {
        let of = |millis: &[u64]| Verdict::of_storm(&measured(millis, 0)).result;
        assert_eq!(of(&[1, 1500]), Grade::Pass);
        assert_eq!(of(&[1, 1501]), Grade::Warn);
        assert_eq!(of(&[1, 3001]), Grade::Fail);
    }

    #[test]
    fn a_verdict_says_the_number_and_the_limit() {
        let slow = Verdict::new("x", &measured(&[15], 0), Some(DECRYPT_AIM));
        assert_eq!(slow.message, "p99 15.0 ms, over 10 ms");
        let lost = Verdict::new("x", &measured(&[1], 2), None);
        assert_eq!(lost.message, "2 of 3 calls failed, the first: the token says no");
        assert_eq!(millis(Duration::from_micros(271)), "0.27");
    }
}
