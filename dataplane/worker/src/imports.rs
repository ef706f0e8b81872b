//! What a component imports and exports, and whether that is granted: no engine, no compilation.
//!
//! Publishing, operator and node refuse in the same words, which are those of [`Refused`].

/// What a component asks for and offers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surface {
    /// Names of imports, e.g. `wasi:http/types@0.2.4`.
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
        "a core module, not a component: build for the target wasm32-wasip2, or run `wasm-tools component new` on it"
    )]
    CoreModule,
    /// Compiled code.
    #[error("precompiled code is always refused: give the component itself (.wasm)")]
    Precompiled,
    /// Imports that nothing grants.
    #[error("imports what nothing grants: {}", .0.join(", "))]
    NotGranted(Vec<String>),
    /// No handler.
    #[error("exports no wasi:http/incoming-handler@0.2: it is not a wasi:http/proxy component")]
    NoHandler,
}

/// Reads what a component imports and exports.
///
/// # Errors
/// The bytes are no component.
pub fn surface(_wasm: &[u8]) -> Result<Surface, Refused> {
    todo!()
}

impl Surface {
    /// Checks the imports against what links always, and that there is a handler.
    ///
    /// # Errors
    /// Names each import that nothing grants, or the missing export.
    pub fn check(&self) -> Result<(), Refused> {
        todo!()
    }
}
