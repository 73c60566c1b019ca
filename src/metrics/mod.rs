#![forbid(unsafe_code)]
//! What is counted and measured. The rooms call the small functions here; [`FAMILIES`] says what
//! each number means, and the room `monitor` shows them.
//!
//! While nobody listens ([`start`] was not called) every function here does nothing. Otherwise all
//! lines with a closed label are there from the start, and to count is one atomic addition.

mod families;
mod labels;
mod scrape;

use std::sync::OnceLock;
use std::time::Duration;

use metrics::{
    Counter, Gauge, Histogram, counter, describe_counter, describe_gauge, describe_histogram,
    gauge, histogram, with_local_recorder,
};
use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};
use metrics_process::Collector;

pub use self::families::{BUCKETS, FAMILIES, Family, Kind};
use self::labels::Label;
pub use self::labels::{AuditEvent, Code, Method, Operation, Outcome, StartReason};
pub use self::scrape::{Connections, Kek, Scrape};

/// Set once, if at all.
static NUMBERS: OnceLock<Numbers> = OnceLock::new();

/// The numbers that are changed where something happens. Each is looked up once, here.
struct Numbers {
    requests: ByLabel<Method, ByLabel<Code, Counter>>,
    request_duration: ByLabel<Method, Histogram>,
    in_flight: ByLabel<Method, Gauge>,
    queue_wait: Histogram,
    operations: ByLabel<Operation, ByLabel<Outcome, Counter>>,
    operation_duration: ByLabel<Operation, Histogram>,
    worker_starts: ByLabel<StartReason, Counter>,
    start_failures: ByLabel<Outcome, Counter>,
    stuck_calls: Counter,
    pin_latched: Gauge,
    audit_lines: ByLabel<AuditEvent, Counter>,
    audit_failures: Counter,
    audit_refused: Counter,
    audit_failing: Gauge,
}

/// One number for each value of a label.
struct ByLabel<L, T>(Vec<(L, T)>);

impl<L: Label, T> ByLabel<L, T> {
    fn new(values: impl IntoIterator<Item = L>, number: impl Fn(&'static str) -> T) -> Self {
        Self(values.into_iter().map(|value| (value, number(value.text()))).collect())
    }

    /// There are a dozen at most.
    fn get(&self, value: L) -> Option<&T> {
        self.0.iter().find(|(its, _)| *its == value).map(|(_, number)| number)
    }
}

impl Numbers {
    /// With the recorder that is the thread's own now.
    fn new() -> Self {
        let methods = || Method::ALL.iter().copied();
        let operations = || Operation::ALL.iter().copied();
        let outcomes = || Outcome::ALL.iter().copied();
        let timed = |it: &Operation| matches!(it, Operation::Wrap | Operation::Unwrap);
        Self {
            requests: ByLabel::new(methods(), |method| {
                ByLabel::new(
                    Code::ALL.iter().copied(),
                    |code| counter!(families::REQUESTS.name, "method" => method, "code" => code),
                )
            }),
            request_duration: ByLabel::new(
                methods(),
                |method| histogram!(families::REQUEST_DURATION.name, "method" => method),
            ),
            in_flight: ByLabel::new(
                methods(),
                |method| gauge!(families::IN_FLIGHT.name, "method" => method),
            ),
            queue_wait: histogram!(families::QUEUE_WAIT.name),
            operations: ByLabel::new(operations(), |operation| {
                ByLabel::new(
                    outcomes(),
                    |result| counter!(families::OPERATIONS.name, "operation" => operation, "result" => result),
                )
            }),
            operation_duration: ByLabel::new(
                operations().filter(timed),
                |operation| histogram!(families::OPERATION_DURATION.name, "operation" => operation),
            ),
            worker_starts: ByLabel::new(
                StartReason::ALL.iter().copied(),
                |reason| counter!(families::WORKER_STARTS.name, "reason" => reason),
            ),
            start_failures: ByLabel::new(
                outcomes().filter(|it| *it != Outcome::Ok),
                |class| counter!(families::START_FAILURES.name, "class" => class),
            ),
            stuck_calls: counter!(families::STUCK_CALLS.name),
            pin_latched: gauge!(families::PIN_LATCHED.name),
            audit_lines: ByLabel::new(
                AuditEvent::ALL.iter().copied(),
                |event| counter!(families::AUDIT_LINES.name, "event" => event),
            ),
            audit_failures: counter!(families::AUDIT_FAILURES.name),
            audit_refused: counter!(families::AUDIT_REFUSED.name),
            audit_failing: gauge!(families::AUDIT_FAILING.name),
        }
    }
}

/// Shows the numbers.
pub struct Exporter {
    lasting: PrometheusHandle,
    process: Collector,
}

/// Begins to count. Without it nothing is counted. A second call goes on with the numbers of the
/// first.
///
/// It measures the processor's clock, which takes a fifth of a second: call it before anybody waits.
///
/// # Errors
/// The buckets of the histograms are not accepted, which no input can cause.
pub fn start() -> Result<Exporter, BuildError> {
    static LASTING: OnceLock<PrometheusHandle> = OnceLock::new();
    let builder = PrometheusBuilder::new().set_buckets(BUCKETS)?;
    let lasting = LASTING.get_or_init(|| {
        let recorder = builder.build_recorder();
        with_local_recorder(&recorder, || {
            describe();
            NUMBERS.get_or_init(Numbers::new);
        });
        recorder.handle()
    });
    Ok(Exporter { lasting: lasting.clone(), process: Collector::default() })
}

fn describe() {
    for Family { name, kind, unit, help, .. } in FAMILIES.iter().copied() {
        match kind {
            Kind::Counter => describe_counter!(name, unit, help),
            Kind::Gauge => describe_gauge!(name, unit, help),
            Kind::Histogram => describe_histogram!(name, unit, help),
        }
    }
}

impl Exporter {
    /// Sorts the measured times into their buckets. They take memory until then: call it every
    /// second or so.
    pub fn upkeep(&self) {
        self.lasting.run_upkeep();
    }

