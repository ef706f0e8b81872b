//! The bridge that joins the nodes to the machine, the nodes' cables, and the routes between pods.

use std::fs;

use anyhow::Result;

use crate::{address::Addresses, run};

fn exists(device: &str) -> bool {
    fs::exists(format!("/sys/class/net/{device}")).unwrap_or(false)
}

/// Makes the bridge, with the machine's address on it.
pub(crate) fn make_bridge(addresses: Addresses) -> Result<()> {
    let bridge = addresses.bridge();
    if !exists(&bridge) {
        run::words(&format!("ip link add {bridge} type bridge"))?;
    }
    run::words(&format!("ip address replace {}/24 dev {bridge}", addresses.bridge_ip()))?;
    run::words(&format!("ip link set {bridge} up"))?;
    Ok(())
}

/// Connects a node, given by the pid of a process inside it, to the bridge, and gives it its address.
pub(crate) fn connect(addresses: Addresses, index: u8, pid: i32) -> Result<()> {
    let (bridge, cable, ip) = (addresses.bridge(), addresses.cable(index), addresses.node_ip(index));
    if !exists(&cable) {
        run::words(&format!("ip link add {cable} type veth peer name eth0 netns {pid}"))?;
    }
    run::words(&format!("ip link set {cable} master {bridge} up"))?;
    let inside = format!("nsenter --target {pid} --net --");
    run::words(&format!("{inside} ip link set lo up"))?;
    run::words(&format!("{inside} ip address replace {ip}/24 dev eth0"))?;
    run::words(&format!("{inside} ip link set eth0 up"))?;
    run::words(&format!("{inside} ip route replace default via {}", addresses.bridge_ip()))?;
    run::words(&format!("{inside} sysctl -q -w net.ipv4.ip_forward=1"))?;
    // Pods of one node that reach each other through a service must pass the node's own address translation.
    run::words(&format!("{inside} sysctl -q -w net.bridge.bridge-nf-call-iptables=1"))?;
    Ok(())
}

/// Tells the machine and every node where each node's pods are. The first node also carries services for the machine,
/// so that the API server (webhooks) and tests reach them.
pub(crate) fn join_pods(addresses: Addresses, nodes: &[(u8, Option<i32>)]) -> Result<()> {
    for (index, _) in nodes {
        let (pods, via) = (addresses.pod_subnet(*index), addresses.node_ip(*index));
        run::words(&format!("ip route replace {pods} via {via}"))?;
        for (_, pid) in nodes.iter().filter(|(other, _)| other != index) {
            if let Some(pid) = pid {
                run::words(&format!("nsenter --target {pid} --net -- ip route replace {pods} via {via}"))?;
            }
        }
    }
    if let Some((first, _)) = nodes.iter().find(|(_, pid)| pid.is_some()) {
        let services = addresses.service_cidr();
        run::words(&format!("ip route replace {services} via {}", addresses.node_ip(*first)))?;
    }
    Ok(())
}

/// Plugs a node's cable in or out: out is a network partition, as the node sees it.
pub(crate) fn plug(addresses: Addresses, index: u8, connected: bool) -> Result<()> {
    let direction = if connected { "up" } else { "down" };
    run::words(&format!("ip link set {} {direction}", addresses.cable(index)))?;
    Ok(())
}

/// Removes a node's cable, if there is one.
pub(crate) fn disconnect(addresses: Addresses, index: u8) -> Result<()> {
    let cable = addresses.cable(index);
    if exists(&cable) {
        run::words(&format!("ip link delete {cable}"))?;
    }
    Ok(())
}

/// All bridges and cables of this slot.
pub(crate) fn devices(addresses: Addresses) -> Vec<String> {
    let (bridge, cables) = (addresses.bridge(), format!("{}n", addresses.bridge()));
    all_devices().into_iter().filter(|device| *device == bridge || device.starts_with(&cables)).collect()
}

/// All bridges and cables of any slot.
pub(crate) fn all_devices() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/sys/class/net") else { return Vec::new() };
    let mut devices: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|device| {
            device.strip_prefix("sluice").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        })
        .collect();
    devices.sort();
    devices
}

/// Removes the bridge and all cables; the machine's routes go with them.
pub(crate) fn remove(addresses: Addresses) -> Result<()> {
    for device in devices(addresses) {
        // A cable also goes by itself when its node's namespace ends, perhaps just now.
        if let Err(error) = run::words(&format!("ip link delete {device}"))
            && exists(&device)
        {
            return Err(error);
        }
    }
    Ok(())
}
