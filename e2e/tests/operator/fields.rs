//! Every field of every kind is wrong for a while: the API server refuses it, or the operator lives with it, goes on with
//! everything else, and is right again when the field is.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, ResourceExt,
    api::{ApiResource, DynamicObject, ListParams, PostParams},
};
use serde_json::{Value, json};
use sluice_config::Environment::{self, Production, Staging};
use sluice_crds::Phase;
use sluice_e2e::{
    Cluster, Options,
    wait::{Look, until},
};

use crate::{
    fleet::Fleet,
    schema::{Field, fields},
    world::{LIMIT, TEAM, World, shop},
};

/// More are not needed to see that something is wrong.
const FAILURES_MAX: usize = 10;
const SHOP: &str = "shop (routes)";
const ASIDE: &str = "aside (routes)";
/// The repository beside the one whose objects are spoilt.
const BESIDE: &str = "beside";

#[tokio::test]
#[ignore = "takes half an hour: `make test-full` runs it"]
async fn every_field_may_be_wrong_for_a_while() -> Result<()> {
    let cluster = Cluster::up(Options::ephemeral("fields", 0)).await?;
    let world = World::on(&cluster).await?;
    play(&world).await.map_err(|error| error.context(world.logs()))?;
    cluster.down().await
}

async fn play(world: &World<'_>) -> Result<()> {
    world.group("staging", Staging, 0, json!([])).await?;
    world.group("canary", Production, 10, gates_of_nobody()).await?;
    world.group("main", Production, 20, json!([])).await?;
    let nodes = [("node-s", "staging"), ("node-c", "canary"), ("node-m", "main")];
    let _fleet = Fleet::start(&world.client, &nodes).await?;
    world.git.create(BESIDE)?;
    let mut pushes = Pushes { world, count: 0 };
    pushes.merge("edge", "shop").await?;
    let first = pushes.merge(BESIDE, "aside").await?;
    world.follow_repository("None").await?;
    world.cluster.apply(&beside(world)).await?;
    world.start_operator("operator-a", "one")?;
    world.production(ASIDE, &first, Phase::Succeeded).await?;
    pushes.go_through().await?;

    let only = std::env::var("SLUICE_FIELDS").unwrap_or_default();
    let mut tally = Tally::default();
    for definition in sluice_crds::generate::definitions() {
        let spoiler = Spoiler::of(world, &definition);
        let version = definition.spec.versions.first().context("a version")?;
        let schema = serde_json::to_value(version.schema.as_ref().context("a schema")?)?;
        for part in ["spec", "status"] {
            for field in fields(&schema["openAPIV3Schema"]["properties"][part]) {
                let name = format!("{}.{part}{field}", definition.spec.names.kind);
                if !name.contains(&only) {
                    continue;
                }
                spoiler.spoil(&mut pushes, part, &field, &name, &mut tally).await?;
                ensure!(tally.failures.len() < FAILURES_MAX, "{}", tally.failures.join("\n\n"));
            }
        }
    }
    tally.end()
}

/// One of each kind, which hold nobody up.
fn gates_of_nobody() -> Value {
    let nobody = json!({"kinds": ["Worker"], "namespaces": ["nobody"]});
    json!([
        {"name": "soak", "match": nobody, "soak": {"duration": "2s", "minRequests": 1}},
        {"name": "errors", "match": nobody, "preset": {"errorRate": {"max": "2%", "minRequests": 1}}},
        {"name": "query", "match": nobody, "prometheus": {"query": "up", "failWhen": "result > 1"}},
        {"name": "check", "match": nobody, "job": {"image": "x", "command": ["true"]}},
    ])
}

fn beside(world: &World<'_>) -> Value {
    json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "Repository", "metadata": {"name": BESIDE, "namespace": TEAM},
        "spec": {"url": world.git.url(BESIDE), "interval": "1s", "stagingEvidence": "None"}})
}

/// Commits, each with content that no other had.
struct Pushes<'a> {
    world: &'a World<'a>,
    count: usize,
}

impl Pushes<'_> {
    async fn commit(&mut self, repository: &str, unit: &str, environment: Environment) -> Result<String> {
        self.count += 1;
        let (path, text) = route(unit, self.count);
        self.world.git.commit(repository, environment.as_str(), "Change it", &[(&path, Some(&text))]).await
    }

    /// To both branches; production's commit.
    async fn merge(&mut self, repository: &str, unit: &str) -> Result<String> {
        self.commit(repository, unit, Staging).await?;
        self.commit(repository, unit, Production).await
    }

    /// What has nothing to do with the spoilt object still reaches these environments.
    async fn go_beside(&mut self, environments: &[Environment]) -> Result<()> {
        let mut commits = Vec::new();
        for environment in environments {
            commits.push((*environment, self.commit(BESIDE, "aside", *environment).await?));
        }
        for (environment, commit) in commits {
            self.world.rollouts.reach(ASIDE, environment, &commit, Phase::Succeeded, LIMIT).await?;
        }
        Ok(())
    }

    /// What has to do with it goes all the way, and everything says that it is well.
    async fn go_through(&mut self) -> Result<()> {
        let staging = self.commit("edge", "shop", Staging).await?;
        let production = self.commit("edge", "shop", Production).await?;
        let rollouts = &self.world.rollouts;
        rollouts.reach(SHOP, Staging, &staging, Phase::Succeeded, LIMIT).await?;
        rollouts.reach(SHOP, Production, &production, Phase::Succeeded, LIMIT).await?;
        until("everything to be ready", LIMIT, || async {
            let not_ready = not_ready(self.world).await?;
            Ok(if not_ready.is_empty() { Look::Done(()) } else { Look::NotYet(not_ready.join("\n")) })
        })
        .await
    }
}

