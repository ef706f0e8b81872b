//! The chart on a real API server: everything that it renders is accepted under the restricted profile, roles allow
//! what they should and no more, an upgrade changes what was asked, and an uninstall leaves what Sluice remembers.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::{
    api::{
        admissionregistration::v1::ValidatingAdmissionPolicy,
        apps::v1::{DaemonSet, Deployment},
        core::v1::{ConfigMap, Pod, PodTemplateSpec},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, ResourceExt,
    api::{ListParams, PostParams},
};
use serde_json::{Value, json};
use sluice_crds::Repository;
use sluice_e2e::{
    Cluster, Options, run, tools,
    wait::{Look, until},
};

const SYSTEM: &str = "sluice-system";
const LIMIT: Duration = Duration::from_secs(60);
const OPERATOR: &str = "system:serviceaccount:sluice-system:sluice-operator";
const DATAPLANE: &str = "system:serviceaccount:sluice-system:sluice-dataplane";

#[tokio::test]
async fn the_chart_installs_upgrades_and_leaves_what_it_remembers() -> Result<()> {
    let cluster = Cluster::up(Options::ephemeral("chart-install", 0)).await?;
    cluster.apply(&namespace(SYSTEM, "restricted")).await?;
    cluster.apply(&namespace("edge-team", "restricted")).await?;

    every_values_file_is_accepted(&cluster).await?;
    helm(&cluster, &["install", "--create-namespace"]).await?;
    operator_pods_are_admitted(&cluster, 2).await?;
    policies_pass_the_type_check(&cluster).await?;
    host_ports_alone_break_the_restricted_profile(&cluster).await?;
    roles_allow_what_they_should(&cluster).await?;
    explanations_read_well(&cluster).await?;

    cluster.apply(&repository()).await?;
    helm(&cluster, &["upgrade", "--set", "operator.replicas=3"]).await?;
    operator_pods_are_admitted(&cluster, 3).await?;

    helm(&cluster, &["uninstall"]).await?;
    what_sluice_remembers_is_left(&cluster).await?;
    helm(&cluster, &["install"]).await?;
    cluster.down().await
}

async fn operator_pods_are_admitted(cluster: &Cluster, count: usize) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(cluster.client().await?, SYSTEM);
    let selector = ListParams::default().labels("app.kubernetes.io/component=operator");
    // No node here could run them; that they exist shows that the namespace's profile lets them in.
    until(&format!("{count} pods of the operator"), LIMIT, || async {
        let found = pods.list(&selector).await?.items.len();
        Ok(if found == count { Look::Done(()) } else { Look::NotYet(format!("there are {found}")) })
    })
    .await
}

async fn policies_pass_the_type_check(cluster: &Cluster) -> Result<()> {
    let api: Api<ValidatingAdmissionPolicy> = Api::all(cluster.client().await?);
    until("the policies to be checked", LIMIT, || async {
        let policies = api.list(&ListParams::default()).await?.items;
        ensure!(policies.len() == 4, "{} policies", policies.len());
        for policy in policies {
            let name = policy.name_any();
            let Some(checked) = policy.status.and_then(|s| s.type_checking) else {
                return Ok(Look::NotYet(format!("{name} is not")));
            };
            let warnings = checked.expression_warnings.unwrap_or_default();
            ensure!(warnings.is_empty(), "{name}: {warnings:?}");
        }
        Ok(Look::Done(()))
    })
    .await
}

/// Rendered with each values file, and the DaemonSet that the template makes of it.
async fn every_values_file_is_accepted(cluster: &Cluster) -> Result<()> {
    let mut files = vec![root()?.join("charts/sluice/values-kind.yaml")];
    for entry in std::fs::read_dir(root()?.join("charts/tests/accepted"))? {
        files.push(entry?.path());
    }
    ensure!(files.len() >= 3);
    for file in files {
        let all = rendered(&file, &[]).await?;
        kubectl(cluster, &["create", "--dry-run=server", "-f", "-"], all)
            .await
            .with_context(|| file.display().to_string())?;
        let of_file = config_map(cluster, &file).await?;
        daemon_set(cluster, &of_file).await.with_context(|| file.display().to_string())?;
    }
    Ok(())
}

