//! A little HTTP, for metrics and health.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use super::PATIENCE;
use super::daemon::Daemon;
use super::eventually;

/// Where a daemon shows its metrics.
#[derive(Clone, Debug)]
pub(crate) struct Watcher(String);

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

pub(crate) trait Stream: Read + Write {}
impl<S: Read + Write> Stream for S {}

impl Watcher {
    /// The address that the daemon says it listens on.
    pub(crate) async fn of(daemon: &Daemon) -> Self {
        let line = daemon.logged("metrics and health are shown").await;
        Self(line["listen"].as_str().unwrap().to_owned())
    }

    pub(crate) fn address(&self) -> &str {
        &self.0
    }

    pub(crate) fn dial(&self) -> Box<dyn Stream> {
        if let Some(path) = self.0.strip_prefix("unix://") {
            let stream = UnixStream::connect(path).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            Box::new(stream)
        } else {
            let stream = TcpStream::connect(&self.0).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            Box::new(stream)
        }
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.request("GET", path, "")
    }

    pub(crate) fn request(&self, method: &str, path: &str, fields: &str) -> Answer {
        let mut stream = self.dial();
        let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    /// All metrics.
    pub(crate) fn scrape(&self) -> Scraped {
        let answer = self.get("/metrics");
        assert_eq!(answer.status, 200, "{answer:?}");
        Scraped::parse(answer.body)
    }

    /// Waits until a line has a certain value.
    pub(crate) async fn shows(&self, line: &str, wanted: impl Fn(f64) -> bool) -> Scraped {
        let look = async || {
            let scraped = self.scrape();
            let fits = scraped.lines.get(line).is_some_and(|value| wanted(*value));
            fits.then_some(scraped)
        };
        eventually(line, look).await
    }
}

/// The metrics at one moment.
#[derive(Debug)]
pub(crate) struct Scraped {
    pub(crate) text: String,
    /// Name and labels as they were written, and the value.
    pub(crate) lines: BTreeMap<String, f64>,
    /// Type and HELP line by name.
    pub(crate) families: BTreeMap<String, (String, String)>,
}

impl Scraped {
    /// Prometheus' text format, as far as we write it. Whatever is not of that form fails.
    fn parse(text: String) -> Self {
        let mut lines = BTreeMap::new();
        let mut families: BTreeMap<String, (String, String)> = BTreeMap::new();
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(about) = line.strip_prefix("# HELP ") {
                let (name, help) = about.split_once(' ').unwrap();
                families.entry(name.to_owned()).or_default().1 = help.to_owned();
            } else if let Some(about) = line.strip_prefix("# TYPE ") {
                let (name, kind) = about.split_once(' ').unwrap();
                let family = families.entry(name.to_owned()).or_default();
                assert_eq!(family.0, "", "{name} is there twice");
                family.0 = kind.to_owned();
            } else {
                let (what, value) = line.rsplit_once(' ').unwrap();
                let before = lines.insert(what.to_owned(), value.parse().unwrap());
                assert_eq!(before, None, "{what} is there twice");
            }
        }
        Self { text, lines, families }
    }

    #[track_caller]
    pub(crate) fn value(&self, line: &str) -> f64 {
        *self.lines.get(line).unwrap_or_else(|| panic!("{line} is missing in\n{}", self.text))
    }

    /// The sum over all lines of a name that have this label.
    pub(crate) fn sum(&self, name: &str, label: &str) -> f64 {
        let has = |line: &str| line.split('{').next() == Some(name) && line.contains(label);
        self.lines.iter().filter(|(line, _)| has(line)).map(|(_, value)| value).sum()
    }

    /// The names of the labels of a family, without `le`; none if it has no line.
    pub(crate) fn labels(&self, family: &str, histogram: bool) -> Option<BTreeSet<String>> {
        let name = if histogram { format!("{family}_count") } else { family.to_owned() };
        let (line, _) =
            self.lines.iter().find(|(line, _)| line.split('{').next() == Some(&name))?;
        let labels = line.split_once('{').map_or("", |(_, labels)| labels.trim_end_matches('}'));
        let labels = labels.split(',').filter(|label| !label.is_empty());
        Some(labels.map(|label| label.split('=').next().unwrap().to_owned()).collect())
    }
}
