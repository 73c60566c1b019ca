//! Another process that opens connections and says nothing on them.

use std::env;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};

/// Runs until it is dropped.
pub(crate) struct Flood(Child);

impl Flood {
    /// Starts it and waits until all its connections have been opened.
    pub(crate) fn start(socket: &Path, connections: u32) -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .arg("flood")
            .arg(socket)
            .arg(connections.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "open\n");
        Self(child)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

/// What the other process does.
pub(crate) fn run(arguments: &[String]) -> ExitCode {
    let [socket, connections] = arguments else { return ExitCode::from(2) };
    let open = || UnixStream::connect(socket).unwrap();
    let _held: Vec<UnixStream> = (0..connections.parse::<u32>().unwrap()).map(|_| open()).collect();
    println!("open");
    // Its end is the sign to end.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    ExitCode::SUCCESS
}
