#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "it is a part of the tests"
)]
//! Calls the module named by its argument as its input says, one command a line, and answers each
//! with a line: `ok`, with what came out, or the error and its function.

use std::env;
use std::io::{Write, stdin, stdout};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, Result};
use cryptoki::mechanism::aead::{GcmMessageParams, GeneratorFunction};
use cryptoki::mechanism::{Mechanism, MechanismType, MessageParam};
use cryptoki::object::{Attribute, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;

fn main() {
    let path = env::args().nth(1).expect("the path of a module");
    let mut caller = Caller { module: Some(Pkcs11::new(path).unwrap()), sessions: Vec::new() };
    for line in stdin().lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        let answer = match caller.obey(&words) {
            Ok(out) => format!("ok {out}"),
            Err(Error::Pkcs11(code, function)) => format!("{code:?} {function:?}"),
            Err(other) => format!("{other:?}"),
        };
        println!("{}", answer.trim_end());
        stdout().flush().unwrap();
    }
}

struct Caller {
    module: Option<Pkcs11>,
    sessions: Vec<Session>,
}

impl Caller {
    fn module(&self) -> &Pkcs11 {
        self.module.as_ref().unwrap()
    }

    fn session(&self) -> &Session {
        self.sessions.last().expect("a session was opened")
    }

    fn obey(&mut self, words: &[&str]) -> Result<String> {
        let none = |()| String::new();
        let slot = || self.module().get_all_slots().map(|slots| *slots.first().unwrap());
        match words {
            ["init"] => {
                let arguments = CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK);
                self.module().initialize(arguments).map(none)
            }
            ["finalize"] => {
                self.sessions.clear();
                let module = self.module.take().unwrap();
                let again = module.clone();
                let done = module.finalize().map(none);
                self.module = Some(again);
                done
            }
            ["slots"] => Ok(self.module().get_slots_with_token()?.len().to_string()),
            ["open"] => {
                let session = self.module().open_rw_session(slot()?)?;
                self.sessions.push(session);
                Ok(String::new())
            }
            ["login", pin] => {
                let pin = AuthPin::new((*pin).into());
                self.session().login(UserType::User, Some(&pin)).map(none)
            }
            ["login-so", pin] => {
                self.session().login(UserType::So, Some(&AuthPin::new((*pin).into()))).map(none)
            }
            ["logout"] => self.session().logout().map(none),
            ["init-pin", pin] => self.session().init_pin(&AuthPin::new((*pin).into())).map(none),
            ["init-token", pin] => {
                self.module().init_token(slot()?, &AuthPin::new((*pin).into()), "test").map(none)
            }
            ["set-pin", old, new] => {
                let [old, new] = [old, new].map(|pin| AuthPin::new((*pin).into()));
                self.session().set_pin(&old, &new).map(none)
            }
            ["limit"] => {
                let info = self.module().get_token_info(slot()?)?;
                Ok(format!("{:?}", info.max_session_count()))
            }
            ["present"] => Ok(self.module().get_slot_info(slot()?)?.token_present().to_string()),
            ["event"] => self.module().get_slot_event().map(|slot| format!("{slot:?}")),
            ["digest"] => self.session().digest(&Mechanism::Sha256, b"text").map(|out| hex(&out)),
            ["digest-parts"] => {
                self.session().digest_init(&Mechanism::Sha256)?;
                self.session().digest_update(b"text")?;
                self.session().digest_final().map(|out| hex(&out))
            }
            ["message"] => {
                let (mut iv, mut tag) = ([0; 12], [0; 16]);
                let how = GeneratorFunction::NoGenerate;
                let parameters = GcmMessageParams::new(&mut iv, 0.into(), how, &mut tag)?;
                let parameters = MessageParam::AesGcmMessage(parameters);
                self.session().encrypt_message(&parameters, &[], &[7; 8]).map(|out| hex(&out))
            }
            ["verify"] => self.session().verify_signature(&[7; 8]).map(none),
            ["state"] => Ok(format!("{:?}", self.session().get_session_info()?.session_state())),
            ["flags"] => {
                let info = self.module().get_token_info(slot()?)?;
                let flags = [
                    (info.user_pin_count_low(), "low"),
                    (info.user_pin_final_try(), "final"),
                    (info.user_pin_locked(), "locked"),
                    (info.user_pin_to_be_changed(), "change"),
                    (info.so_pin_final_try(), "so-final"),
                ];
                let set = flags.iter().filter(|(set, _)| *set).map(|(_, name)| *name);
                Ok(set.collect::<Vec<_>>().join(" "))
            }
            ["random"] => self.session().generate_random_vec(16).map(|bytes| hex(&bytes)),
            ["threads", number, calls] => {
                let [number, calls] = [number, calls].map(|text| text.parse::<u32>().unwrap());
                let sessions: Result<Vec<_>> =
                    (0..number).map(|_| self.module().open_rw_session(slot()?)).collect();
                let threads = sessions?.into_iter().map(|session| {
                    std::thread::spawn(move || {
                        (0..calls).for_each(|_| drop(session.generate_random_vec(4)));
                    })
                });
                threads.collect::<Vec<_>>().into_iter().for_each(|one| one.join().unwrap());
                Ok(String::new())
            }
            ["encrypt"] => {
                let key = self.key()?;
                Ok(hex(&self.session().encrypt(&Mechanism::AesEcb, key, &[7; 32])?))
            }
            ["wrap"] => {
                let key = self.key()?;
                Ok(hex(&self.session().wrap_key(&Mechanism::AesKeyWrap, key, key)?))
            }
            ["value"] => {
                let key = self.key()?;
                let kinds = [cryptoki::object::AttributeType::Value];
                match self.session().get_attributes(key, &kinds)?.first() {
                    Some(Attribute::Value(bytes)) => Ok(hex(bytes)),
                    other => Ok(format!("{other:?}")),
                }
            }
            ["mechanisms"] => {
                let list = self.module().get_mechanism_list(slot()?)?;
                let has = |mechanism| list.contains(&mechanism);
                Ok(format!("{} {}", has(MechanismType::AES_KEY_WRAP), has(MechanismType::AES_ECB)))
            }
            other => panic!("no command: {other:?}"),
        }
    }

    fn key(&self) -> Result<ObjectHandle> {
        self.session().create_object(&[
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::Token(false),
            Attribute::Private(false),
            Attribute::Sensitive(false),
            Attribute::Extractable(true),
            Attribute::Encrypt(true),
            Attribute::Wrap(true),
            Attribute::Value(vec![9; 32]),
        ])
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
