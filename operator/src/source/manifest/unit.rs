//! One manifest: from text to a revision, or to the first thing wrong with it.

use sluice_config::{
    Artifact, Bundle, Content, Digest, Environment, FORMAT, Revision, Routes, UnitKind, UnitRef, Worker, limits,
};
use sluice_crds::{
    Gate, Source as SeenAt,
    manifests::{Binding, BundleManifest, RoutesManifest, WorkerManifest},
};
use sluice_worker::imports;

use super::{
    FileError, Files, Known, MANIFEST_BYTES_MAX, Problem, TreeOf, de,
    fault::{Fault, clip},
    gates, known, locate, merge,
    node::{self, Node, Value},
};
use crate::source::{ArtifactAt, ParsedRevision};

const API_VERSION: &str = "sluice.dev/v1alpha1";

/// Reads one unit. The outer error is the tree's, the inner one the unit's alone.
pub(super) fn parse(
    files: &dyn Files,
    of: &TreeOf,
    unit: &UnitRef,
    path: &str,
    known: &mut Known,
) -> Result<Result<ParsedRevision, Problem>, FileError> {
    let id = files.content_id(path);
    if let Some(known) = id.as_ref().and_then(|id| known.manifest(files, path, id)) {
        let artifact_path = known.component.as_ref().map(|(path, _)| path.clone());
        return Ok(Ok(parsed(of, path, known.revision.clone(), known.digest.clone(), artifact_path)));
    }
    let text = match files.read(path, MANIFEST_BYTES_MAX) {
        Ok(bytes) => match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(_) => return Ok(Err(Problem::of_file(path, "is not UTF-8", "save it as UTF-8"))),
        },
        Err(error) => return of_unit(error).map(|fault| Err(Problem::of_file(path, fault.reason, fault.remedy))),
    };
    let read = read_document(&text, unit).and_then(|manifest| {
        let component = match &manifest.wasm {
            None => None,
            Some(wasm) => match component(files, path, wasm, known) {
                Ok(component) => Some(component),
                Err(ComponentTrouble::Tree(error)) => return Err(Trouble::Tree(error)),
                Err(ComponentTrouble::Unit(fault)) => return Err(Trouble::Unit(manifest.at_wasm(fault))),
            },
        };
        manifest.revision(unit, component).map_err(Trouble::Unit)
    });
    match read {
        Ok((revision, digest, artifact_path)) => {
            let component = artifact_path.as_ref().map(|path| Some((path.clone(), files.content_id(path)?)));
            if let (Some(id), None | Some(Some(_))) = (id, &component) {
                let (revision, digest) = (revision.clone(), digest.clone());
                known.good(path, known::Manifest { id, component: component.flatten(), revision, digest });
            }
            Ok(Ok(parsed(of, path, revision, digest, artifact_path)))
        }
        Err(Trouble::Unit(fault)) => Ok(Err(problem(path, &fault))),
        Err(Trouble::Tree(error)) => Err(error),
    }
}

/// The same content may be seen in one commit after the other.
fn parsed(
    of: &TreeOf,
    path: &str,
    revision: Revision,
    digest: Digest,
    artifact_path: Option<String>,
) -> ParsedRevision {
    let commit = || of.commit.clone();
    let artifact = revision.artifact.clone().zip(artifact_path.clone());
    let artifact = artifact.map(|(artifact, path)| ArtifactAt { artifact, path, commit: commit() });
    let source = SeenAt { repository: of.repository.clone(), commit: commit(), path: path.to_owned(), artifact_path };
    ParsedRevision { revision, digest, source, artifact }
}

enum Trouble {
    Unit(Fault),
    Tree(FileError),
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        Self::Unit(fault)
    }
}

/// A file's trouble as its unit's, unless it is the tree's.
fn of_unit(error: FileError) -> Result<Fault, FileError> {
    let remedy = match &error {
        FileError::Missing(path) => format!("add {path}, or remove the folder"),
        FileError::Symlink(_) => "put the file itself there: links are not followed".to_owned(),
        FileError::Folder(_) => "put a file there".to_owned(),
        FileError::Submodule(_) => "put the file itself into this repository".to_owned(),
        FileError::TooLarge { bytes_max, .. } => format!("at most {bytes_max} are allowed"),
        FileError::Refused(_) | FileError::Damaged(_) => return Err(error),
    };
    Ok(Fault::new(error.to_string(), remedy))
}

fn problem(path: &str, fault: &Fault) -> Problem {
    let place = fault.place.unwrap_or(node::Place { line: 1, column: 1 });
    Problem {
        file: path.to_owned(),
        line: place.line,
        column: place.column,
        field: fault.field(),
        reason: fault.reason.clone(),
        remedy: fault.remedy.clone(),
    }
}

