//! The addresses and device names of a cluster, all derived from its slot so that clusters run side by side.

use std::net::Ipv4Addr;

/// How many clusters can run at once.
pub const SLOTS: u8 = 32;

/// How many nodes a cluster can have: each has a /24 of the pods' /18.
pub const NODES_MAX: u8 = 60;

/// The port that every API server listens on; its address tells clusters apart.
pub const API_SERVER_PORT: u16 = 6443;

/// Everything that follows from a slot number: `10.<200 + slot>.0.0/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    slot: u8,
}

impl Addresses {
    /// The addresses of one slot.
    pub fn new(slot: u8) -> Self {
        Self { slot }
    }

    fn ip(self, third: u8, fourth: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 200 + self.slot, third, fourth)
    }

    /// The bridge that joins the nodes; the machine's own address on it is [`Self::bridge_ip`].
    pub fn bridge(self) -> String {
        format!("sluice{}", self.slot)
    }

    /// The machine's end of a node's cable.
    pub fn cable(self, index: u8) -> String {
        format!("sluice{}n{index}", self.slot)
    }

    /// Where the API server and the parts (git, Prometheus) listen.
    pub fn bridge_ip(self) -> Ipv4Addr {
        self.ip(0, 1)
    }

    /// A node's address; the first index is 1.
    pub fn node_ip(self, index: u8) -> Ipv4Addr {
        self.ip(0, 10 + index)
    }

    /// The subnet of a node's pods.
    pub fn pod_subnet(self, index: u8) -> String {
        format!("{}/24", self.ip(64 + index, 0))
    }

    /// All pods.
    pub fn pod_cidr(self) -> String {
        format!("{}/18", self.ip(64, 0))
    }

    /// All services.
    pub fn service_cidr(self) -> String {
        format!("{}/20", self.ip(128, 0))
    }

    /// The service `kubernetes.default`.
    pub fn api_service_ip(self) -> Ipv4Addr {
        self.ip(128, 1)
    }

    /// The cluster's DNS service.
    pub fn dns_ip(self) -> Ipv4Addr {
        self.ip(128, 10)
    }

    /// etcd has no authentication, so it listens where pods cannot reach it.
    pub fn etcd_ip(self) -> Ipv4Addr {
        Ipv4Addr::new(127, 222, self.slot, 1)
    }

    /// Whether a line of `ip route` already uses this slot's network.
    pub fn overlaps(self, route: &str) -> bool {
        route.starts_with(&format!("10.{}.", 200 + u16::from(self.slot)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_share_nothing() {
        let (first, second) = (Addresses::new(0), Addresses::new(1));
        assert_eq!(first.bridge_ip().to_string(), "10.200.0.1");
        assert_eq!(second.pod_subnet(3), "10.201.67.0/24");
        assert_ne!(first.bridge(), second.bridge());
        assert!(second.overlaps("10.201.0.0/24 dev sluice1"));
        assert!(!second.overlaps("10.20.1.0/24 dev eth0"));
    }

    #[test]
    fn device_names_fit_the_kernels_limit() {
        let addresses = Addresses::new(SLOTS - 1);
        assert!(addresses.cable(NODES_MAX).len() <= 15);
        const { assert!(64 + NODES_MAX < 128, "pods stay below the services") };
    }
}
