//! What several tests of the source share: components made by hand, and a git server.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]

use std::collections::BTreeMap;

use sluice_operator::source::{FileError, Files, Known, ListedFile, ParsedUnit, Problem, TreeOf, parse_tree};

pub mod git_server;

/// Files in memory; a symbolic link is a text that starts with `->`.
#[derive(Default)]
pub struct Memory(pub BTreeMap<String, Vec<u8>>);

impl Memory {
    #[must_use]
    pub fn with(mut self, path: &str, content: impl Into<Vec<u8>>) -> Self {
        self.0.insert(path.to_owned(), content.into());
        self
    }
}

impl Files for Memory {
    fn list(&self, folder: &str) -> Result<Option<Vec<ListedFile>>, FileError> {
        let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        let mut names = BTreeMap::new();
        for path in self.0.keys() {
            if let Some(rest) = path.strip_prefix(&prefix) {
                let (name, folder) = rest.split_once('/').map_or((rest, false), |(name, _)| (name, true));
                names.insert(name.to_owned(), folder);
            }
        }
        let listed = names.into_iter().map(|(name, folder)| ListedFile { name, folder }).collect::<Vec<_>>();
        Ok((!listed.is_empty() || folder.is_empty()).then_some(listed))
    }

    fn read(&self, path: &str, bytes_max: u64) -> Result<Vec<u8>, FileError> {
        let bytes = self.0.get(path).ok_or_else(|| FileError::Missing(path.to_owned()))?;
        if bytes.starts_with(b"->") {
            return Err(FileError::Symlink(path.to_owned()));
        }
        if bytes.len() as u64 > bytes_max {
            return Err(FileError::TooLarge { path: path.to_owned(), bytes: bytes.len() as u64, bytes_max });
        }
        Ok(bytes.clone())
    }

    fn content_id(&self, path: &str) -> Option<String> {
        self.0.get(path).map(|bytes| sluice_config::Digest::of(bytes).to_string())
    }
}

/// Reads a whole tree anew.
pub fn parse(files: &Memory) -> (Vec<ParsedUnit>, Vec<Problem>) {
    let of =
        TreeOf { namespace: "edge-team".into(), repository: "edge".into(), commit: "c0ffee".into(), path: "/".into() };
    parse_tree(files, &of, &mut Known::default()).unwrap()
}

/// The manifest of the worker `hello`.
#[must_use]
pub fn worker_manifest(spec: &str) -> String {
    format!("apiVersion: sluice.dev/v1alpha1\nkind: Worker\nmetadata: {{name: hello}}\nspec:\n{spec}")
}

/// The manifest of the route table `shop`.
#[must_use]
pub fn routes_manifest(spec: &str) -> String {
    format!("apiVersion: sluice.dev/v1alpha1\nkind: Routes\nmetadata: {{name: shop}}\nspec:\n{spec}")
}

/// A worker that says something of everything.
pub const WORKER_SPEC: &str = "  wasm: ./hello.wasm
  chain: {stage: security, order: 20}
  match:
  - hosts: [shop.example, '*.shop.example']
    paths: [/checkout/*]
    methods: [GET, POST]
    headers: [{name: X-Beta, value: '1'}]
    percent: {share: 10%, by: cookie, name: session}
  bindings:
  - name: owners
    fetch: {origins: ['http://owners.default.svc:8080']}
  limits: {cpu: 5ms, memory: 64Mi}
  onFailure: open
  gates:
  - {name: soak, soak: {duration: 10m, minRequests: 100}}
  environments:
    staging:
      match: [{hosts: [shop.staging.example]}]
      limits: {cpu: 10ms}
";

/// A component that exports `wasi:http/incoming-handler` and does nothing; `salt` makes its bytes differ.
#[must_use]
pub fn component(salt: &str) -> Vec<u8> {
    let mut bytes = b"\0asm\x0d\0\x01\0".to_vec();
    // One instance without exports, exported under the handler's name.
    bytes.extend_from_slice(&[5, 3, 1, 1, 0]);
    let name = b"wasi:http/incoming-handler@0.2.0";
    let mut export = vec![1, 0, u8::try_from(name.len()).expect("short")];
    export.extend_from_slice(name);
    export.extend_from_slice(&[5, 0, 0]);
    section(&mut bytes, 11, &export);
    let mut custom = vec![4];
    custom.extend_from_slice(b"salt");
    custom.extend_from_slice(salt.as_bytes());
    section(&mut bytes, 0, &custom);
    bytes
}

/// A component that imports an instance of this name.
#[must_use]
pub fn importing(name: &str) -> Vec<u8> {
    let mut bytes = b"\0asm\x0d\0\x01\0".to_vec();
    // Type 0: an instance type without declarations.
    section(&mut bytes, 7, &[1, 0x42, 0]);
    let mut import = vec![1, 0, u8::try_from(name.len()).expect("short")];
    import.extend_from_slice(name.as_bytes());
    import.extend_from_slice(&[5, 0]);
    section(&mut bytes, 10, &import);
    bytes.extend_from_slice(&component("")[8..]);
    bytes
}

fn section(bytes: &mut Vec<u8>, id: u8, content: &[u8]) {
    bytes.push(id);
    bytes.push(u8::try_from(content.len()).expect("short"));
    bytes.extend_from_slice(content);
}
