#![forbid(unsafe_code)]
//! `status`: asks the running daemon how it is.

use std::error::Error;
use std::time::Duration;

use serde::Serialize;

use super::{Exit, Failed, runtime};
use crate::cli::{Cli, Dial};
use crate::client;
use crate::config::Endpoint;
use crate::health;
use crate::keyring::metrics_label;
use crate::proto::{StatusRequest, StatusResponse};
use crate::service::TOKEN_UPTIME;

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Answer {
    version: String,
    healthz: String,
    key_id: String,
    key_id_hash: Option<String>,
    token_uptime_seconds: Option<u64>,
}

pub(super) fn run(cli: &Cli, dial: &Dial) -> Result<Option<Exit>, Failed> {
    let endpoint = cli.endpoint(dial.endpoint.as_ref())?;
    let answer = runtime()?.block_on(ask(&endpoint, dial.timeout))?;
    cli.print(answer.text(), &answer)?;
    Ok((answer.healthz != health::OK).then_some(Exit::No))
}

async fn ask(endpoint: &Endpoint, time: Duration) -> Result<Answer, Failed> {
    let mut client =
        client::connect(endpoint, time).await.map_err(|error| unreachable(endpoint, &error))?;
    let response =
        client.status(StatusRequest {}).await.map_err(|status| refused(endpoint, &status))?;
    let uptime = response.metadata().get(TOKEN_UPTIME).and_then(|value| value.to_str().ok());
    let token_uptime_seconds = uptime.and_then(|seconds| seconds.parse().ok());
    let StatusResponse { version, healthz, key_id } = response.into_inner();
    let key_id_hash = (!key_id.is_empty()).then(|| metrics_label(&key_id));
    Ok(Answer { version, healthz, key_id, key_id_hash, token_uptime_seconds })
}

impl Answer {
    fn text(&self) -> String {
        let uptime =
            self.token_uptime_seconds.map_or("the token does not answer".to_owned(), |it| {
                humantime::format_duration(Duration::from_secs(it)).to_string()
            });
        let key_id = if self.key_id.is_empty() { "none" } else { &self.key_id };
        format!(
            "healthz       {}\nversion       {}\nkey_id        {key_id}\nkey_id hash   {}\ntoken uptime  {uptime}",
            self.healthz,
            self.version,
            self.key_id_hash.as_deref().unwrap_or("none"),
        )
    }
}

/// What to look at when the connection is not made, or closed at once.
const HINT: &str =
    "Is `p11-kms serve` running, and may this uid call it (server.allow-uids, the daemon's log)?";

/// Nobody answers on the socket.
pub(super) fn unreachable(endpoint: &Endpoint, error: &tonic::transport::Error) -> Failed {
    let message = format!("cannot connect to {endpoint}{}. {HINT}", causes(error.source()));
    Failed::new(Exit::Unreachable, message)
}

/// Somebody answers, and says no; or hangs up without a word.
pub(super) fn refused(endpoint: &Endpoint, status: &tonic::Status) -> Failed {
    let message = match status.source() {
        // The client's own word, when its time was up before the daemon's.
        _ if status.message().contains("Timeout expired") => format!(
            "{endpoint} did not answer in time (--timeout): the token is slow or hangs. \
             `p11-kms status` says more"
        ),
        Some(_) => format!("{endpoint} closed the connection{}. {HINT}", causes(status.source())),
        None => format!("{endpoint} answered {:?}: {}", status.code(), status.message()),
    };
    Failed::new(Exit::Unreachable, message)
}

fn causes(mut cause: Option<&(dyn Error + 'static)>) -> String {
    let mut text = String::new();
    while let Some(inner) = cause {
        // Layers that only pass an error on repeat its words.
        let words = inner.to_string();
        if !text.ends_with(&words) {
            text.push_str(&format!(": {words}"));
        }
        cause = inner.source();
    }
    text
}
