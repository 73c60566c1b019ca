#![forbid(unsafe_code)]
//! All that was measured, for people and for programs.

use std::fmt::Write;
use std::time::Duration;

use serde::Serialize;

use super::plan::{Size, Varied};
use super::sample::Measured;
use super::socket::ThroughSocket;
use super::storm::{Storm, Through};
use super::token::TokenAlone;
use super::verdict::{DECRYPT_AIM, ENCRYPT_AIM, Grade, TIMEOUT, Verdict, millis};

/// The result of `bench`. A part that was not measured is absent.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Report {
    limits: Limits,
    token: Option<TokenAlone>,
    socket: Option<ThroughSocket>,
    storm: Option<Storm>,
    /// Why a part is absent.
    pub(super) notes: Vec<String>,
    verdicts: Vec<Verdict>,
}

/// What kube-apiserver allows.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Limits {
    decrypt_aim_millis: u128,
    encrypt_aim_millis: u128,
    timeout_millis: u128,
}

impl Default for Report {
    fn default() -> Self {
        let limits = Limits {
            decrypt_aim_millis: DECRYPT_AIM.as_millis(),
            encrypt_aim_millis: ENCRYPT_AIM.as_millis(),
            timeout_millis: TIMEOUT.as_millis(),
        };
        let (notes, verdicts) = (Vec::new(), Vec::new());
        Self { limits, token: None, socket: None, storm: None, notes, verdicts }
    }
}

impl Report {
    /// One call at a time is judged by the aims; under load the best size by the timeout.
    pub(super) fn take_token(&mut self, token: TokenAlone) {
        let one = &token.one_at_a_time;
        self.verdicts.push(Verdict::new("token-wrap", &one.wrap, Some(ENCRYPT_AIM)));
        self.verdicts.push(Verdict::new("token-unwrap", &one.unwrap, Some(DECRYPT_AIM)));
        let best = token.points.iter().find(|point| Some(point.size) == token.recommended);
        if let Some(point) = best.or(token.points.first()) {
            self.verdicts.push(Verdict::new("token-wrap-load", &point.pair.wrap, None));
            self.verdicts.push(Verdict::new("token-unwrap-load", &point.pair.unwrap, None));
        }
        self.token = Some(token);
    }

    /// One call at a time is judged by the aims, many by the timeout.
    pub(super) fn take_socket(&mut self, socket: ThroughSocket) {
        for point in &socket.points {
            let (encrypt, decrypt, aims) = if point.callers == 1 {
                ("socket-encrypt", "socket-decrypt", (Some(ENCRYPT_AIM), Some(DECRYPT_AIM)))
            } else {
                ("socket-encrypt-load", "socket-decrypt-load", (None, None))
            };
            self.verdicts.push(Verdict::new(encrypt, &point.encrypt, aims.0));
            self.verdicts.push(Verdict::new(decrypt, &point.decrypt, aims.1));
        }
        self.socket = Some(socket);
    }

    /// Judged by the last answer.
    pub(super) fn take_storm(&mut self, storm: Storm) {
        self.verdicts.push(Verdict::of_storm(&storm.decrypt));
        self.storm = Some(storm);
    }

    /// Would kube-apiserver lose calls?
    pub(super) fn is_bad(&self) -> bool {
        self.verdicts.iter().any(|verdict| verdict.result == Grade::Fail)
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let mut text = Table::default();
        if let Some(token) = &self.token {
            text.token(token);
        }
        if let Some(socket) = &self.socket {
            text.head(&format!("through the socket {}", socket.endpoint));
            for point in &socket.points {
                text.row(&format!("Encrypt, {} at once", point.callers), &point.encrypt);
                text.row(&format!("Decrypt, {} at once", point.callers), &point.decrypt);
            }
            text.0.push('\n');
        }
        if let Some(storm) = &self.storm {
            text.storm(storm);
        }
        let mut text = text.0;
        for note in &self.notes {
            let _ = writeln!(text, "{note}\n");
        }
        for Verdict { id, result, message } in &self.verdicts {
            let word = match result {
                Grade::Pass => "pass",
                Grade::Warn => "WARN",
                Grade::Fail => "FAIL",
            };
            let _ = writeln!(text, "{word}  {id:<20} {message}");
        }
        if let Some(token) = &self.token {
            let _ = write!(text, "\n{}", recommendation(token));
        }
        text.trim_end().to_owned()
    }
}

