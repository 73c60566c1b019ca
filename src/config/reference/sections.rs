//! The sections and their own keys. `[token]` takes every key of a profile as well.

#![forbid(unsafe_code)]

use super::{Key, Section};

/// Every section of a configuration.
pub const SECTIONS: &[Section] = &[
    Section { name: "token", keys: TOKEN },
    Section { name: "keyring", keys: KEYRING },
    Section { name: "server", keys: SERVER },
    Section { name: "health", keys: HEALTH },
    Section { name: "metrics", keys: METRICS },
    Section { name: "audit", keys: AUDIT },
    Section { name: "etcd", keys: ETCD },
];

const TOKEN: &[Key] = keys! {
    /// absolute path of the PKCS#11 module
    "module": "must be set";
    /// which token, by RFC 7512: one or more of `token`, `serial`, `manufacturer`, `model`,
    /// `slot-id`, such as `"pkcs11:token=k8s;serial=56158b290fcda51b"`. Exactly one token must fit
    "uri": "must be set";
    /// absolute path of a file that holds the user PIN and at most one newline
    "pin-file": "one of the two must be set";
    /// name of a systemd credential that holds it: the file of that name in
    /// `$CREDENTIALS_DIRECTORY`
    "pin-credential": "one of the two must be set";
    /// name of a built-in profile, or the path of a file (with a `/` in it)
    "profile" = "generic";
    /// refuse the method `ecb`, where the host does a part of the wrapping
    "require-fips" = false;
    /// take a KEK that could leave the token. For tests
    "allow-weak-kek" = false;
    /// take every KEK that was brought onto the token from elsewhere, not only those that the
    /// record knows from `key import`. For tokens that store no data objects, and for keys that
    /// another tool brought: [rotation.md](rotation.md#a-kek-that-is-made-elsewhere)
    "allow-imported-kek" = false;
};

const KEYRING: &[Key] = keys! {
    /// KEKs are the AES-256 keys labelled `LABEL-0001`, `LABEL-0002`, ...; a key with exactly this
    /// label is generation 0
    "label" = "k8s-kek";
    /// how often to look for new KEKs, 1s to 1h
    "scan-interval" = "10s";
    /// how long a new KEK must be in view before it is written with, 0s to 24h; each node counts
    /// for itself. Keep it longer than `scan-interval`, so that all nodes have seen a KEK before
    /// one writes with it
    "activation-delay" = "60s";
    /// absolute path of the directory where the daemon keeps which KEK is active, a file for each
    /// label and token, so that it never goes back to an older one. Made (mode 0700) if it is not
    /// there; it must belong to the daemon's user, nobody else may write to it, and it must survive
    /// a restart
    "state-dir" = "/var/lib/p11-kms";
    /// puts an older KEK back: `{ generation = 1, epoch = 1 }`. The epoch is 1 to 63 and higher
    /// than any before. In the environment: `generation=1,epoch=1`
    "reinstate": "none";
};

const SERVER: &[Key] = keys! {
    /// the socket, as kube-apiserver writes it; `"unix:///@name"` for an abstract one
    "endpoint" = "unix:///run/p11-kms/kms.sock";
    /// permissions of the socket; others never get any
    "socket-mode" = "0600";
    /// owner of the socket, by name or number
    "socket-owner": "the daemon's user";
    /// group of the socket, by name or number
    "socket-group": "the daemon's group";
    /// users that may call, by the kernel's word. None for an abstract socket: there a list must be
    /// set
    "allow-uids" = [0];
    /// groups that may call
    "allow-gids" = [];
    /// the longest that a call may take if its caller does not say less, 100ms to 1m
    "request-timeout" = "3s";
    /// calls that wait for the token, 1 to 1000000; more are refused at once
    "queue-length" = 8192;
    /// connections at a time, 1 to 65536
    "max-connections" = 64;
    /// calls at a time on one connection, 1 to 65536
    "max-streams" = 16384;
    /// KMS v1: not available in this version, only `false` is taken
    "v1beta1" = false;
};

const HEALTH: &[Key] = keys! {
    /// how often the token is tried with a wrap and an unwrap, 1s to 10m
    "interval" = "10s";
};

const METRICS: &[Key] = keys! {
    /// `"127.0.0.1:9807"`, `"[::1]:9807"` or `"unix:///run/p11-kms/metrics.sock"`. Addresses that
    /// other machines can reach are refused, and so are names and abstract sockets. Nothing is
    /// counted unless it is set. With port 0 the system chooses one, and the log says which
    "listen": "none";
    /// permission bits of that Unix socket; others never get any. The rules for the directory are
    /// those of `server.endpoint`
    "socket-mode" = "0660";
};

const AUDIT: &[Key] = keys! {
    /// absolute path of the audit log, or `"journal"`; without it there is none. Its directory must
    /// be there, and the daemon's user must be able to write to both. `audit.head` in
    /// `keyring.state-dir` belongs to it
    "file": "none";
    /// what is refused while a line cannot be written: `"refuse"`: Encrypts, and commands that
    /// change the token; `"refuse-all"`: Decrypts too; `"continue"`: nothing
    "on-failure": "`\"refuse\"`";
};

const ETCD: &[Key] = keys! {
    /// members of the etcd cluster: `["https://10.0.0.1:2379", "https://10.0.0.2:2379"]`, or one
    /// text with commas. The next one is asked when one fails. Without `https://` or `http://`
    /// there is TLS if `cacert` or `cert` is set
    "endpoints" = [];
    /// absolute path of the CA that signed etcd's certificate (PEM); needed for TLS
    "cacert": "none";
    /// absolute path of the client certificate (PEM)
    "cert": "none";
    /// absolute path of that certificate's key (PEM)
    "key": "none";
    /// absolute path of a file that `etcdctl snapshot save` wrote, instead of `endpoints`. A copy of
    /// etcd's `member/snap/db`, made while etcd stood still, works too, but has no checksum
    "snapshot": "none";
    /// kube-apiserver's `--etcd-prefix`
    "prefix" = "/registry";
};
