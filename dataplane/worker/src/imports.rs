//! What a component imports and exports, and whether that is granted: no engine, no compilation.
//!
//! Publishing, operator and node refuse in the same words, which are those of [`Refused`].

use wasmparser::{Encoding, Parser, Payload};

/// What links always and gives nothing away, with the interfaces of each package. Filesystems have
/// no preopens, sockets refuse, stdout and stderr become log lines, and `outgoing-handler` reaches
/// `next.sluice` and what bindings grant.
const GRANTED: [(&str, &[&str]); 7] = [
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
    ("wasi:clocks", &["monotonic-clock", "wall-clock"]),
    ("wasi:filesystem", &["types", "preopens"]),
    ("wasi:io", &["error", "poll", "streams"]),
    ("wasi:random", &["random", "insecure", "insecure-seed"]),
    (
        "wasi:sockets",
        &["instance-network", "ip-name-lookup", "network", "tcp", "tcp-create-socket", "udp", "udp-create-socket"],
    ),
    ("wasi:http", &["types", "outgoing-handler"]),
];

/// The version of all of them.
const WASI: &str = "0.2.";

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
    /// No handler.
    #[error("exports no wasi:http/incoming-handler@0.2: build it as a wasi:http/proxy component")]
    NoHandler,
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
    /// Checks the imports against what links always, and that there is a handler.
    ///
    /// # Errors
    /// Names each import that nothing grants, or the missing export.
    pub fn check(&self) -> Result<(), Refused> {
        let ungranted: Vec<String> =
            self.imports.iter().filter(|name| !is_granted(name)).map(|name| name.chars().take(120).collect()).collect();
        if !ungranted.is_empty() {
            return Err(Refused::NotGranted(ungranted));
        }
        let handles = |name: &String| parts(name) == Some(("wasi:http", "incoming-handler"));
        if self.exports.iter().any(handles) { Ok(()) } else { Err(Refused::NoHandler) }
    }
}

fn is_granted(name: &str) -> bool {
    parts(name).is_some_and(|(package, interface)| {
        GRANTED.iter().any(|(granted, interfaces)| *granted == package && interfaces.contains(&interface))
    })
}

/// Package and interface of a name of version 0.2.
fn parts(name: &str) -> Option<(&str, &str)> {
    let (path, version) = name.split_once('@')?;
    version.starts_with(WASI).then(|| path.split_once('/'))?
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
        assert_eq!(surface.check(), Ok(()));
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
        for exports in [&[][..], &["wasi:cli/run@0.2.0"], &["wasi:http/handler@0.3.0"]] {
            assert_eq!(of(&[], exports).check(), Err(Refused::NoHandler), "{exports:?}");
        }
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
