#![forbid(unsafe_code)]
//! `encryption-config`: what kube-apiserver must be told.

use serde::Serialize;

use super::Failed;
use crate::cli::{Cli, EncryptionConfig};

/// The client's default; a slower token needs more.
const CLIENT_TIMEOUT: &str = "3s";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    api_version: &'static str,
    kind: &'static str,
    resources: Vec<Rule>,
}

#[derive(Serialize)]
struct Rule {
    resources: Vec<String>,
    providers: Vec<Provider>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum Provider {
    #[serde(rename_all = "camelCase")]
    Kms {
        api_version: &'static str,
        name: String,
        endpoint: String,
        timeout: &'static str,
    },
    Identity {},
}

pub(super) fn run(cli: &Cli, wanted: &EncryptionConfig) -> Result<(), Failed> {
    let endpoint = cli.endpoint(wanted.endpoint.as_ref())?.to_string();
    let kms = Provider::Kms {
        api_version: "v2",
        name: wanted.name.clone(),
        endpoint,
        timeout: CLIENT_TIMEOUT,
    };
    let mut providers = vec![kms];
    if !wanted.no_identity {
        // Reads what is not encrypted yet; writes go to the first provider.
        providers.push(Provider::Identity {});
    }
    let document = Document {
        api_version: "apiserver.config.k8s.io/v1",
        kind: "EncryptionConfiguration",
        resources: vec![Rule { resources: wanted.resources.clone(), providers }],
    };
    cli.print(yaml(&document), &document)
}

/// YAML in the shape that people know; strings are quoted as in JSON, which is
/// YAML too.
fn yaml(document: &Document) -> String {
    let mut text =
        format!("apiVersion: {}\nkind: {}\nresources:", document.api_version, document.kind);
    for rule in &document.resources {
        text.push_str("\n  - resources:");
        for resource in &rule.resources {
            text.push_str(&format!("\n      - {resource:?}"));
        }
        text.push_str("\n    providers:");
        for provider in &rule.providers {
            match provider {
                Provider::Kms { api_version, name, endpoint, timeout } => {
                    text.push_str(&format!(
                        "\n      - kms:\n          apiVersion: {api_version}\n          name: {name:?}\n          \
                         endpoint: {endpoint:?}\n          timeout: {timeout}"
                    ));
                }
                Provider::Identity {} => text.push_str("\n      - identity: {}"),
            }
        }
    }
    text
}