fn route(unit: &str, number: usize) -> (String, String) {
    let text = shop(&format!("good-{number}")).replace("name: shop", &format!("name: {unit}"));
    (format!("routes/{unit}.yaml"), text.replace("shop.example", &format!("{unit}.example")))
}

async fn not_ready(world: &World<'_>) -> Result<Vec<String>> {
    let mut not_ready = Vec::new();
    for definition in sluice_crds::generate::definitions() {
        if !["Repository", "Unit", "DeploymentGroup"].contains(&definition.spec.names.kind.as_str()) {
            continue;
        }
        let api: Api<DynamicObject> = Api::all_with(world.client.clone(), &resource(&definition));
        for object in api.list(&ListParams::default()).await? {
            let conditions = object.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
            if !conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True") {
                not_ready.push(format!("{} {}: {conditions:?}", definition.spec.names.kind, object.name_any()));
            }
        }
    }
    Ok(not_ready)
}

fn resource(definition: &CustomResourceDefinition) -> ApiResource {
    let names = &definition.spec.names;
    ApiResource {
        group: sluice_crds::GROUP.to_owned(),
        version: sluice_crds::VERSION.to_owned(),
        api_version: format!("{}/{}", sluice_crds::GROUP, sluice_crds::VERSION),
        kind: names.kind.clone(),
        plural: names.plural.clone(),
    }
}

/// Spoils the objects of one kind.
struct Spoiler {
    kind: String,
    api: Api<DynamicObject>,
    has_status: bool,
    /// Where a spoilt object of this kind must hold up nothing.
    beside: &'static [Environment],
}

/// What became of a value.
enum Put {
    Refused,
    /// What is stored is what was there before.
    Same,
    Taken(Box<DynamicObject>),
}

impl Spoiler {
    fn of(world: &World<'_>, definition: &CustomResourceDefinition) -> Self {
        let (client, resource) = (world.client.clone(), resource(definition));
        let api = match definition.spec.scope.as_str() {
            "Namespaced" => Api::namespaced_with(client, TEAM, &resource),
            _ => Api::all_with(client, &resource),
        };
        let kind = definition.spec.names.kind.clone();
        // What is wrong with a group may hold up all that goes through it.
        let of_a_group = ["DeploymentGroup", "Assignment", "DataplaneNode"].contains(&kind.as_str());
        let beside: &[Environment] = if of_a_group { &[Staging] } else { &[Staging, Production] };
        let has_status =
            definition.spec.versions.iter().any(|v| v.subresources.as_ref().is_some_and(|s| s.status.is_some()));
        Self { kind, api, has_status, beside }
    }

    /// The object that is spoilt: one of the group canary, or of the unit shop.
    async fn victim(&self) -> Result<DynamicObject> {
        let name = match self.kind.as_str() {
            "DeploymentGroup" | "Assignment" => "canary",
            "DataplaneNode" => "node-c",
            "Repository" => "edge",
            _ => "shop-r",
        };
        let all = self.api.list(&ListParams::default()).await?.items;
        let of_shop = all.into_iter().filter(|object| object.name_any().starts_with(name));
        let attempt = |object: &DynamicObject| {
            let production = object.data["spec"]["environment"] == "production";
            (production, object.data["spec"]["attempt"].as_u64(), object.creation_timestamp().map(|at| at.0))
        };
        of_shop.max_by_key(attempt).with_context(|| format!("no {} of {name}", self.kind))
    }

    async fn spoil(
        &self,
        pushes: &mut Pushes<'_>,
        part: &str,
        field: &Field,
        name: &str,
        tally: &mut Tally,
    ) -> Result<()> {
        if part == "status" && !self.has_status {
            return Ok(());
        }
        let victim = self.victim().await?;
        let before = &victim.data[part];
        let present = field.pointer(before).and_then(|pointer| before.pointer(&pointer).cloned());
        let (mut refused, mut taken) = (0, 0);
        for (what, value) in field.values(present.as_ref()) {
            match self.put(&victim, part, field, value).await? {
                Put::Refused => refused += 1,
                Put::Same => {}
                Put::Taken(spoilt) => {
                    taken += 1;
                    let beside = pushes.go_beside(self.beside).await;
                    tally.failed(beside.err(), &format!("{name}, {what}: something else is held up"));
                    self.put_back(&spoilt, part, before).await?;
                }
            }
        }
        if taken > 0 {
            let through = pushes.go_through().await;
            tally.failed(through.err(), &format!("{name}: it is right again, the operator is not"));
        }
        println!("{name}: {refused} refused, {taken} taken");
        tally.walked(&self.kind, refused, taken);
        Ok(())
    }

