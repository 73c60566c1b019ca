//! Which resource the object at a key of etcd is.

#![forbid(unsafe_code)]

use std::borrow::Cow;

/// Resources that are stored under other words than the API has for them
/// (k8s.io/kubernetes, the special prefixes of its storage).
const OTHER_WORDS: &[(&str, Option<&str>, &str)] = &[
    ("controllers", None, "replicationcontrollers"),
    ("ingress", None, "ingresses"),
    ("minions", None, "nodes"),
    ("services", Some("endpoints"), "endpoints"),
    ("services", Some("specs"), "services"),
];

/// The resource of a key, given without the prefix and the slash behind that.
///
/// kube-apiserver stores its own resources without their group (`secrets/NAMESPACE/NAME`,
/// `deployments/...`), and those that a group serves for itself, custom resources
/// among them, below it (`example.com/widgets/...`, `apiregistration.k8s.io/apiservices/...`):
/// these become `widgets.example.com`. No resource has a dot in its name, every such
/// group has one. What kube-apiserver keeps for itself (`ranges`, `masterleases`,
/// `peerserverleases`) goes by the path's own word.
pub(super) fn of(key: &[u8]) -> Cow<'_, str> {
    let mut words = key.splitn(3, |byte| *byte == b'/').map(String::from_utf8_lossy);
    let first = words.next().unwrap_or_default();
    let second = words.next();
    if first.contains('.') {
        return match second {
            Some(second) if !second.is_empty() => Cow::Owned(format!("{second}.{first}")),
            _ => first,
        };
    }
    let known = OTHER_WORDS.iter().find(|(stored, below, _)| {
        *stored == first && below.is_none_or(|below| second.as_deref() == Some(below))
    });
    known.map_or(first, |(_, _, resource)| Cow::Borrowed(*resource))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_layout_of_kube_apiserver() {
        for (key, resource) in [
            ("secrets/default/token", "secrets"),
            ("configmaps/kube-system/kube-root-ca.crt", "configmaps"),
            ("deployments/default/web", "deployments"),
            ("leases/kube-node-lease/node-1", "leases"),
            ("services/specs/default/kubernetes", "services"),
            ("services/endpoints/default/kubernetes", "endpoints"),
            ("services/else", "services"),
            ("minions/node-1", "nodes"),
            ("controllers/default/web", "replicationcontrollers"),
            ("ingress/default/web", "ingresses"),
            ("ranges/serviceips", "ranges"),
            ("masterleases/10.0.0.1", "masterleases"),
            ("peerserverleases/apiserver-abc", "peerserverleases"),
            ("apps.example.com/widgets/default/w", "widgets.apps.example.com"),
            ("apiregistration.k8s.io/apiservices/v1.", "apiservices.apiregistration.k8s.io"),
            ("example.com/widgets", "widgets.example.com"),
            ("example.com/", "example.com"),
            ("example.com", "example.com"),
            ("secrets", "secrets"),
            ("", ""),
        ] {
            assert_eq!(of(key.as_bytes()), resource, "{key}");
        }
    }

    proptest! {
        #[test]
        fn any_key_has_one(key: Vec<u8>) {
            let _ = of(&key);
        }

        #[test]
        fn namespace_and_name_make_no_difference(resource in "[a-z]{1,20}", rest in "[a-z./-]{0,40}") {
            let key = format!("pods/{rest}");
            prop_assert_eq!(of(key.as_bytes()), "pods");
            let key = format!("group.example/{resource}/{rest}");
            prop_assert_eq!(of(key.as_bytes()), format!("{resource}.group.example"));
        }
    }
}
