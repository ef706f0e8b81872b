//! The harness against itself: a cluster with nodes, all parts, faults, and nothing left afterwards.
//!
//! Needs root and `make tools`, and takes a minute: `cargo test --release -p sluice-e2e --test real_parts -- --ignored`.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use sluice_e2e::{
    Cluster, Options,
    cluster::down,
    parts::{
        git_server::GitServer,
        prometheus::Prometheus,
        traffic::{Outcome, Plan, Traffic},
        upstream,
    },
    process::Processes,
    state::Folder,
    wait::{Look, until},
};

const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test]
#[ignore = "needs root and the built tools"]
async fn parts_work_together() -> Result<()> {
    let mut options = Options::ephemeral("self-test", 2);
    options.audit = true;
    let group = BTreeMap::from([("node-restriction.kubernetes.io/sluice-group".to_owned(), "canary".to_owned())]);
    options.node_labels.insert("node-1".to_owned(), group);
    let cluster = Cluster::up(options).await?;

    git_takes_commits(&cluster).await?;
    prometheus_sees_the_cluster(&cluster).await?;
    traffic_counts_an_outage(&cluster).await?;
    nodes_stop_and_come_back(&cluster).await?;
    cluster.restart_api_server().await?;
    ensure!(std::fs::metadata(cluster.audit_log()?)?.len() > 0, "the audit log is empty");

    let folder = Folder::of(cluster.name())?;
    cluster.down().await?;
    ensure!(!folder.path().exists(), "the cluster's folder is left");
    ensure!(Processes::of(&folder).marked().is_empty(), "processes are left");
    // Removing what is not there is fine.
    down("self-test").await
}

async fn git_takes_commits(cluster: &Cluster) -> Result<()> {
    let git = GitServer::start(cluster).await?;
    let url = git.create("edge")?;
    let first = git.commit("edge", "staging", "Add a file", &[("workers/a.txt", Some("one"))]).await?;
    let second =
        git.commit("edge", "staging", "Replace it", &[("workers/a.txt", None), ("b.txt", Some("two"))]).await?;
    let listed = sluice_e2e::run::words(&format!("git ls-remote {url} refs/heads/staging"))?;
    ensure!(first != second && listed.starts_with(&second), "{listed}");
    Ok(())
}

async fn prometheus_sees_the_cluster(cluster: &Cluster) -> Result<()> {
    let prometheus = Prometheus::start(cluster).await?;
    cluster.apply(&metrics_pod()).await?;
    prometheus.wait_targets(1, LIMIT).await?;
    let values = prometheus.query("answer{sluice_dev_group=\"canary\"}").await?;
    ensure!(values.first().is_some_and(|value| value["value"][1] == "42"), "{values:?}");
    Ok(())
}

/// Stands in for the dataplane: same labels and annotation, one metric.
fn metrics_pod() -> serde_json::Value {
    serde_json::json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "dataplane",
            "namespace": "sluice-system",
            "labels": {"app.kubernetes.io/name": "sluice-dataplane", "sluice.dev/group": "canary"},
            "annotations": {"prometheus.io/port": "9100"},
        },
        "spec": {"containers": [{
            "name": "metrics",
            "image": sluice_e2e::image::BUSYBOX,
            "imagePullPolicy": "Never",
            "command": ["sh", "-c", "mkdir /tmp/w; echo answer 42 >/tmp/w/metrics; exec httpd -f -p 9100 -h /tmp/w"],
        }]},
    })
}

async fn traffic_counts_an_outage(cluster: &Cluster) -> Result<()> {
    upstream::deploy(cluster, "default", "shop", 2).await?;
    let ip = cluster.kubectl(&["get", "service", "shop", "--output=jsonpath={.spec.clusterIP}"]).await?;
    let address: SocketAddr = format!("{ip}:{}", upstream::PORT).parse()?;
    let mut plan = Plan::new(vec![address], "shop.example.com");
    plan.keep_headers.push("x-upstream".to_owned());
    let traffic = Traffic::start(plan)?;
    let seen = |status: u16| {
        let traffic = &traffic;
        until("an answer with this status", LIMIT, move || async move {
            let outcomes = traffic.report().outcomes();
            Ok(match outcomes.get(&Outcome::Status(status)) {
                Some(_) => Look::Done(()),
                None => Look::NotYet(format!("{outcomes:?}")),
            })
        })
    };
    seen(200).await?;
    upstream::set_status(cluster, "default", "shop", 503).await?;
    seen(503).await?;
    upstream::set_status(cluster, "default", "shop", 200).await?;
    let report = traffic.stop().await?;
    ensure!(!report.failures().is_empty(), "the outage was not counted");
    ensure!(report.values_of("x-upstream").contains_key("yes"), "the header was not kept");
    Ok(())
}

async fn nodes_stop_and_come_back(cluster: &Cluster) -> Result<()> {
    cluster.stop_node("node-2")?;
    cluster.wait_node("node-2", false).await?;
    cluster.start_node("node-2").await?;
    let added = cluster.add_node().await?;
    ensure!(cluster.node_names().await?.contains(&added));
    cluster.remove_node(&added).await?;
    let listed = cluster.kubectl(&["get", "nodes", "--output=name"]).await?;
    ensure!(listed.lines().count() == 2, "{listed}");
    let labelled =
        cluster.kubectl(&["get", "nodes", "-l", "node-restriction.kubernetes.io/sluice-group=canary", "-o", "name"]);
    let labelled = labelled.await.context("the label")?;
    ensure!(labelled.trim() == "node/node-1", "{labelled}");
    Ok(())
}
