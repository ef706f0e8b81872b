//! The configuration files of a node: containerd, its network plugin, kubelet and kube-proxy.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

/// Where a node finds what the harness wrote for it, as the node sees it.
pub(crate) const CONFIG_DIR: &str = "/var/lib/sluice-node";

/// containerd's socket, as the node sees it.
pub(crate) const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";

/// What a node's files depend on.
#[derive(Clone, Debug)]
pub(crate) struct NodeConfig {
    /// The node's name.
    pub(crate) name: String,
    /// Its address.
    pub(crate) ip: Ipv4Addr,
    /// The subnet of its pods.
    pub(crate) pod_subnet: String,
    /// All pods of the cluster.
    pub(crate) pod_cidr: String,
    /// The cluster's DNS service.
    pub(crate) dns_ip: Ipv4Addr,
    /// The kubelet's control group.
    pub(crate) cgroup: String,
    /// The image of the container that holds a pod's namespaces.
    pub(crate) pause_image: String,
}

impl NodeConfig {
    /// `containerd.toml`.
    pub(crate) fn containerd(&self) -> String {
        format!(
            r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
oom_score = 0

[grpc]
  address = "{CONTAINERD_SOCKET}"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  # Lowering the score needs CAP_SYS_RESOURCE, which machines that are containers themselves lack.
  restrict_oom_score_adj = true
  disable_apparmor = true

[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "overlayfs"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
  SystemdCgroup = false

[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/usr/lib/cni"
  conf_dir = "{CONFIG_DIR}/cni"
"#,
            pause = self.pause_image,
        )
    }

    /// The network plugin's `10-sluice.conflist`.
    pub(crate) fn cni(&self) -> Value {
        json!({
            "cniVersion": "0.4.0",
            "name": "sluice",
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": "cni0",
                    "isGateway": true,
                    "hairpinMode": true,
                    "ipam": {
                        "type": "host-local",
                        "ranges": [[{"subnet": self.pod_subnet}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                        "dataDir": "/var/lib/cni/networks",
                    },
                },
                {"type": "portmap", "capabilities": {"portMappings": true}},
            ],
        })
    }

    /// The kubelet's configuration. JSON is YAML, too.
    pub(crate) fn kubelet(&self) -> Value {
        json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": self.ip,
            "authentication": {
                "anonymous": {"enabled": false},
                "webhook": {"enabled": true},
                "x509": {"clientCAFile": format!("{CONFIG_DIR}/ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": format!("{CONFIG_DIR}/kubelet.crt"),
            "tlsPrivateKeyFile": format!("{CONFIG_DIR}/kubelet.key"),
            "readOnlyPort": 0,
            "clusterDNS": [self.dns_ip],
            "clusterDomain": "cluster.local",
            "resolvConf": format!("{CONFIG_DIR}/resolv.conf"),
            "containerRuntimeEndpoint": format!("unix://{CONTAINERD_SOCKET}"),
            "volumePluginDir": "/var/lib/kubelet/volume-plugins",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": self.cgroup,
            "failSwapOn": false,
            "failCgroupV1": false,
            // Tolerates what a kubelet cannot do on a machine that is itself a container.
            "featureGates": {"KubeletInUserNamespace": true},
            "localStorageCapacityIsolation": false,
            // All nodes share one disk and one memory: none may evict because of the others. 0 is refused.
            "evictionHard": {"memory.available": "1Mi"},
            // No registry would give a collected image back.
            "imageGCHighThresholdPercent": 100,
        })
    }

    /// kube-proxy's configuration.
    pub(crate) fn kube_proxy(&self) -> Value {
        json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "iptables",
            "clientConnection": {"kubeconfig": format!("{CONFIG_DIR}/kube-proxy.kubeconfig")},
            "clusterCIDR": self.pod_cidr,
            "hostnameOverride": self.name,
            // The machine's connection tracking limits are not ours to set.
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpCloseWaitTimeout": "0s", "tcpEstablishedTimeout": "0s"},
        })
    }
}