/// A manifest as read: typed, both environments.
struct Manifest {
    documents: [Node; 2],
    contents: [Content; 2],
    gates: Vec<Gate>,
    together: Option<String>,
    wasm: Option<String>,
}

fn read_document(text: &str, unit: &UnitRef) -> Result<Manifest, Trouble> {
    let document = node::parse(text).map_err(|bad| Fault::new(bad.reason, bad.remedy).at(bad.place))?;
    check_header(&document, unit)?;
    let staging = merge::document_in(&document, Environment::Staging).map_err(|fault| fault.under("spec"))?;
    let production = merge::document_in(&document, Environment::Production).map_err(|fault| fault.under("spec"))?;
    let (a, b) = (read_content(&staging, unit.kind)?, read_content(&production, unit.kind)?);
    let manifest = Manifest {
        contents: [a.content, b.content],
        gates: a.gates,
        together: a.together,
        wasm: a.wasm,
        documents: [staging, production],
    };
    gates::check(&manifest.gates).map_err(|fault| {
        let gates = document.get("spec").and_then(|(_, spec)| spec.get("gates"));
        let fault = fault.under("gates");
        gates.map_or(fault.clone(), |(key, list)| {
            let item = match (&list.value, fault.first_index()) {
                (Value::List(items), Some(index)) => items.get(index),
                _ => None,
            };
            fault.at(item.map_or(key.place, |item| item.place))
        })
    })?;
    Ok(manifest)
}

fn check_header(document: &Node, unit: &UnitRef) -> Result<(), Fault> {
    if !matches!(document.value, Value::Map(_)) {
        let fault =
            Fault::new(format!("the file is {}", document.value.what()), "write apiVersion, kind, metadata and spec");
        return Err(fault.at(document.place));
    }
    let kind = unit.kind.to_string();
    for (field, expected) in [("apiVersion", API_VERSION), ("kind", kind.as_str())] {
        let Some((key, node)) = document.get(field) else {
            return Err(
                Fault::new(format!("`{field}` is missing"), format!("add {field}: {expected}")).at(document.place)
            );
        };
        let (place, reason) = match &node.value {
            Value::Text(text) if text == expected => continue,
            Value::Text(text) => (node.place, format!("`{}` does not belong in this file", clip(text))),
            Value::Null => (key.place, "is empty".to_owned()),
            other @ (Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::List(_) | Value::Map(_)) => {
                (node.place, format!("is {}", other.what()))
            }
        };
        return Err(Fault::new(reason, format!("write {expected}")).at(place).under(field));
    }
    let name = document.get("metadata").and_then(|(_, metadata)| metadata.get("name"));
    if let Some((_, Node { place, value: Value::Text(name) })) = name
        && *name != unit.name
    {
        let place_name = match unit.kind {
            UnitKind::Worker => "folder",
            UnitKind::Routes | UnitKind::Config => "file",
        };
        let fault = Fault::new(
            format!("`{}` is not the name of the {place_name}, `{}`", clip(name), unit.name),
            format!("write {}, or rename the {place_name}", unit.name),
        );
        return Err(fault.at(*place).under("name").under("metadata"));
    }
    Ok(())
}

struct Read {
    content: Content,
    gates: Vec<Gate>,
    together: Option<String>,
    wasm: Option<String>,
}

fn read_content(document: &Node, kind: UnitKind) -> Result<Read, Fault> {
    Ok(match kind {
        UnitKind::Worker => {
            let mut spec = de::read::<WorkerManifest>(document)?.spec;
            check_bindings(document, &spec.bindings)?;
            let (gates, wasm) = (std::mem::take(&mut spec.gates), Some(spec.wasm.clone()));
            let together = spec.together.take();
            Read { content: Content::Worker(Worker::from(spec)), gates, together, wasm }
        }
        UnitKind::Routes => {
            let mut spec = de::read::<RoutesManifest>(document)?.spec;
            let (gates, together) = (std::mem::take(&mut spec.gates), spec.together.take());
            Read { content: Content::Routes(Routes::from(spec)), gates, together, wasm: None }
        }
        UnitKind::Config => {
            let mut spec = de::read::<BundleManifest>(document)?.spec;
            let (gates, together) = (std::mem::take(&mut spec.gates), spec.together.take());
            Read { content: Content::Config(Bundle::from(spec)), gates, together, wasm: None }
        }
    })
}

