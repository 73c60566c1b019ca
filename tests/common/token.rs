//! Throw-away SoftHSM tokens.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use faulty_module::Control;
use nix::unistd::geteuid;
use tempfile::TempDir;

use super::process::{Ended, run};

/// The label of the token, and the PIN of its user.
pub(crate) const LABEL: &str = "test";
pub(crate) const PIN: &str = "pin-for-tests-4711";
const SO_PIN: &str = "so-pin-for-tests";

/// A KEK as it should be, made with pkcs11-tool.
pub(crate) const GOOD: &[&str] = &["--sensitive", "--private", "--usage-wrap", "--usage-decrypt"];

/// A directory with a token, a PIN file and a config in it.
pub(crate) struct Token {
    directory: TempDir,
    faults: OnceLock<Control>,
}

impl Token {
    /// One token with no KEK.
    pub(crate) fn new() -> Self {
        let token = Self::without_token();
        token.initialise();
        token
    }

    /// One token with one good KEK of generation 1, made by ourselves.
    pub(crate) fn with_kek() -> Self {
        let token = Self::new();
        token.run(&["key", "generate"]).expect(0, &[]);
        token
    }

    /// Everything but the token.
    pub(crate) fn without_token() -> Self {
        let module = module();
        assert!(
            module.exists(),
            "the PKCS#11 module {} is missing: `softhsm-test/run` installs it (package softhsm2), \
             or set P11_KMS_TEST_MODULE",
            module.display()
        );
        let directory = tempfile::Builder::new().prefix("p11-kms-").tempdir().unwrap();
        let token = Self { directory, faults: OnceLock::new() };
        fs::set_permissions(token.path(""), fs::Permissions::from_mode(0o700)).unwrap();
        fs::create_dir(token.path("tokens")).unwrap();
        let conf = format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n",
            token.path("tokens").display()
        );
        fs::write(token.path("softhsm2.conf"), conf).unwrap();
        token.write_pin(PIN, 0o600);
        token.write_config(&token.usual_config());
        token
    }

    /// Makes a token. A second call makes a second one with the same label.
    pub(crate) fn initialise(&self) {
        let arguments = ["--init-token", "--free", "--label", LABEL];
        let pins = ["--so-pin", SO_PIN, "--pin", PIN];
        let done = self.tool("softhsm2-util", arguments.iter().chain(&pins));
        assert!(done.status.success(), "{done:?}");
    }

    /// A file in its directory, by its real path: a link on the way to the socket is refused.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        let directory = fs::canonicalize(self.directory.path()).unwrap();
        if name.is_empty() { directory } else { directory.join(name) }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("unix://{}", self.path("run/kms.sock").display())
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.path("config.toml")
    }

    /// A config that works, with short intervals.
    pub(crate) fn usual_config(&self) -> String {
        format!(
            "[token]\n\
             module = {module:?}\n\
             uri = \"pkcs11:token={LABEL}\"\n\
             pin-file = {pin:?}\n\
             profile = \"softhsm\"\n\
             [keyring]\n\
             label = \"k8s-kek\"\n\
             scan-interval = \"1s\"\n\
             activation-delay = \"1ms\"\n\
             state-dir = {state:?}\n\
             [server]\n\
             endpoint = {endpoint:?}\n\
             allow-uids = [{uid}]\n\
             [health]\n\
             interval = \"1s\"\n",
            module = module(),
            pin = self.path("pin"),
            state = self.path("state"),
            endpoint = self.endpoint(),
            uid = geteuid(),
        )
    }

    pub(crate) fn write_config(&self, text: &str) {
        fs::write(self.config(), text).unwrap();
    }

    /// Replaces a part of the config, which must be there.
    pub(crate) fn change_config(&self, from: &str, to: &str) {
        let text = fs::read_to_string(self.config()).unwrap();
        assert!(text.contains(from), "{from:?} is not in the config");
        self.write_config(&text.replacen(from, to, 1));
    }

    /// Writes the PIN file as an administrator does: the new one replaces the old one.
    pub(crate) fn write_pin(&self, pin: &str, mode: u32) {
        use std::io::Write;
        let next = self.path("pin.next");
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&next).unwrap();
        writeln!(file, "{pin}").unwrap();
        fs::set_permissions(&next, fs::Permissions::from_mode(mode)).unwrap();
        fs::rename(next, self.path("pin")).unwrap();
    }

    /// The binary under test, with this token's config and environment.
    pub(crate) fn command(&self) -> Command {
        let mut command = self.bare_command();
        command.arg("--config").arg(self.config());
        command
    }

    /// The same without a config.
    pub(crate) fn bare_command(&self) -> Command {
        self.prepared(env!("CARGO_BIN_EXE_p11-kms"))
    }

    /// Any program, in this token's environment.
    pub(crate) fn prepared(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("SOFTHSM2_CONF", self.path("softhsm2.conf"))
            // What a developer's shell or a CI runner may have set is not ours.
            .env_remove("NOTIFY_SOCKET")
            .env_remove("LISTEN_FDS")
            .env_remove("LISTEN_PID")
            .env_remove("WATCHDOG_USEC")
            .env_remove("WATCHDOG_PID")
            .stdin(Stdio::null())
            .current_dir(self.path(""));
        if let Some(faults) = self.faults.get() {
            command.envs(faults.environment(&module()));
        }
        command
    }

    /// Runs the binary under test to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ended {
        let mut command = self.command();
        command.args(arguments);
        run(command)
    }

    /// Makes a key on the token with the label and the flags of pkcs11-tool.
    pub(crate) fn keygen(&self, label: &str, kind: &str, flags: &[&str]) {
        let arguments = ["--keygen", "--key-type", kind, "--label", label];
        self.pkcs11_tool(arguments.iter().chain(flags));
    }

    /// Brings a known key onto the token. It can never count as never extractable.
    pub(crate) fn import(&self, label: &str, key: &[u8]) {
        let file = self.path("key");
        fs::write(&file, key).unwrap();
        let kind = format!("AES:{}", key.len());
        let file_text = file.to_str().unwrap();
        let arguments = ["--write-object", file_text, "--type", "secrkey", "--key-type", &kind];
        self.pkcs11_tool(arguments.iter().chain(&["--label", label]).chain(GOOD));
        fs::remove_file(file).unwrap();
    }

    /// Deletes a key.
    pub(crate) fn delete(&self, label: &str) {
        self.pkcs11_tool(["--delete-object", "--type", "secrkey", "--label", label]);
    }

    /// Stores a private data object with pkcs11-tool.
    pub(crate) fn store_data(&self, label: &str, application: &str, value: &[u8]) {
        let file = self.path("data");
        fs::write(&file, value).unwrap();
        let arguments = ["--write-object", file.to_str().unwrap(), "--type", "data", "--private"];
        let names = ["--label", label, "--application-label", application];
        self.pkcs11_tool(arguments.iter().chain(&names));
        fs::remove_file(file).unwrap();
    }

    /// How many data objects there are, whoever made them.
    pub(crate) fn data_objects(&self) -> usize {
        let listed = self.pkcs11_tool(["--list-objects", "--type", "data"]);
        listed.stdout.matches("Data object").count()
    }

    pub(crate) fn pkcs11_tool(
        &self,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Ended {
        let module = module();
        let login = ["--token-label", LABEL, "--login", "--pin", PIN, "--module"];
        let mut command = self.prepared("pkcs11-tool");
        command.args(login).arg(module).args(arguments);
        let done = run(command);
        assert!(done.status.success(), "{done:?}");
        done
    }

    fn tool(&self, program: &str, arguments: impl Iterator<Item = impl AsRef<OsStr>>) -> Ended {
        let mut command = self.prepared(program);
        command.args(arguments);
        run(command)
    }

    /// Puts another module between p11-kms and SoftHSM that misbehaves on command.
    pub(crate) fn misbehaving(&self) -> &Control {
        self.faults.get_or_init(|| {
            let library = faulty_module::library().expect("cargo has built the faulty module");
            // Its own: who hangs in a login holds the lock on that file.
            let own = self.path("faulty-module.so");
            fs::copy(library, &own).unwrap();
            self.change_config(&format!("{:?}", module()), &format!("{own:?}"));
            Control::new(self.path("faults")).unwrap()
        })
    }

    /// Puts another module between p11-kms and SoftHSM that writes every call to a file.
    pub(crate) fn spy_on_calls(&self) -> Spy {
        let spy = match std::env::var_os("P11_KMS_TEST_SPY") {
            Some(path) => PathBuf::from(path),
            None => usual_spy(),
        };
        assert!(
            spy.exists(),
            "{} is missing: `softhsm-test/run` installs it (package opensc), or set P11_KMS_TEST_SPY",
            spy.display()
        );
        self.change_config(&format!("{:?}", module()), &format!("{spy:?}"));
        Spy { output: self.path("calls") }
    }
}