    /// All numbers, in the text format of Prometheus (version 0.0.4).
    #[must_use]
    pub fn render(&self, scrape: &Scrape) -> String {
        let recorder = PrometheusBuilder::new().build_recorder();
        with_local_recorder(&recorder, || {
            describe();
            self.process.describe();
            self.process.collect();
            scrape.record();
        });
        let mut text = self.lasting.render();
        text.push_str(&recorder.handle().render());
        text
    }
}

fn count<L: Label>(numbers: &ByLabel<L, Counter>, value: L) {
    if let Some(counter) = numbers.get(value) {
        counter.increment(1);
    }
}

/// A call has come.
pub fn request_begun(method: Method) {
    if let Some(gauge) = NUMBERS.get().and_then(|it| it.in_flight.get(method)) {
        gauge.increment(1.0);
    }
}

/// A call that had come was answered, or its caller has gone.
pub fn request(method: Method, code: Code, duration: Duration) {
    let Some(numbers) = NUMBERS.get() else { return };
    if let Some(gauge) = numbers.in_flight.get(method) {
        gauge.decrement(1.0);
    }
    if let Some(codes) = numbers.requests.get(method) {
        count(codes, code);
    }
    if let Some(histogram) = numbers.request_duration.get(method) {
        histogram.record(duration);
    }
}

/// A job was given to a session so long after it was submitted.
pub fn queue_wait(duration: Duration) {
    if let Some(numbers) = NUMBERS.get() {
        numbers.queue_wait.record(duration);
    }
}

/// The token answered an operation.
pub fn token_operation(operation: Operation, outcome: Outcome) {
    let Some(numbers) = NUMBERS.get() else { return };
    if let Some(outcomes) = numbers.operations.get(operation) {
        count(outcomes, outcome);
    }
}

/// So many wraps or unwraps took the token so long, each of them. Of others no time is kept.
pub fn token_operation_duration(operation: Operation, each: Duration, operations: usize) {
    let Some(numbers) = NUMBERS.get().filter(|_| operations > 0) else { return };
    if let Some(histogram) = numbers.operation_duration.get(operation) {
        histogram.record_many(each, operations);
    }
}

/// A worker logged in.
pub fn worker_started(reason: StartReason) {
    if let Some(numbers) = NUMBERS.get() {
        count(&numbers.worker_starts, reason);
    }
}

/// A worker could not be started.
pub fn worker_start_failed(class: Outcome) {
    if let Some(numbers) = NUMBERS.get() {
        count(&numbers.start_failures, class);
    }
}

/// A wrap or unwrap took too long, and its worker is killed.
pub fn stuck_call() {
    if let Some(numbers) = NUMBERS.get() {
        numbers.stuck_calls.increment(1);
    }
}

/// Is a login still tried, or was the PIN refused?
pub fn pin_latched(is_latched: bool) {
    if let Some(numbers) = NUMBERS.get() {
        numbers.pin_latched.set(f64::from(u8::from(is_latched)));
    }
}

/// A line was written to the audit log.
pub fn audit_line(event: AuditEvent) {
    if let Some(numbers) = NUMBERS.get() {
        count(&numbers.audit_lines, event);
    }
}

/// So many lines could not be written to the audit log.
pub fn audit_failed(lines: u64) {
    if let Some(numbers) = NUMBERS.get() {
        numbers.audit_failures.increment(lines);
    }
}

/// A call was refused, since its line could not be written.
pub fn audit_refused() {
    if let Some(numbers) = NUMBERS.get() {
        numbers.audit_refused.increment(1);
    }
}

/// Did the last write of the audit log fail?
pub fn audit_failing(is_failing: bool) {
    if let Some(numbers) = NUMBERS.get() {
        numbers.audit_failing.set(f64::from(u8::from(is_failing)));
    }
}

#[cfg(test)]
mod tests;
