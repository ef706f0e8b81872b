//! The chart's admission policies on a real API server: a node reports for itself alone, only the operator writes what
//! is the operator's, and people's orders say who gives them. Each refusal says what to do instead.

use std::{path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, Client, Config,
    api::{Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use sluice_crds::{Assignment, DataplaneNode, Revision, Rollout, Unit};
use sluice_e2e::{
    Cluster, Options, run, tools,
    wait::{Look, until},
};

const SYSTEM: &str = "sluice-system";
const TEAM: &str = "edge-team";
const ROLLOUT: &str = "hello-w-pr-9f2c1a77-1";
const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn admission_lets_each_write_what_is_theirs() -> Result<()> {
    let cluster = Cluster::up(Options::ephemeral("chart-admission", 0)).await?;
    install(&cluster).await?;
    let operator = as_user(&cluster, "system:serviceaccount:sluice-system:sluice-operator").await?;
    let admin = cluster.client().await?;

    policies_are_in_force(&admin).await?;
    only_the_operator_creates(&admin, &operator).await?;
    only_the_operator_changes(&admin, &operator).await?;
    a_node_reports_for_itself(&cluster, &admin, &operator).await?;
    orders_say_who_gives_them(&cluster, &operator).await?;
    named_users_may_restore(&cluster, &admin).await?;
    cluster.down().await
}

async fn install(cluster: &Cluster) -> Result<()> {
    for name in [SYSTEM, TEAM] {
        cluster.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})).await?;
    }
    helm(cluster, "install", &[]).await
}

/// Policies take a moment to reach the API server's admission.
async fn policies_are_in_force(admin: &Client) -> Result<()> {
    let api: Api<Assignment> = Api::all(admin.clone());
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    until("the policies to be in force", LIMIT, || async {
        Ok(match api.create(&dry, &parsed(assignment())?).await {
            Err(error) if error.to_string().contains("sluice-operator-writes") => Look::Done(()),
            Err(error) => Look::NotYet(error.to_string()),
            Ok(_) => Look::NotYet("an Assignment of anybody is let in".into()),
        })
    })
    .await
}

async fn only_the_operator_creates(admin: &Client, operator: &Client) -> Result<()> {
    let all = |client: &Client| client.clone();
    for client in [admin, operator] {
        let theirs = std::ptr::eq(client, operator);
        let assignment = create::<Assignment>(Api::all(all(client)), assignment()).await;
        check(theirs, assignment, "merge to the branch to change it")?;
        for node in ["node-1", "node-2"] {
            let created = create::<DataplaneNode>(Api::all(all(client)), dataplane_node(node)).await;
            check(theirs, created, "label the Node to put it into a group")?;
        }
        let rollout = create::<Rollout>(Api::namespaced(all(client), TEAM), rollout()).await;
        check(theirs, rollout, "only the operator starts rollouts")?;
        let unit = create::<Unit>(Api::namespaced(all(client), TEAM), unit()).await;
        check(theirs, unit, "this is what the operator remembers")?;
        let revision = create::<Revision>(Api::namespaced(all(client), TEAM), revision()).await;
        check(theirs, revision, "push a commit instead")?;
    }
    Ok(())
}

async fn only_the_operator_changes(admin: &Client, operator: &Client) -> Result<()> {
    let spec = json!({"spec": {"repository": "other"}});
    let status = json!({"status": {"phase": "Succeeded"}});
    for client in [admin, operator] {
        let theirs = std::ptr::eq(client, operator);
        let units: Api<Unit> = Api::namespaced(client.clone(), TEAM);
        let changed = units.patch("hello-w", &PatchParams::default(), &Patch::Merge(&spec)).await;
        check(theirs, changed, "this is what the operator remembers")?;
        let rollouts: Api<Rollout> = Api::namespaced(client.clone(), TEAM);
        let changed = rollouts.patch_status(ROLLOUT, &PatchParams::default(), &Patch::Merge(&status)).await;
        check(theirs, changed, "only it writes that")?;
    }
    // Kubernetes' own controllers change metadata: finalizers, for example.
    let units: Api<Unit> = Api::namespaced(admin.clone(), TEAM);
    let labels = json!({"metadata": {"labels": {"note": "x"}}});
    check(true, units.patch("hello-w", &PatchParams::default(), &Patch::Merge(&labels)).await, "")
}

