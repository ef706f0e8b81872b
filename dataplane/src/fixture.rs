//! What tests of several modules begin with.

use std::{path::Path, sync::Arc};

use crate::cache::Cache;

/// An empty worker of `wasi:http`: `(component (instance) (export "wasi:http/incoming-handler@0.2.0" (instance 0)))`
pub(crate) const EMPTY: &[u8] =
    b"\0asm\x0d\0\x01\0\x05\x03\x01\x01\0\x0b\x26\x01\0\x20wasi:http/incoming-handler@0.2.0\x05\0\0";

/// A disk cache in this folder.
pub(crate) fn cache(dir: &Path) -> Arc<Cache> {
    let cache = Arc::new(Cache::new(dir.to_owned()));
    cache.prepare().unwrap();
    cache
}
