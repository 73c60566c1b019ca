//! What a row of the table says.

use std::time::Duration;

use nix::sys::signal::Signal;

/// A fault, and how p11-kms has to bear it.
#[derive(Clone, Copy)]
pub(crate) struct Row {
    /// The name of the test.
    pub(crate) name: &'static str,
    /// What goes wrong, for people.
    pub(crate) fault: &'static str,
    /// When it goes wrong, for people.
    pub(crate) moment: &'static str,
    /// Settings of the daemon beside the usual ones.
    pub(crate) set: &'static [&'static str],
    /// Calls at once.
    pub(crate) callers: u32,
    /// Where the client is meanwhile.
    pub(crate) load: Load,
    /// What is done, and what is then waited for.
    pub(crate) begin: &'static [Act],
    /// For how long that stays so, at least.
    pub(crate) lasts: Duration,
    /// What ends it.
    pub(crate) end: &'static [Act],
    /// The gRPC codes that callers may see. None: nobody notices anything.
    pub(crate) may_see: &'static [&'static str],
    /// Whether somebody has to see one of them. Otherwise the fault would not have been done.
    pub(crate) is_seen: bool,
    /// What Status says meanwhile.
    pub(crate) status: Status,
    /// What the log has to say, each in a message of its own.
    pub(crate) logs: &'static [&'static str],
    /// How soon after its end all has to be well.
    pub(crate) well_within: Duration,
    /// Which workers are there afterwards.
    pub(crate) workers: Workers,
    /// What becomes of the front.
    pub(crate) front: Front,
    /// How many logins with a wrong PIN the token counts.
    pub(crate) failed_pins: u64,
    /// Whether what was written before can be read afterwards.
    pub(crate) readable: bool,
}

/// Where the client is during a fault.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Load {
    /// It calls before, during and after it.
    Throughout,
    /// What it has got so far cannot be read any more: another one comes after the fault.
    AnotherAfter,
    /// What it would get could never be read: it calls before and after the fault.
    NotDuring,
}

/// What Status says from the beginning of a fault to its end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// That all is well.
    Well,
    /// Each of these at some moment, and never again that all is well. The fault does not end
    /// before.
    Says(&'static [&'static str]),
    /// That all is well, or these words: a worker has gone and the next one is not there yet.
    MaySay(&'static str),
    /// Anything, as long as it is answered.
    Anything,
}

/// Which workers are there after a fault.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Workers {
    /// Those that were there before it.
    Same,
    /// Others in the place of so many, at least.
    Replaced(usize),
    /// Any, but as many as there should be.
    Any,
}

/// What becomes of the front in a fault.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Front {
    /// It answers every Status, and soon.
    Lives,
    /// It answers every Status, but later.
    Pauses,
    /// There is another one afterwards.
    Dies,
}

/// Something that is done, or waited for.
#[derive(Clone, Copy)]
pub(crate) enum Act {
    /// The module misbehaves by these rules from now on.
    Rules(&'static str),
    /// Waits until the rules have struck so often.
    Struck(u64),
    /// Waits until this function has been called again since all was well at first.
    Called(&'static str),
    /// SIGKILL for so many of the workers that were there at first.
    KillWorkers(usize),
    /// SIGSTOP for so many of them.
    StopWorkers(usize),
    /// A signal for each of them.
    Workers(Signal),
    /// SIGKILL for a worker that has come since, and is not logged in.
    KillNewcomer,
    /// Waits until so many of the first workers are no longer there.
    WorkersGone(usize),
    /// A signal for the front.
    Front(Signal),
    /// Waits for the end of the front, and starts another one.
    StartFront,
    /// So many SIGHUPs, within a second.
    Hangups(u32),
    /// Takes a file or directory away.
    Hide(&'static str),
    /// Puts it back.
    Show(&'static str),
    /// Removes a file for good.
    Remove(&'static str),
    /// Replaces a part of the config.
    Config(&'static str, &'static str),
    /// Nobody reads the log any more.
    StopLogReader,
    /// Waits until no more goes into its pipe.
    LogIsFull,
    /// Somebody reads it again.
    ContinueLogReader,
    /// Another client calls, with so many calls at once.
    OthersCall(u32),
    /// It stops.
    OthersStop,
    /// Another process opens so many connections and says nothing.
    Flood(u32),
    /// That process ends.
    EndFlood,
    /// The only KEK is deleted.
    DeleteKek,
    /// The token is copied as it is.
    BackUp,
    /// The copy takes its place.
    Restore,
    /// The token is deleted, and an empty one with the same label is made.
    MakeTokenAnew,
    /// Another token with the same label is made.
    SecondToken,
    /// It is deleted.
    NoSecondToken,
    /// Whether the front may open more than it has.
    Descriptors(bool),
    /// `p11-kms key generate --generation 2`.
    MakeKek,
    /// Waits for these words in the log, told since all was well at first.
    Logged(&'static str),
    /// Waits.
    Pause(Duration),
}

/// A fault that nobody notices. Rows say what is different.
pub(crate) const UNNOTICED: Row = Row {
    name: "",
    fault: "",
    moment: "under load",
    set: &[],
    callers: 4,
    load: Load::Throughout,
    begin: &[],
    lasts: Duration::ZERO,
    end: &[BEHAVE],
    may_see: &[],
    is_seen: false,
    status: Status::Well,
    logs: &[],
    well_within: SOON,
    workers: Workers::Same,
    front: Front::Lives,
    failed_pins: 0,
    readable: true,
};

/// The module behaves again.
pub(crate) const BEHAVE: Act = Act::Rules("");

/// What is promised for a token that is back.
pub(crate) const SOON: Duration = Duration::from_secs(5);

/// The client's connection was cut: it waits a second and more before it dials anew, and counts
/// that from its last try.
pub(crate) const AFTER_REDIAL: Duration = Duration::from_secs(8);