async fn a_node_reports_for_itself(cluster: &Cluster, admin: &Client, operator: &Client) -> Result<()> {
    let nodes: Api<Node> = Api::all(admin.clone());
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"}});
    nodes.create(&PostParams::default(), &parsed(node)?).await?;
    let pods: Api<Pod> = Api::namespaced(admin.clone(), SYSTEM);
    pods.create(&PostParams::default(), &parsed(dataplane_pod())?).await?;
    let bound = [
        "create",
        "token",
        "sluice-dataplane",
        "-n",
        SYSTEM,
        "--bound-object-kind=Pod",
        "--bound-object-name=dataplane-1",
    ];
    let on_node_1 = with_token(cluster, &cluster.kubectl(&bound).await?).await?;
    let nowhere = with_token(cluster, &cluster.kubectl(&bound[..5]).await?).await?;

    check(true, report(&on_node_1, "node-1").await, "")?;
    check(
        false,
        report(&on_node_1, "node-2").await,
        "a dataplane on node node-1 reports for that node alone, not for node-2",
    )?;
    check(false, report(&nowhere, "node-1").await, "this token names no node")?;
    check(false, report(admin, "node-1").await, "only the dataplane on a node reports what the node runs")?;
    // Roles keep the rest from a node.
    let nodes: Api<DataplaneNode> = Api::all(on_node_1.clone());
    let spec = json!({"spec": {"group": "other"}});
    check(false, nodes.patch("node-1", &PatchParams::default(), &Patch::Merge(&spec)).await, "cannot patch")?;
    check(false, report(operator, "node-1").await, "cannot patch")
}

async fn report(client: &Client, node: &str) -> kube::Result<DataplaneNode> {
    let api: Api<DataplaneNode> = Api::all(client.clone());
    api.patch_status(node, &PatchParams::default(), &Patch::Merge(json!({"status": {"appliedGeneration": 1}}))).await
}

async fn orders_say_who_gives_them(cluster: &Cluster, operator: &Client) -> Result<()> {
    for (user, role) in [("alice", "edit"), ("olga", "admin"), ("victor", "view")] {
        cluster.kubectl(&["-n", TEAM, "create", "rolebinding", user, "--clusterrole", role, "--user", user]).await?;
    }
    let (alice, olga, victor) =
        (user(cluster, "alice").await?, user(cluster, "olga").await?, user(cluster, "victor").await?);
    roles_are_aggregated(&alice).await?;

    check(true, order(&alice, json!({"pause": {"by": "alice", "reason": "looks odd"}})).await, "")?;
    check(true, order(&alice, json!({"pause": null})).await, "")?;
    check(
        false,
        order(&alice, json!({"abort": {"by": "bob", "reason": "x"}})).await,
        "set spec.abort.by to \"alice\"",
    )?;
    check(false, order(&alice, json!({"retry": {"reason": "x"}})).await, "set spec.retry.by to \"alice\"")?;
    check(
        false,
        order(&alice, json!({"approve": {"by": "alice", "reason": "x"}})).await,
        "alice may not approve rollouts",
    )?;
    check(false, order(&olga, json!({"approve": {"by": "olga"}})).await, "say why in spec.approve.reason")?;
    check(true, order(&olga, json!({"approve": {"by": "olga", "reason": "hotfix"}})).await, "")?;
    // What stands there may stay while another gives another order.
    check(true, order(&alice, json!({"abort": {"by": "alice", "reason": "x"}})).await, "")?;
    check(
        false,
        order(&alice, json!({"commit": "f00d"})).await,
        "only pause, approve, abort, retry and rollback may be changed",
    )?;
    check(false, order(&victor, json!({"pause": {"by": "victor"}})).await, "cannot patch")?;
    let rollback = |by: &str| json!({"rollback": {"by": by, "reason": "carts are lost"}});
    phase(operator, "Progressing").await?;
    check(false, order(&alice, rollback("alice")).await, "only what succeeded can be rolled back: set spec.abort")?;
    phase(operator, "Succeeded").await?;
    check(false, order(&alice, rollback("bob")).await, "set spec.rollback.by to \"alice\"")?;
    check(true, order(&alice, rollback("alice")).await, "")?;
    check(true, order(operator, json!({"pause": {"by": "sluice"}})).await, "")
}

async fn phase(operator: &Client, phase: &str) -> kube::Result<Rollout> {
    let rollouts: Api<Rollout> = Api::namespaced(operator.clone(), TEAM);
    let patch = Patch::Merge(json!({"status": {"phase": phase}}));
    rollouts.patch_status(ROLLOUT, &PatchParams::default(), &patch).await
}

/// The controller manager adds our roles to edit and admin in its own time.
async fn roles_are_aggregated(alice: &Client) -> Result<()> {
    let rollouts: Api<Rollout> = Api::namespaced(alice.clone(), TEAM);
    let dry = PatchParams { dry_run: true, ..PatchParams::default() };
    until("the role edit to include rollouts", LIMIT, || async {
        let patch = Patch::Merge(json!({"spec": {"pause": {"by": "alice"}}}));
        Ok(match rollouts.patch(ROLLOUT, &dry, &patch).await {
            Ok(_) => Look::Done(()),
            Err(error) => Look::NotYet(error.to_string()),
        })
    })
    .await
}

