//! What a component imports and exports, and whether that is granted: no engine, no compilation.
//!
//! Publishing, operator and node refuse in the same words, which are those of [`Refused`].

use wasmparser::{Encoding, Parser, Payload};

/// Packages, and what of each is granted.
type Granted = &'static [(&'static str, &'static [&'static str])];

/// What links always and gives nothing away, with the interfaces of each package: of WASI 0.2 and 0.3. Filesystems have
/// no preopens, sockets refuse, stdout and stderr become log lines.
const GRANTED_ANY: Granted = &[
    (
        "wasi:cli",
        &[
            "environment",
            "exit",
            "stdin",
            "stdout",
            "stderr",
            "terminal-input",
            "terminal-output",
            "terminal-stdin",
            "terminal-stdout",
            "terminal-stderr",
        ],
    ),
    ("wasi:clocks", &["monotonic-clock"]),
    ("wasi:filesystem", &["types", "preopens"]),
    ("wasi:random", &["random", "insecure", "insecure-seed"]),
    ("wasi:sockets", &["ip-name-lookup"]),
];
/// What 0.2 has besides.
const GRANTED: Granted = &[
    ("wasi:clocks", &["wall-clock"]),
    ("wasi:io", &["error", "poll", "streams"]),
    ("wasi:sockets", &["instance-network", "network", "tcp", "tcp-create-socket", "udp", "udp-create-socket"]),
];
/// What 0.3 has besides.
const GRANTED_3: Granted =
    &[("wasi:cli", &["types"]), ("wasi:clocks", &["types", "system-clock"]), ("wasi:sockets", &["types"])];
/// How a worker of each version reaches `next.sluice` and what bindings grant.
const HTTP: Granted = &[("wasi:http", &["types", "outgoing-handler"])];
const HTTP_3: Granted = &[("wasi:http", &["types", "client", "handler"])];

/// The versions of them.
const WASI: &str = "0.2.";
const WASI_3: &str = "0.3.";

/// The package of filters, and what of it filters import.
const FILTER: Granted = &[("sluice:worker", &["types", "notes", "state", "fetch", "rate"])];
/// The version of it.
const FILTER_VERSION: &str = "0.1.";

/// What is called, but for 0.2.
const HANDLER: (&str, &str) = ("wasi:http", "handler");
const ON_REQUEST: (&str, &str) = ("sluice:worker", "on-request");
const ON_RESPONSE: (&str, &str) = ("sluice:worker", "on-response");

/// How a worker is called: read from what it exports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contract {
    /// `wasi:http/proxy@0.2`.
    Proxy,
    /// `wasi:http/service@0.3` or `wasi:http/middleware@0.3`.
    Handler,
    /// `sluice:worker/filter@0.1`.
    Filter {
        /// It is called with requests.
        on_request: bool,
        /// It is called with responses.
        on_response: bool,
    },
}

/// What a component asks for and offers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surface {
    /// Names of imports, e.g. `wasi:http/types@0.2.4`, as the component orders them.
    pub imports: Vec<String>,
    /// Names of exports, e.g. `wasi:http/incoming-handler@0.2.4`.
    pub exports: Vec<String>,
}

/// Why no node would run a component.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Neither a component nor a module.
    #[error("not a WebAssembly component: {0}")]
    NotComponent(String),
    /// A core module.
    #[error(
        "a core module, not a component: build for the target wasm32-wasip2, or turn it into one with \
         `wasm-tools component new module.wasm --adapt wasi_snapshot_preview1.proxy.wasm -o worker.wasm`"
    )]
    CoreModule,
    /// Compiled code.
    #[error("precompiled code is always refused: give the component itself (.wasm), nodes compile it")]
    Precompiled,
    /// Imports that nothing grants.
    #[error("imports what nothing grants: {}", .0.join(", "))]
    NotGranted(Vec<String>),
    /// It cannot be called.
    #[error(
        "exports nothing that a node calls: export sluice:worker/on-request@0.1 or sluice:worker/on-response@0.1 \
         (a filter), wasi:http/incoming-handler@0.2 (a wasi:http/proxy component), or wasi:http/handler@0.3 (a \
         wasi:http/service or wasi:http/middleware component)"
    )]
    NoHandler,
    /// It can be called in two ways.
    #[error("exports both {0} and {1}: a worker is called in one way, leave one of them out")]
    TwoContracts(&'static str, &'static str),
    /// A filter of another time.
    #[error("exports {0}: nodes call version 0.1, build it against the package sluice:worker@0.1")]
    FilterVersion(String),
    /// A handler of another time.
    #[error("exports {0}: nodes call version 0.3, build it against the released package wasi:http@0.3")]
    HandlerVersion(String),
}

