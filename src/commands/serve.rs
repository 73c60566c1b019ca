#![forbid(unsafe_code)]
//! `serve`: the daemon.

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, info, warn};

use super::token_access::{keyring_settings, of_pin, records, setup};
use super::{Exit, Failed, runtime, watchdog};
use crate::audit::{self, Audit, AuditEvent, Event};
use crate::cli::Cli;
use crate::config::{Config, PinError};
use crate::health::Health;
use crate::keyring::{Keyring, Memory};
use crate::monitor::{self, Bound, Sources};
use crate::proto::key_management_service_server::KeyManagementServiceServer;
use crate::server::peer::AllowList;
use crate::server::socket::{self, BoundSocket, SocketOptions};
use crate::server::{self, Limits};
use crate::service::{self, Heard, Service};
use crate::state::StateDir;
use crate::token::{self, Capacity, Workers};
use crate::{memory, notify};

/// What the audit log says at a start.
const VERSION: &str = concat!("p11-kms ", env!("CARGO_PKG_VERSION"));

/// How long the workers may take to log out, after the requests have drained.
const LOGOUT: Duration = Duration::from_secs(3);

/// How long a write to the state directory may go on after that.
const LAST_WRITE: Duration = Duration::from_secs(1);

pub(super) fn run(cli: &Cli) -> Result<(), Failed> {
    let runtime = runtime()?;
    let hangups = {
        let _inside = runtime.enter();
        // First of all: who has not asked for it is ended by it.
        signal(SignalKind::hangup())?
    };
    let config = cli.load_config()?;
    if let Err(warning) = memory::lock() {
        warn!("{warning}");
    }
    refuse_open_pin(&config)?;
    // Before any thread or worker exists: binding sets the umask of the process.
    let socket = bind(&config)?;
    let monitor =
        monitor::bind(&config.metrics).map_err(|error| Failed::new(Exit::Usage, error))?;
    let memory = remember(&config)?;
    let writer = audit::open(config.audit.as_ref(), &config.keyring.state_dir)
        .map_err(|error| Failed::new(Exit::Usage, error))?;
    let served = runtime.block_on(async {
        let audit = writer.audit();
        audit.tell(Event { detail: Some(VERSION.to_owned()), ..Event::new(AuditEvent::Start) });
        let served = serve(cli, config, socket, monitor, memory, audit.clone(), hangups).await;
        audit.tell(Event {
            outcome: Some(if served.is_ok() { "ok" } else { "failed" }),
            detail: served.as_ref().err().map(|failed| failed.message.clone()),
            ..Event::new(AuditEvent::Stop)
        });
        writer.close().await;
        served
    });
    // One that hangs ends with the process.
    runtime.shutdown_timeout(LAST_WRITE);
    served
}

/// One that is damaged, or cannot be written to, is to be put right before we serve.
fn remember(config: &Config) -> Result<Memory, Failed> {
    let dir = StateDir::open(&config.keyring.state_dir)
        .map_err(|error| Failed::new(Exit::Usage, error))?;
    Ok(Memory::kept(dir, records(config)?))
}

fn bind(config: &Config) -> Result<BoundSocket, Failed> {
    let passed = socket::from_systemd().map_err(|error| Failed::new(Exit::Usage, error))?;
    let bound = match passed {
        Some(passed) => Ok(passed),
        None => socket::bind(&SocketOptions {
            endpoint: config.server.endpoint.clone(),
            mode: config.server.socket_mode,
            owner: config.server.socket_owner,
            group: config.server.socket_group,
        }),
    };
    bound.map_err(|error| Failed::new(Exit::Usage, error))
}

async fn serve(
    cli: &Cli,
    config: Config,
    socket: BoundSocket,
    monitor: Option<Bound>,
    memory: Memory,
    audit: Audit,
    hangups: Signal,
) -> Result<(), Failed> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let endpoint =
        socket.endpoint().map_or_else(|| "a passed socket".to_owned(), |it| it.to_string());
    let allow = AllowList::new(config.server.allow_uids.clone(), config.server.allow_gids.clone());
    let limits = Limits {
        connections: config.server.max_connections,
        streams: config.server.max_streams,
        carries_secrets: service::carries_secrets,
        audit: audit.clone(),
        ..Limits::default()
    };

    let capacity = Capacity {
        workers: config.token.profile.workers,
        queue_length: config.server.queue_length,
    };
    let told = audit.clone();
    let tell = Arc::new(move |event| told.tell(of_pin(event)));
    let (client, workers) = token::start_telling(setup(&config), capacity, tell);
    let keyring = Arc::new(Keyring::new(
        client.clone(),
        config.keyring.label.clone(),
        keyring_settings(&config),
        memory,
    ));
    let interval = config.health.interval;
    let health = Arc::new(Health::new(client.clone(), keyring.clone(), interval, audit.clone()));
    let service = KeyManagementServiceServer::new(Service::new(
        keyring.clone(),
        health.clone(),
        config.server.request_timeout,
        audit.clone(),
    ))
    .max_decoding_message_size(limits.message_size);
    let service = Heard::new(service, audit.clone());

    let scans = tokio::spawn(scan(keyring.clone(), config.keyring.scan_interval));
    let watchdog = tokio::spawn(watchdog::feed(limits.counters.clone(), health.clone()));
    let sources = Sources {
        token: client,
        keyring: keyring.clone(),
        health: health.clone(),
        counters: limits.counters.clone(),
        connections_limit: limits.connections,
    };
    let watchers = monitor.map(|bound| bound.serve(sources)).transpose();
    let watchers = watchers.map_err(|error| Failed::new(Exit::Usage, error))?;
    let watched = health.clone();
    let probes = tokio::spawn(async move { watched.watch().await });
    let mut running = Running { config, health, keyring, workers, allow: allow.clone(), audit };

    info!(version = env!("CARGO_PKG_VERSION"), endpoint, "serving");
    notify::ready(&format!("serving on {endpoint}"));
    let shutdown = async move {
        tokio::select! {
            _ = terminate.recv() => info!(signal = "SIGTERM", "shutting down"),
            _ = interrupt.recv() => info!(signal = "SIGINT", "shutting down"),
        }
        notify::stopping("draining");
    };
    let serving = server::serve(socket, service, limits, allow, shutdown);
    let served = tokio::select! {
        served = serving => served,
        never = running.reload_on(hangups, cli) => match never {},
    };
    scans.abort();
    probes.abort();
    watchdog.abort();
    drop(watchers);
    running.keyring.settle().await;
    running.workers.stop(LOGOUT).await;
    match served {
        Ok(drained) => {
            info!(?drained, "stopped");
            Ok(())
        }
        Err(error) => Err(Failed::new(Exit::Usage, error)),
    }
}