async fn order(client: &Client, orders: Value) -> kube::Result<Rollout> {
    let rollouts: Api<Rollout> = Api::namespaced(client.clone(), TEAM);
    rollouts.patch(ROLLOUT, &PatchParams::default(), &Patch::Merge(json!({"spec": orders}))).await
}

async fn named_users_may_restore(cluster: &Cluster, admin: &Client) -> Result<()> {
    helm(cluster, "upgrade", &["--set", "admissionPolicies.alsoAllow.users={admin}"]).await?;
    let units: Api<Unit> = Api::namespaced(admin.clone(), TEAM);
    let patch = Patch::Merge(json!({"spec": {"repository": "restored"}}));
    until("the policies to know the named user", LIMIT, || async {
        Ok(match units.patch("hello-w", &PatchParams::default(), &patch).await {
            Ok(_) => Look::Done(()),
            Err(error) => Look::NotYet(error.to_string()),
        })
    })
    .await
}

/// Whether a write went as it should; a refusal must say `why`.
fn check<T>(allowed: bool, result: kube::Result<T>, why: &str) -> Result<()> {
    match (allowed, result) {
        (true, Ok(_)) => Ok(()),
        (true, Err(error)) => Err(error).context("should be allowed"),
        (false, Ok(_)) => bail!("should be refused because: {why}"),
        (false, Err(error)) => {
            ensure!(error.to_string().contains(why), "refused, but not because `{why}`: {error}");
            Ok(())
        }
    }
}

async fn create<K>(api: Api<K>, object: Value) -> kube::Result<K>
where
    K: Clone + std::fmt::Debug + Serialize + DeserializeOwned,
{
    let object = serde_json::from_value(object).map_err(kube::Error::SerdeError)?;
    api.create(&PostParams::default(), &object).await
}

fn parsed<K: DeserializeOwned>(object: Value) -> Result<K> {
    Ok(serde_json::from_value(object)?)
}

fn object(kind: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "sluice.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

fn assignment() -> Value {
    let spec = json!({"format": 1, "environment": "production", "generation": 1, "stages": ["edge"], "entries": ""});
    object("Assignment", "canary", &spec)
}

fn dataplane_node(name: &str) -> Value {
    object("DataplaneNode", name, &json!({"group": "canary"}))
}

fn rollout() -> Value {
    let units = json!([{"kind": "Worker", "name": "hello"}]);
    let spec = json!({"environment": "production", "title": "hello", "revision": "9f2c1a77", "attempt": 1, "commit": "c0ffee", "units": units});
    object("Rollout", ROLLOUT, &spec)
}

fn unit() -> Value {
    object("Unit", "hello-w", &json!({"kind": "Worker", "name": "hello", "repository": "edge"}))
}

fn revision() -> Value {
    let content = json!({"config": {"data": {}}});
    let content = json!({"format": 1, "kind": "Config", "name": "flags", "staging": content, "production": content});
    let source = json!({"repository": "edge", "commit": "c0ffee", "path": "config/flags.yaml"});
    object(
        "Revision",
        "flags-c-9f2c1a779f2c1a77",
        &json!({"digest": "9f2c1a77".repeat(8), "content": content, "source": source}),
    )
}

/// Nothing runs it here; a token can be bound to it, as a kubelet would ask for.
fn dataplane_pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "dataplane-1"},
        "spec": {"serviceAccountName": "sluice-dataplane", "nodeName": "node-1", "containers": [{"name": "x", "image": "x"}]},
    })
}

async fn config(cluster: &Cluster) -> Result<Config> {
    let file = Kubeconfig::read_from(cluster.kubeconfig_path())?;
    Ok(Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?)
}

async fn as_user(cluster: &Cluster, name: &str) -> Result<Client> {
    let mut config = config(cluster).await?;
    config.auth_info.impersonate = Some(name.to_owned());
    Ok(Client::try_from(config)?)
}

async fn with_token(cluster: &Cluster, token: &str) -> Result<Client> {
    let mut config = config(cluster).await?;
    config.auth_info = parsed(json!({"token": token.trim()}))?;
    Ok(Client::try_from(config)?)
}

async fn user(cluster: &Cluster, name: &str) -> Result<Client> {
    let file = Kubeconfig::read_from(cluster.user_kubeconfig(name, &[])?)?;
    Ok(Client::try_from(Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?)?)
}

async fn helm(cluster: &Cluster, verb: &str, options: &[&str]) -> Result<()> {
    let chart = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../charts/sluice");
    let mut command = Command::new(tools::built("helm")?);
    command.args([verb, "sluice", "-n", SYSTEM]).arg(chart).arg("--kubeconfig").arg(cluster.kubeconfig_path());
    command.args(options);
    run::output_later(command, None).await.map(drop)
}
