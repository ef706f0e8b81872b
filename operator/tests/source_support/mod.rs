//! What several tests of the source share: components made by hand, and a git server.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]

pub mod git_server;

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