/// One that gives nothing has no form on the wire that could be checked.
fn check_bindings(document: &Node, bindings: &[Binding]) -> Result<(), Fault> {
    let Some(index) = bindings.iter().position(|binding| binding.fetch.is_none() && binding.rate.is_none()) else {
        return Ok(());
    };
    let fault = Fault::new(format!("`{}` gives nothing", clip(&bindings[index].name)), "add fetch or rate");
    let fault = fault.item(index).under("bindings");
    let list = document.get("spec").and_then(|(_, spec)| spec.get("bindings")).map(|(_, list)| &list.value);
    Err(match list {
        Some(Value::List(items)) => items.get(index).map_or(fault.clone(), |item| fault.at(item.place)),
        _ => fault,
    })
}

impl Manifest {
    fn at_wasm(&self, fault: Fault) -> Fault {
        let wasm = self.documents[0].get("spec").and_then(|(_, spec)| spec.get("wasm"));
        let fault = fault.under("wasm");
        match wasm {
            Some((_, node)) => fault.at(node.place),
            None => fault,
        }
    }

    fn revision(
        self,
        unit: &UnitRef,
        component: Option<(Artifact, String)>,
    ) -> Result<(Revision, Digest, Option<String>), Fault> {
        let [staging, production] = self.contents;
        let (artifact, artifact_path) = component.unzip();
        let gates = self
            .gates
            .iter()
            .map(serde_json::to_value)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| Fault::new(format!("the gates cannot be written as JSON ({e})"), "report this"))?;
        let (name, together) = (unit.name.clone(), self.together);
        let revision =
            Revision { format: FORMAT, kind: unit.kind, name, artifact, staging, production, gates, together };
        revision.validate().map_err(|invalid| {
            let document = match locate::environment_of(&invalid) {
                Some(Environment::Production) => &self.documents[1],
                Some(Environment::Staging) | None => &self.documents[0],
            };
            locate::fault_of(document, &invalid)
        })?;
        let digest = revision
            .digest()
            .map_err(|e| Fault::new(format!("the revision cannot be written as JSON ({e})"), "report this"))?;
        Ok((revision, digest, artifact_path))
    }
}

enum ComponentTrouble {
    Unit(Fault),
    Tree(FileError),
}

/// Reads and checks the component that `wasm` names, or remembers what came of it before.
fn component(
    files: &dyn Files,
    manifest_path: &str,
    wasm: &str,
    known: &mut Known,
) -> Result<(Artifact, String), ComponentTrouble> {
    let path = beside(manifest_path, wasm).map_err(ComponentTrouble::Unit)?;
    let id = files.content_id(&path);
    if let Some(checked) = id.as_ref().and_then(|id| known.components.get(id)) {
        let artifact = checked.clone().map_err(|text| ComponentTrouble::Unit(Fault::sentence(&text)))?;
        return Ok((artifact, path));
    }
    let bytes = files.read(&path, limits::ARTIFACT_BYTES).map_err(|error| {
        if let FileError::Missing(path) = &error {
            let fault = Fault::new(format!("there is no file `{path}`"), "commit the built component there");
            return ComponentTrouble::Unit(fault);
        }
        of_unit(error).map_or_else(ComponentTrouble::Tree, ComponentTrouble::Unit)
    })?;
    let checked = match imports::surface(&bytes).and_then(|surface| surface.check()) {
        Ok(_) => Ok(Artifact { digest: Digest::of(&bytes), size: bytes.len() as u64 }),
        Err(refused) => Err(refused.to_string()),
    };
    if let Some(id) = id {
        known.components.insert(id, checked.clone());
    }
    let artifact = checked.map_err(|text| ComponentTrouble::Unit(Fault::sentence(&text)))?;
    Ok((artifact, path))
}

/// The path from the repository's root of a file that a manifest names.
fn beside(manifest_path: &str, wasm: &str) -> Result<String, Fault> {
    let refuse = |reason: &str| {
        let remedy = "write a path below the worker's folder, e.g. ./worker.wasm";
        Err(Fault::new(format!("`{}` {reason}", clip(wasm)), remedy))
    };
    if wasm.contains("://") {
        return refuse("is a URL");
    }
    if wasm.starts_with('/') {
        return refuse("is an absolute path");
    }
    if wasm.len() > 1024 || wasm.contains('\\') || wasm.chars().any(char::is_control) {
        return refuse("is no path");
    }
    let mut names: Vec<&str> = Vec::new();
    for name in wasm.split('/') {
        match name {
            "." => {}
            "" => return refuse("has an empty part"),
            ".." => return refuse("leaves the worker's folder"),
            name => names.push(name),
        }
    }
    if names.is_empty() {
        return refuse("names no file");
    }
    let folder = manifest_path.rsplit_once('/').map_or("", |(folder, _)| folder);
    Ok(super::join(folder, &names.join("/")))
}
