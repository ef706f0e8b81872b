//! In-cluster DNS: CoreDNS as a Deployment, under the address that kubelets hand to pods.

use serde_json::{Value, json};

use crate::{address::Addresses, image};

/// There is no resolver to ask about other names: they do not exist. That takes a block of its own, because the plugin
/// would otherwise answer before the one for Kubernetes.
const COREFILE: &str = "cluster.local:1053 in-addr.arpa:1053 {
  errors
  health :8080
  ready :8181
  kubernetes cluster.local in-addr.arpa {
    ttl 1
    pods insecure
  }
}
.:1053 {
  errors
  template ANY ANY {
    rcode NXDOMAIN
  }
}
";

/// All objects, as one list for `kubectl apply`.
pub(crate) fn manifest(addresses: Addresses) -> Value {
    let labels = json!({"k8s-app": "kube-dns"});
    let named = |kind: &str, group: &str| json!({"apiVersion": group, "kind": kind, "metadata": {"name": "coredns", "namespace": "kube-system"}});
    let with = |mut object: Value, fields: Value| {
        if let (Some(object), Value::Object(fields)) = (object.as_object_mut(), fields) {
            object.extend(fields);
        }
        object
    };
    json!({"apiVersion": "v1", "kind": "List", "items": [
        named("ServiceAccount", "v1"),
        with(named("ConfigMap", "v1"), json!({"data": {"Corefile": COREFILE}})),
        {
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "system:coredns"},
            "rules": [
                {"apiGroups": [""], "resources": ["endpoints", "services", "pods", "namespaces"], "verbs": ["list", "watch"]},
                {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
            ],
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "system:coredns"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:coredns"},
            "subjects": [{"kind": "ServiceAccount", "name": "coredns", "namespace": "kube-system"}],
        },
        with(named("Deployment", "apps/v1"), json!({"spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod()},
        }})),
        {
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": labels},
            "spec": {
                "selector": labels,
                "clusterIP": addresses.dns_ip(),
                "ports": [
                    {"name": "dns", "port": 53, "targetPort": 1053, "protocol": "UDP"},
                    {"name": "dns-tcp", "port": 53, "targetPort": 1053, "protocol": "TCP"},
                ],
            },
        },
    ]})
}

fn pod() -> Value {
    json!({
        "serviceAccountName": "coredns",
        "priorityClassName": "system-cluster-critical",
        "dnsPolicy": "Default",
        // Tests that stop the node under it should not have to wait the default five minutes for DNS.
        "tolerations": [
            {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5},
            {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5},
        ],
        "containers": [{
            "name": "coredns",
            "image": image::COREDNS,
            "imagePullPolicy": "Never",
            "args": ["-conf", "/etc/coredns/Corefile"],
            "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
            "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns"}],
            "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": true},
        }],
        "volumes": [{"name": "config", "configMap": {"name": "coredns"}}],
    })
}
