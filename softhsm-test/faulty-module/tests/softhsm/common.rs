//! A SoftHSM token of its own, and programs that use it through the faulty module.

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use faulty_module::{Control, library};

pub(crate) const PIN: &str = "4711-4711";
pub(crate) const SO_PIN: &str = "5678";

/// A token and the directory that steers the module in front of it.
pub(crate) struct Token {
    directory: tempfile::TempDir,
    pub(crate) control: Control,
}

impl Token {
    pub(crate) fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("faulty-").tempdir().unwrap();
        let tokens = directory.path().join("tokens");
        std::fs::create_dir(&tokens).unwrap();
        let conf = format!("directories.tokendir = {}\nlog.level = ERROR\n", tokens.display());
        std::fs::write(directory.path().join("softhsm2.conf"), conf).unwrap();
        let control = Control::new(directory.path().join("control")).unwrap();
        let token = Self { directory, control };
        let mut tool = token.command("softhsm2-util");
        tool.args(["--init-token", "--free", "--label", "test", "--so-pin", SO_PIN, "--pin", PIN]);
        let done = tool.output().expect("softhsm2-util, of the package softhsm2");
        assert!(done.status.success(), "{done:?}");
        token
    }

    /// A program in the environment of the token and of the module.
    pub(crate) fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command
            .env("SOFTHSM2_CONF", self.directory.path().join("softhsm2.conf"))
            .envs(self.control.environment(&real()));
        command
    }

    pub(crate) fn set(&self, rules: &str) {
        self.control.set(rules).unwrap();
    }

    /// A process that has loaded the module and calls it on command.
    pub(crate) fn caller(&self) -> Caller {
        Caller::start(self.command(example("caller")))
    }

    /// The same with a session, and logged in.
    pub(crate) fn user(&self) -> Caller {
        let mut caller = self.caller();
        caller.all(&["init", "open"]);
        caller.expect(&format!("login {PIN}"), "ok");
        caller
    }
}

/// A process that calls the module.
pub(crate) struct Caller {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Caller {
    pub(crate) fn start(mut command: Command) -> Self {
        command.arg(module()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (input, output) = (child.stdin.take(), child.stdout.take().unwrap());
        Self { child, input, output: BufReader::new(output) }
    }

    /// Gives a command and does not wait for the answer.
    pub(crate) fn begin(&mut self, command: &str) {
        writeln!(self.input.as_mut().unwrap(), "{command}").unwrap();
    }

    pub(crate) fn answer(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    pub(crate) fn ask(&mut self, command: &str) -> String {
        self.begin(command);
        self.answer()
    }

    /// A command whose answer begins in this way.
    #[track_caller]
    pub(crate) fn expect(&mut self, command: &str, wanted: &str) {
        let answer = self.ask(command);
        assert!(answer.starts_with(wanted), "{command}: {answer:?}, not {wanted:?}");
    }

    /// Commands that succeed.
    #[track_caller]
    pub(crate) fn all(&mut self, commands: &[&str]) {
        commands.iter().for_each(|command| self.expect(command, "ok"));
    }

    /// A command that gives bytes.
    #[track_caller]
    pub(crate) fn bytes(&mut self, command: &str) -> Vec<u8> {
        let answer = self.ask(command);
        let hex = answer.strip_prefix("ok ").unwrap_or_else(|| panic!("{command}: {answer}"));
        let (pairs, _) = hex.as_bytes().as_chunks::<2>();
        let byte =
            |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        pairs.iter().map(byte).collect()
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// How it ended, which it does by itself.
    pub(crate) fn ended(mut self) -> ExitStatus {
        drop(self.input.take());
        self.child.wait().unwrap()
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until something is so, which it soon must be.
#[track_caller]
pub(crate) fn until(what: &str, so: impl Fn() -> bool) {
    let began = Instant::now();
    while !so() {
        assert!(began.elapsed() < Duration::from_secs(20), "not in 20 s: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn module() -> PathBuf {
    library().expect("the shared library that cargo has built")
}

pub(crate) fn real() -> PathBuf {
    let usual = || PathBuf::from("/usr/lib/softhsm/libsofthsm2.so");
    env::var_os("P11_KMS_TEST_MODULE").map_or_else(usual, PathBuf::from)
}

/// A program that cargo has built from an example of this crate.
pub(crate) fn example(name: &str) -> PathBuf {
    let test = env::current_exe().unwrap();
    test.ancestors().nth(2).unwrap().join("examples").join(name)
}