/// Lines under a head. Writing into a `String` cannot fail.
#[derive(Default)]
struct Table(String);

impl Table {
    fn head(&mut self, name: &str) {
        let _ = writeln!(
            self.0,
            "{name}\n{:<28}{:>10}{:>9}{:>9}{:>9}{:>9}{:>9}{:>8}",
            "  times in ms", "calls/s", "p50", "p90", "p99", "p99.9", "max", "failed"
        );
    }

    fn row(&mut self, name: &str, measured: &Measured) {
        let shown = |micros: Option<u32>| {
            micros.map_or("-".to_owned(), |it| millis(Duration::from_micros(it.into())))
        };
        let Measured { rate, failed, .. } = measured;
        let _ = writeln!(
            self.0,
            "  {name:<26}{rate:>10.0}{:>9}{:>9}{:>9}{:>9}{:>9}{failed:>8}",
            shown(measured.p50_micros),
            shown(measured.p90_micros),
            shown(measured.p99_micros),
            shown(measured.p999_micros),
            shown(measured.max_micros),
        );
    }

    fn token(&mut self, token: &TokenAlone) {
        self.head(&format!("the token \"{}\" alone, one call at a time", token.token_label));
        self.row("wrap", &token.one_at_a_time.wrap);
        self.row("unwrap", &token.one_at_a_time.unwrap);
        self.0.push('\n');
        self.head(&format!("the token alone, {} calls at once", token.callers));
        for point in &token.points {
            self.row(&format!("{}: wrap", sized(token.varied, point.size)), &point.pair.wrap);
            self.row(&format!("{}: unwrap", sized(token.varied, point.size)), &point.pair.unwrap);
        }
        if let Some(stopped) = &token.stopped {
            let size = sized(token.varied, stopped.size);
            let _ = writeln!(self.0, "  {size}: could not be started: {}", stopped.why);
        }
        self.0.push('\n');
    }

    fn storm(&mut self, storm: &Storm) {
        let through = match storm.through {
            Through::Socket => "through the socket",
            Through::Token => "on the token alone, no daemon",
        };
        let Measured { calls, over_10ms, over_100ms, over_3s, .. } = &storm.decrypt;
        self.head(&format!("a storm of {calls} Decrypts at once, {through}"));
        self.row("Decrypt", &storm.decrypt);
        let _ = writeln!(
            self.0,
            "  all answered in {} ms; over 10 ms: {over_10ms}, over 100 ms: {over_100ms}, over 3 s: {over_3s}\n",
            millis(Duration::from_micros(storm.total_micros)),
        );
    }
}

/// What was varied, in words.
fn sized(varied: Varied, size: Size) -> String {
    let (count, name) = match varied {
        Varied::Workers => (size.workers, "worker"),
        Varied::Sessions => (size.sessions, "session"),
    };
    format!("{count} {name}{}", if count == 1 { "" } else { "s" })
}

fn recommendation(token: &TokenAlone) -> String {
    let Some(Size { workers, sessions }) = token.recommended else {
        return "nothing is recommended: calls failed with every number of sessions".to_owned();
    };
    let change = if token.recommended == Some(token.configured) {
        "as it is configured".to_owned()
    } else {
        let Size { workers, sessions } = token.configured;
        format!("configured are workers = {workers}, sessions = {sessions}")
    };
    format!(
        "recommended, the fewest that are nearly as fast as the most ({change}):\n\n\
         [token]\nworkers = {workers}\nsessions = {sessions}"
    )
}