/// What the operator makes of the template, as the API server would store it.
async fn daemon_set(cluster: &Cluster, config_map: &ConfigMap) -> Result<DaemonSet> {
    let template = config_map.data.as_ref().and_then(|data| data.get("daemonset.yaml")).context("no daemonset.yaml")?;
    // A name that YAML would take for a number.
    let filled = template.replace("${GROUP}", "10").replace("${ENVIRONMENT}", "production");
    ensure!(!filled.contains("${"), "a placeholder is left: {filled}");
    let stored = kubectl(cluster, &["create", "--dry-run=server", "-o", "json", "-f", "-"], filled).await?;
    Ok(serde_json::from_str(&stored)?)
}

async fn host_ports_alone_break_the_restricted_profile(cluster: &Cluster) -> Result<()> {
    let client = cluster.client().await?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), SYSTEM);
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let config_maps: Api<ConfigMap> = Api::namespaced(client.clone(), SYSTEM);
    let installed = daemon_set(cluster, &config_maps.get("sluice-dataplane-template").await?).await?;
    let pod = bare_pod(installed.spec.context("a spec")?.template);
    pods.create(&dry, &pod).await.context("the dataplane's pod breaks the restricted profile")?;

    let kind = config_map(cluster, &root()?.join("charts/sluice/values-kind.yaml")).await?;
    let with_ports = daemon_set(cluster, &kind).await?;
    let pod = bare_pod(with_ports.spec.context("a spec")?.template);
    let refusal = pods.create(&dry, &pod).await.expect_err("host ports under the restricted profile").to_string();
    ensure!(refusal.contains("hostPort") && !refusal.contains("runAsNonRoot"), "{refusal}");

    let deployments: Api<Deployment> = Api::namespaced(client, SYSTEM);
    let operator = deployments.get("sluice-operator").await?.spec.context("a spec")?.template;
    let container = &operator.spec.context("a spec")?.containers[0];
    let security = container.security_context.clone().context("a security context")?;
    ensure!(security.read_only_root_filesystem == Some(true));
    Ok(())
}

fn bare_pod(template: PodTemplateSpec) -> Pod {
    let mut metadata = template.metadata.unwrap_or_default();
    metadata.name = Some("of-template".into());
    Pod { metadata, spec: template.spec, status: None }
}

async fn roles_allow_what_they_should(cluster: &Cluster) -> Result<()> {
    // Whose, verb, resource, namespace, allowed.
    let table = [
        (OPERATOR, "update", "assignments.sluice.dev", "", true),
        (OPERATOR, "create", "rollouts.sluice.dev", "edge-team", true),
        (OPERATOR, "patch", "repositories.sluice.dev/status", "edge-team", true),
        (OPERATOR, "update", "repositories.sluice.dev", "edge-team", false),
        (OPERATOR, "patch", "dataplanenodes.sluice.dev/status", "", false),
        (OPERATOR, "get", "secrets", "edge-team", true),
        (OPERATOR, "list", "secrets", "edge-team", false),
        (OPERATOR, "list", "secrets", SYSTEM, false),
        (OPERATOR, "create", "daemonsets.apps", SYSTEM, true),
        (OPERATOR, "create", "daemonsets.apps", "edge-team", false),
        (OPERATOR, "create", "jobs.batch", SYSTEM, true),
        (OPERATOR, "create", "jobs.batch", "edge-team", false),
        (OPERATOR, "update", "nodes", "", false),
        (OPERATOR, "create", "pods", SYSTEM, false),
        (DATAPLANE, "watch", "assignments.sluice.dev", "", true),
        (DATAPLANE, "update", "assignments.sluice.dev", "", false),
        (DATAPLANE, "get", "revisions.sluice.dev", "edge-team", true),
        (DATAPLANE, "list", "revisions.sluice.dev", "edge-team", false),
        (DATAPLANE, "patch", "dataplanenodes.sluice.dev/status", "", true),
        (DATAPLANE, "patch", "dataplanenodes.sluice.dev", "", false),
        (DATAPLANE, "get", "secrets", SYSTEM, false),
        (DATAPLANE, "get", "configmaps", SYSTEM, false),
    ];
    for (user, verb, resource, namespace, allowed) in table {
        let namespace = if namespace.is_empty() { "default" } else { namespace };
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let subresource = format!("--subresource={subresource}");
        // A no is an exit code that is not 0.
        let question = ["auth", "can-i", verb, resource, &subresource, "-n", namespace, "--as", user];
        let answer = cluster.kubectl(&question).await.is_ok();
        ensure!(answer == allowed, "{user} may {verb} {resource} in {namespace}: {answer}");
    }
    Ok(())
}