/// Looks for new KEKs every interval, and at the moment when one becomes active. Never ends.
async fn scan(keyring: Arc<Keyring>, every: Duration) {
    let mut tick = interval(every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first look is the health task's, as soon as a worker is there.
    tick.tick().await;
    let mut said = None;
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = keyring.due() => {}
            () = keyring.tell_token() => continue,
        }
        let trouble = keyring.look_afresh().await.err();
        // Once until it changes: trouble that stays fills no disk.
        if let Some(error) = trouble.as_ref().filter(|_| trouble != said) {
            warn!("looking for KEKs: {error}");
        }
        said = trouble;
    }
}

/// What SIGHUP can change while we run.
struct Running {
    config: Config,
    health: Arc<Health>,
    keyring: Arc<Keyring>,
    workers: Workers,
    allow: AllowList,
    audit: Audit,
}

impl Running {
    async fn reload_on(&mut self, mut hangups: Signal, cli: &Cli) -> std::convert::Infallible {
        loop {
            if hangups.recv().await.is_none() {
                std::future::pending::<()>().await;
            }
            notify::reloading();
            match cli.load_config() {
                Ok(config) => self.take(config),
                Err(error) => error!("SIGHUP: the config is not taken, the old one stays: {error}"),
            }
            // systemd shows this until health changes.
            notify::ready(&self.health.snapshot().healthz);
        }
    }

    /// Takes a new config as far as a running daemon can. The workers are always
    /// replaced: the PIN may have changed, and a latched one is to be tried again.
    fn take(&mut self, mut new: Config) {
        let old = &self.config;
        let mut fixed = Vec::new();
        let mut compare = |name, same: bool| {
            if !same {
                fixed.push(name);
            }
        };
        compare("server.endpoint", old.server.endpoint == new.server.endpoint);
        compare(
            "server.socket-*",
            (old.server.socket_mode, old.server.socket_owner, old.server.socket_group)
                == (new.server.socket_mode, new.server.socket_owner, new.server.socket_group),
        );
        compare(
            "the limits of [server]",
            (
                old.server.request_timeout,
                old.server.queue_length,
                old.server.max_connections,
                old.server.max_streams,
            ) == (
                new.server.request_timeout,
                new.server.queue_length,
                new.server.max_connections,
                new.server.max_streams,
            ),
        );
        compare("keyring.label", old.keyring.label == new.keyring.label);
        compare("keyring.scan-interval", old.keyring.scan_interval == new.keyring.scan_interval);
        compare("keyring.state-dir", old.keyring.state_dir == new.keyring.state_dir);
        compare("health.interval", old.health.interval == new.health.interval);
        compare("metrics.listen", old.metrics.listen == new.metrics.listen);
        compare("metrics.socket-mode", old.metrics.socket_mode == new.metrics.socket_mode);
        compare("token.workers", old.token.profile.workers == new.token.profile.workers);
        let place = |config: &Config| config.audit.as_ref().map(|audit| audit.place.clone());
        compare("audit.file", place(old) == place(&new));
        for name in fixed {
            warn!("SIGHUP: a changed {name} takes effect after a restart");
        }
        // Keys and records of one keyring are not those of another.
        new.keyring.label.clone_from(&self.config.keyring.label);
        let new_setup = setup(&new);
        self.allow.replace(new.server.allow_uids.clone(), new.server.allow_gids.clone());
        self.keyring.set(keyring_settings(&new));
        self.workers.reconfigure(new_setup);
        if let Some(audit) = &new.audit {
            self.audit.reload(audit.on_failure);
        }
        self.config = new;
        info!("SIGHUP: config and PIN are read again, the workers are being replaced");
    }
}

/// A PIN that others can get at, or a credential where there are none, is a mistake of
/// the config, to be put right before we serve. A file that is not there yet may come.
fn refuse_open_pin(config: &Config) -> Result<(), Failed> {
    match config.token.pin.check() {
        Err(
            error @ (PinError::Mode { .. }
            | PinError::Owner { .. }
            | PinError::NotAFile(_)
            | PinError::NoCredentials(_)),
        ) => Err(Failed::new(Exit::Usage, error)),
        _ => Ok(()),
    }
}