/// Reads what a component imports and exports. Does not check that the rest of it is valid.
///
/// # Errors
/// The bytes are no component.
pub fn surface(wasm: &[u8]) -> Result<Surface, Refused> {
    if wasm.starts_with(b"\x7fELF") {
        return Err(Refused::Precompiled);
    }
    if !wasm.starts_with(b"\0asm") {
        return Err(Refused::NotComponent("it does not start with `\\0asm`".to_owned()));
    }
    read(wasm).map_err(|e| match e {
        ReadError::CoreModule => Refused::CoreModule,
        ReadError::Malformed(e) => Refused::NotComponent(e.to_string()),
    })
}

enum ReadError {
    CoreModule,
    Malformed(wasmparser::BinaryReaderError),
}

impl From<wasmparser::BinaryReaderError> for ReadError {
    fn from(error: wasmparser::BinaryReaderError) -> Self {
        Self::Malformed(error)
    }
}

fn read(wasm: &[u8]) -> Result<Surface, ReadError> {
    let mut surface = Surface::default();
    // Of modules and components inside others, only the outermost's imports reach the host.
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(wasm) {
        #[allow(clippy::wildcard_enum_match_arm, reason = "non-exhaustive, and all else is irrelevant here")]
        match payload? {
            Payload::Version { encoding, .. } if depth == 0 => match encoding {
                Encoding::Module => return Err(ReadError::CoreModule),
                Encoding::Component => {}
            },
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    surface.imports.push(import?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    surface.exports.push(export?.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    Ok(surface)
}

impl Surface {
    /// Checks that there is one way to call it, and the imports against what links then.
    ///
    /// # Errors
    /// Says what to export, or names each import that nothing grants.
    pub fn check(&self) -> Result<Contract, Refused> {
        let contract = self.contract()?;
        let short = |name: &String| name.chars().take(120).collect();
        let ungranted: Vec<String> =
            self.imports.iter().filter(|name| !is_granted(name, contract)).map(short).collect();
        if ungranted.is_empty() { Ok(contract) } else { Err(Refused::NotGranted(ungranted)) }
    }

    fn contract(&self) -> Result<Contract, Refused> {
        let is_proxy = self.exports.iter().any(|name| parts(name, WASI) == Some(("wasi:http", "incoming-handler")));
        let is_handler = self.exports(HANDLER, WASI_3).map_err(Refused::HandlerVersion)?;
        let on_request = self.exports(ON_REQUEST, FILTER_VERSION).map_err(Refused::FilterVersion)?;
        let on_response = self.exports(ON_RESPONSE, FILTER_VERSION).map_err(Refused::FilterVersion)?;
        let filter = if on_request { "sluice:worker/on-request@0.1" } else { "sluice:worker/on-response@0.1" };
        let ways = [
            (on_request || on_response, filter, Contract::Filter { on_request, on_response }),
            (is_handler, "wasi:http/handler@0.3", Contract::Handler),
            (is_proxy, "wasi:http/incoming-handler@0.2", Contract::Proxy),
        ];
        let mut ways = ways.into_iter().filter(|(exported, ..)| *exported);
        match (ways.next(), ways.next()) {
            (Some((_, one, _)), Some((_, other, _))) => Err(Refused::TwoContracts(one, other)),
            (Some((_, _, contract)), None) => Ok(contract),
            (None, _) => Err(Refused::NoHandler),
        }
    }

    /// Whether an interface is exported in this version. As an error, the name of one in another version.
    fn exports(&self, (package, interface): (&str, &str), version: &str) -> Result<bool, String> {
        let mut exported = false;
        for name in self.exports.iter().filter(|name| is_interface(name, package, interface)) {
            if parts(name, version).is_none() {
                return Err(name.chars().take(120).collect());
            }
            exported = true;
        }
        Ok(exported)
    }
}

fn is_granted(name: &str, contract: Contract) -> bool {
    let any = |version, granted: &[Granted]| {
        parts(name, version).is_some_and(|(package, interface)| {
            let mut granted = granted.iter().copied().flatten();
            granted.any(|(granted, interfaces)| *granted == package && interfaces.contains(&interface))
        })
    };
    match contract {
        Contract::Proxy => any(WASI, &[GRANTED_ANY, GRANTED, HTTP]),
        // What toolchains for 0.3 are built on still imports 0.2, but for `wasi:http`.
        Contract::Handler => any(WASI, &[GRANTED_ANY, GRANTED]) || any(WASI_3, &[GRANTED_ANY, GRANTED_3, HTTP_3]),
        // A filter has requests of its own by `fetch`, and `next` by returning.
        Contract::Filter { .. } => any(WASI, &[GRANTED_ANY, GRANTED]) || any(FILTER_VERSION, &[FILTER]),
    }
}

/// Package and interface of a name of this version. What came before its release is another one.
fn parts<'a>(name: &'a str, version: &str) -> Option<(&'a str, &'a str)> {
    let (path, has) = name.split_once('@')?;
    (has.starts_with(version) && !has.contains('-')).then(|| path.split_once('/'))?
}

/// Whether a name is this interface's, in any version or none.
fn is_interface(name: &str, package: &str, interface: &str) -> bool {
    let path = name.split_once('@').map_or(name, |(path, _)| path);
    path.split_once('/') == Some((package, interface))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(imports: &[&str], exports: &[&str]) -> Surface {
        Surface {
            imports: imports.iter().map(ToString::to_string).collect(),
            exports: exports.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn what_every_toolchain_imports_is_granted() {
        let surface = of(
            &[
                "wasi:cli/environment@0.2.3",
                "wasi:io/streams@0.2.0",
                "wasi:filesystem/preopens@0.2.6",
                "wasi:sockets/tcp@0.2.12",
                "wasi:http/outgoing-handler@0.2.4",
            ],
            &["wasi:http/incoming-handler@0.2.4"],
        );
        assert_eq!(surface.check(), Ok(Contract::Proxy));
    }

    #[test]
    fn each_import_that_nothing_grants_is_named() {
        let surface = of(
            &["wasi:io/poll@0.2.0", "wasi:keyvalue/store@0.2.0", "wasi:io/poll@0.3.0", "bare", "wasi:cli/run@0.2.0"],
            &["wasi:http/incoming-handler@0.2.4"],
        );
        assert_eq!(
            surface.check().unwrap_err().to_string(),
            "imports what nothing grants: wasi:keyvalue/store@0.2.0, wasi:io/poll@0.3.0, bare, \
             wasi:cli/run@0.2.0"
        );
    }

    #[test]
    fn a_component_without_a_handler_is_told_what_to_build() {
        for exports in [&[][..], &["wasi:cli/run@0.2.0"], &["wasi:http/client@0.3.0"]] {
            assert_eq!(of(&[], exports).check(), Err(Refused::NoHandler), "{exports:?}");
        }
    }

    #[test]
    fn a_filter_is_known_by_its_exports_and_imports_what_filters_may() {
        for (exports, on_request, on_response) in [
            (&["sluice:worker/on-request@0.1.0"][..], true, false),
            (&["sluice:worker/on-response@0.1.7"], false, true),
            (&["sluice:worker/on-request@0.1.0", "sluice:worker/on-response@0.1.0"], true, true),
        ] {
            let imports = ["sluice:worker/types@0.1.0", "sluice:worker/notes@0.1.3", "wasi:random/random@0.2.6"];
            assert_eq!(of(&imports, exports).check(), Ok(Contract::Filter { on_request, on_response }));
        }
        let refused = of(
            &["sluice:worker/types@0.2.0", "sluice:worker/vault@0.1.0", "wasi:http/outgoing-handler@0.2.3"],
            &["sluice:worker/on-request@0.1.0"],
        );
        assert_eq!(
            refused.check().unwrap_err().to_string(),
            "imports what nothing grants: sluice:worker/types@0.2.0, sluice:worker/vault@0.1.0, \
             wasi:http/outgoing-handler@0.2.3"
        );
        let proxy = of(&["sluice:worker/notes@0.1.0"], &["wasi:http/incoming-handler@0.2.4"]);
        assert!(matches!(proxy.check(), Err(Refused::NotGranted(_))));
    }

    #[test]
    fn two_contracts_and_versions_that_no_node_calls_are_refused() {
        let both = of(&[], &["wasi:http/incoming-handler@0.2.4", "sluice:worker/on-response@0.1.0"]);
        assert_eq!(
            both.check().unwrap_err().to_string(),
            "exports both sluice:worker/on-response@0.1 and wasi:http/incoming-handler@0.2: a worker is called in one \
             way, leave one of them out"
        );
        let both = of(&[], &["wasi:http/incoming-handler@0.2.4", "wasi:http/handler@0.3.0"]);
        assert_eq!(both.check(), Err(Refused::TwoContracts("wasi:http/handler@0.3", "wasi:http/incoming-handler@0.2")));
        for name in ["sluice:worker/on-request@0.2.0", "sluice:worker/on-response@1.0.0", "sluice:worker/on-request"] {
            let refused = of(&[], &[name]).check().unwrap_err();
            assert_eq!(refused, Refused::FilterVersion(name.to_owned()));
            assert!(refused.to_string().contains("sluice:worker@0.1"), "{refused}");
        }
        for name in ["wasi:http/handler@0.3.0-rc-2025-09-16", "wasi:http/handler@0.4.0", "wasi:http/handler"] {
            let refused = of(&[], &[name]).check().unwrap_err();
            assert_eq!(refused, Refused::HandlerVersion(name.to_owned()));
            assert!(refused.to_string().contains("wasi:http@0.3"), "{refused}");
        }
    }

    #[test]
    fn a_handler_is_known_by_its_export_and_imports_both_versions_of_wasi() {
        let imports = [
            "wasi:http/types@0.3.0",
            "wasi:http/client@0.3.2",
            "wasi:http/handler@0.3.0",
            "wasi:cli/stdout@0.3.0",
            "wasi:clocks/monotonic-clock@0.3.1",
            "wasi:io/streams@0.2.6",
            "wasi:cli/environment@0.2.6",
        ];
        assert_eq!(of(&imports, &["wasi:http/handler@0.3.0"]).check(), Ok(Contract::Handler));
        let refused = of(
            &["wasi:http/types@0.3.0-rc-2025-09-16", "wasi:http/outgoing-handler@0.2.6", "wasi:keyvalue/store@0.3.0"],
            &["wasi:http/handler@0.3.0"],
        );
        assert_eq!(
            refused.check().unwrap_err().to_string(),
            "imports what nothing grants: wasi:http/types@0.3.0-rc-2025-09-16, wasi:http/outgoing-handler@0.2.6, \
             wasi:keyvalue/store@0.3.0"
        );
        let proxy = of(&["wasi:http/client@0.3.0"], &["wasi:http/incoming-handler@0.2.4"]);
        assert!(matches!(proxy.check(), Err(Refused::NotGranted(_))));
    }

    #[test]
    fn bytes_that_are_no_component_say_what_they_are() {
        assert_eq!(surface(b"\x7fELF\x02\x01"), Err(Refused::Precompiled));
        assert_eq!(surface(b"\0asm\x01\0\0\0"), Err(Refused::CoreModule));
        assert_eq!(surface(b"\0asm\x0d\0\x01\0"), Ok(Surface::default()));
        for bytes in [&b""[..], b"hello", b"\0asm", b"\0asm\x0d\0\x01\0\xff\xff"] {
            assert!(matches!(surface(bytes), Err(Refused::NotComponent(_))), "{bytes:?}");
        }
    }
}