async fn explanations_read_well(cluster: &Cluster) -> Result<()> {
    for (path, expected) in [
        ("rollouts.sluice.dev.spec", "Take it back everywhere, at once"),
        ("deploymentgroups.spec", "A set of nodes"),
        ("repositories.sluice.dev.spec.branches", "Which branch is which environment"),
        ("units.sluice.dev.spec", "The memory"),
        ("dataplanenodes.status", "Units that do not run as assigned"),
    ] {
        let text = cluster.kubectl(&["explain", path]).await?;
        ensure!(text.contains(expected), "{path}: {text}");
        ensure!(!text.contains("<no description>"), "a field of {path} says nothing: {text}");
    }
    Ok(())
}

async fn what_sluice_remembers_is_left(cluster: &Cluster) -> Result<()> {
    let client = cluster.client().await?;
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let left = definitions.list(&ListParams::default()).await?;
    let ours =
        left.items.iter().filter(|crd| crd.spec.group == "sluice.dev" && crd.metadata.deletion_timestamp.is_none());
    ensure!(ours.count() == 7, "definitions are gone");
    Api::<Repository>::namespaced(client.clone(), "edge-team").get("edge").await?;
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(client.clone());
    ensure!(policies.list(&ListParams::default()).await?.items.is_empty(), "policies are left");
    let deployments: Api<Deployment> = Api::namespaced(client, SYSTEM);
    ensure!(deployments.get_opt("sluice-operator").await?.is_none_or(|d| d.metadata.deletion_timestamp.is_some()));
    Ok(())
}

fn namespace(name: &str, profile: &str) -> Value {
    let labels = json!({"pod-security.kubernetes.io/enforce": profile});
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

fn repository() -> Value {
    json!({
        "apiVersion": "sluice.dev/v1alpha1", "kind": "Repository",
        "metadata": {"name": "edge", "namespace": "edge-team"}, "spec": {"url": "https://git.example/edge.git"},
    })
}

fn root() -> Result<PathBuf> {
    Ok(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?)
}

/// A helm command about the release: the verb first, then its options.
async fn helm(cluster: &Cluster, words: &[&str]) -> Result<String> {
    let mut command = Command::new(tools::built("helm")?);
    command.args([words[0], "sluice", "-n", SYSTEM]).arg("--kubeconfig").arg(cluster.kubeconfig_path());
    if words[0] != "uninstall" {
        command.arg(root()?.join("charts/sluice"));
    }
    command.args(&words[1..]);
    run::output_later(command, None).await
}

/// The ConfigMap with the template of DaemonSets, rendered with a values file.
async fn config_map(cluster: &Cluster, values: &Path) -> Result<ConfigMap> {
    let yaml = rendered(values, &["--show-only", "templates/dataplane-template.yaml"]).await?;
    let json = kubectl(cluster, &["create", "--dry-run=client", "-o", "json", "-f", "-"], yaml).await?;
    Ok(serde_json::from_str(&json)?)
}

async fn rendered(values: &Path, options: &[&str]) -> Result<String> {
    let mut command = Command::new(tools::built("helm")?);
    command.args(["template", "sluice", "-n", SYSTEM]).arg(root()?.join("charts/sluice")).arg("-f").arg(values);
    command.args(options);
    run::output_later(command, None).await
}

async fn kubectl(cluster: &Cluster, arguments: &[&str], input: String) -> Result<String> {
    let mut command = Command::new(tools::kubectl());
    command.arg("--kubeconfig").arg(cluster.kubeconfig_path()).args(arguments);
    run::output_later(command, Some(input)).await
}