/// What pkcs11-spy wrote.
pub(crate) struct Spy {
    output: PathBuf,
}

impl Spy {
    /// The environment that pkcs11-spy wants.
    pub(crate) fn environment(&self) -> [(&'static str, PathBuf); 2] {
        [("PKCS11SPY", module()), ("PKCS11SPY_OUTPUT", self.output.clone())]
    }

    /// How often each function has been called so far.
    pub(crate) fn calls(&self) -> std::collections::BTreeMap<String, usize> {
        let text = fs::read(&self.output).unwrap_or_default();
        let mut calls = std::collections::BTreeMap::new();
        for line in String::from_utf8_lossy(&text).lines() {
            // "17: C_Login"
            let Some((number, name)) = line.split_once(": ") else {
                continue;
            };
            let is_call = number.parse::<u64>().is_ok() && name.starts_with("C_");
            if is_call {
                *calls.entry(name.trim().to_owned()).or_default() += 1;
            }
        }
        calls
    }

    pub(crate) fn count(&self, function: &str) -> usize {
        self.calls().get(function).copied().unwrap_or(0)
    }
}

/// Where the package opensc puts it, on one architecture or another.
fn usual_spy() -> PathBuf {
    let folders = fs::read_dir("/usr/lib").unwrap().flatten();
    let mut places = folders.map(|folder| folder.path().join("pkcs11-spy.so"));
    let found = places.find(|place| place.exists());
    found.unwrap_or_else(|| "/usr/lib/x86_64-linux-gnu/pkcs11-spy.so".into())
}

/// The module under the tests.
pub(crate) fn module() -> PathBuf {
    std::env::var_os("P11_KMS_TEST_MODULE")
        .map_or_else(|| "/usr/lib/softhsm/libsofthsm2.so".into(), PathBuf::from)
}