    async fn put(&self, victim: &DynamicObject, part: &str, field: &Field, value: Option<Value>) -> Result<Put> {
        let change = |object: &mut DynamicObject| {
            let whole = &mut object.data[part];
            let pointer = field.make(whole);
            match &value {
                Some(value) => drop(whole.pointer_mut(&pointer).map(|at| *at = value.clone())),
                None => remove(whole, &pointer),
            }
        };
        match self.write(&victim.name_any(), part, change).await? {
            Err(_) => Ok(Put::Refused),
            Ok(stored) if stored.data[part] == victim.data[part] => Ok(Put::Same),
            Ok(stored) => Ok(Put::Taken(Box::new(stored))),
        }
    }

    /// Makes the part be what it was, where the operator has not written another since.
    async fn put_back(&self, spoilt: &DynamicObject, part: &str, before: &Value) -> Result<()> {
        let change = |object: &mut DynamicObject| {
            let now = object.data[part].clone();
            object.data[part] = restored(&spoilt.data[part], before, &now);
        };
        match self.write(&spoilt.name_any(), part, change).await? {
            Ok(_) => Ok(()),
            Err(refused) => bail!("{} {} cannot be put back: {refused}", self.kind, spoilt.name_any()),
        }
    }

    /// Changes what is stored now; the API server's words where it refuses.
    async fn write(
        &self,
        name: &str,
        part: &str,
        change: impl Fn(&mut DynamicObject),
    ) -> Result<Result<DynamicObject, String>> {
        until(&format!("{} {name} to stand still", self.kind), LIMIT, || async {
            let mut object = self.api.get(name).await?;
            change(&mut object);
            let put = match part {
                "status" => self.api.replace_status(name, &PostParams::default(), &object).await,
                _ => self.api.replace(name, &PostParams::default(), &object).await,
            };
            match put {
                Ok(stored) => Ok(Look::Done(Ok(stored))),
                Err(kube::Error::Api(error)) if error.is_conflict() => Ok(Look::NotYet(error.message.clone())),
                Err(kube::Error::Api(error)) => Ok(Look::Done(Err(error.message.clone()))),
                Err(error) => Err(error.into()),
            }
        })
        .await
    }
}

fn remove(whole: &mut Value, pointer: &str) {
    let (parent, key) = pointer.rsplit_once('/').unwrap_or_default();
    match whole.pointer_mut(parent) {
        Some(Value::Object(fields)) => drop(fields.remove(key)),
        Some(Value::Array(items)) => {
            drop(key.parse().ok().filter(|i| *i < items.len()).map(|i: usize| items.remove(i)))
        }
        _ => {}
    }
}

/// What is stored now, with `before` wherever that still is as it was spoilt.
fn restored(spoilt: &Value, before: &Value, now: &Value) -> Value {
    match (spoilt, before, now) {
        _ if spoilt == before => now.clone(),
        _ if spoilt == now => before.clone(),
        (Value::Object(spoilt), Value::Object(before), Value::Object(now)) => {
            let mut names: Vec<&String> = now.keys().collect();
            names.extend(before.keys().filter(|name| !now.contains_key(*name) && !spoilt.contains_key(*name)));
            let field = |of: &serde_json::Map<String, Value>, name: &str| of.get(name).cloned().unwrap_or_default();
            let fields = names
                .into_iter()
                .map(|name| (name.clone(), restored(&field(spoilt, name), &field(before, name), &field(now, name))));
            fields.filter(|(_, value)| !value.is_null()).collect()
        }
        _ => now.clone(),
    }
}

/// What became of all fields.
#[derive(Default)]
struct Tally {
    kinds: BTreeMap<String, [usize; 4]>,
    failures: Vec<String>,
}

impl Tally {
    fn walked(&mut self, kind: &str, refused: usize, taken: usize) {
        let counts = self.kinds.entry(kind.to_owned()).or_default();
        for (count, more) in counts.iter_mut().zip([1, refused, taken, usize::from(taken == 0)]) {
            *count += more;
        }
    }

    fn failed(&mut self, error: Option<anyhow::Error>, what: &str) {
        if let Some(error) = error {
            println!("{what}: {error:#}");
            self.failures.push(format!("{what}: {error:#}"));
        }
    }

    fn end(self) -> Result<()> {
        println!("{:16} {:>7} {:>8} {:>18} {:>13}", "KIND", "FIELDS", "REFUSED", "TAKEN AND SURVIVED", "ONLY REFUSED");
        let mut all = [0; 4];
        for (kind, counts) in self.kinds.into_iter().chain([("all".to_owned(), [0; 4])]) {
            all.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
            let [fields, refused, taken, closed] = if kind == "all" { all } else { counts };
            println!("{kind:16} {fields:>7} {refused:>8} {taken:>18} {closed:>13}");
        }
        ensure!(self.failures.is_empty(), "{} failures:\n{}", self.failures.len(), self.failures.join("\n\n"));
        Ok(())
    }
}
