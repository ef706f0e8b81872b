//! Container images made from files of this machine, because no registry is within reach.

use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::{run, state::Folder, tools};

/// Holds a pod's namespaces.
pub const PAUSE: &str = "sluice.local/pause:e2e";
/// A shell, busybox's tools and curl, for Jobs, probes and looking around.
pub const BUSYBOX: &str = "sluice.local/busybox:e2e";
/// The cluster's DNS.
pub const COREDNS: &str = "sluice.local/coredns:e2e";
/// The HTTP application behind the workers.
pub const UPSTREAM: &str = "sluice.local/upstream:e2e";

/// Nobody in particular; the restricted profile wants a number that is not 0.
const USER: u32 = 65532;

/// What an image holds. Shared libraries of its programs are added by themselves.
#[derive(Clone, Debug)]
pub struct Image {
    reference: String,
    files: BTreeMap<String, PathBuf>,
    links: BTreeMap<String, String>,
    entrypoint: Vec<String>,
    env: Vec<String>,
}

impl Image {
    /// An empty image. The reference needs a host with a dot (`sluice.local/dataplane:e2e`), or Kubernetes rewrites it.
    pub fn new(reference: &str) -> Self {
        Self {
            reference: reference.to_owned(),
            files: BTreeMap::new(),
            links: BTreeMap::new(),
            entrypoint: Vec::new(),
            env: vec!["PATH=/usr/local/bin:/usr/bin:/bin".to_owned()],
        }
    }

    /// Adds a file of this machine at an absolute path.
    #[must_use]
    pub fn file(mut self, path: &str, from: impl Into<PathBuf>) -> Self {
        self.files.insert(path.to_owned(), from.into());
        self
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn link(mut self, path: &str, to: &str) -> Self {
        self.links.insert(path.to_owned(), to.to_owned());
        self
    }

    /// The program and its first arguments.
    #[must_use]
    pub fn entrypoint(mut self, words: &[&str]) -> Self {
        self.entrypoint = words.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Adds a variable to the environment.
    #[must_use]
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.env.push(format!("{key}={value}"));
        self
    }

    /// One program as `/usr/local/bin/<name>`, which is also the entry point.
    pub fn of_program(reference: &str, program: &Path) -> Result<Self> {
        let name = program.file_name().and_then(|name| name.to_str()).context("a program has a name")?;
        let inside = format!("/usr/local/bin/{name}");
        Ok(Self::new(reference).file(&inside, program).entrypoint(&[&inside]))
    }

    /// What pods reference.
    pub fn reference(&self) -> &str {
        &self.reference
    }

    fn layer(&self) -> Result<Vec<u8>> {
        let mut files = self.files.clone();
        for program in self.files.values() {
            for library in shared_libraries(program)? {
                files.entry(library.clone()).or_insert_with(|| PathBuf::from(library));
            }
        }
        let mut tar = tar::Builder::new(Vec::new());
        for (path, mode) in folders(files.keys().chain(self.links.keys())) {
            let mut header = header(tar::EntryType::Directory, mode, 0);
            tar.append_data(&mut header, path, std::io::empty())?;
        }
        for (path, from) in &files {
            let bytes = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
            let mut header = header(tar::EntryType::Regular, 0o755, bytes.len() as u64);
            tar.append_data(&mut header, path.trim_start_matches('/'), bytes.as_slice())?;
        }
        for (path, to) in &self.links {
            let mut header = header(tar::EntryType::Symlink, 0o777, 0);
            tar.append_link(&mut header, path.trim_start_matches('/'), to)?;
        }
        let users = format!("root:x:0:0::/:/bin/sh\nsluice:x:{USER}:{USER}::/tmp:/bin/sh\n");
        append_text(&mut tar, "etc/passwd", &users)?;
        append_text(&mut tar, "etc/group", &format!("root:x:0:\nsluice:x:{USER}:\n"))?;
        Ok(tar.into_inner()?)
    }

    /// Writes the archive, in the layout of `docker save`, into a cluster's folder; an older one of that name goes.
    pub fn write_archive(&self, folder: &Folder) -> Result<PathBuf> {
        let layer = self.layer()?;
        let layer_digest = hex(&layer);
        let config = serde_json::to_string(&json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux",
            "config": {"Entrypoint": self.entrypoint, "Env": self.env, "User": format!("{USER}:{USER}")},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer_digest}")]},
        }))?;
        let config_digest = hex(config.as_bytes());
        let images = folder.join("images");
        fs::create_dir_all(&images)?;
        let name = format!("{}.", self.reference.replace(['/', ':'], "_"));
        let path = images.join(format!("{name}{}.tar", &config_digest[..16]));
        if path.exists() {
            return Ok(path);
        }
        let manifest = serde_json::to_string(&json!([{
            "Config": format!("{config_digest}.json"),
            "RepoTags": [self.reference],
            "Layers": ["layer.tar"],
        }]))?;
        let mut tar = tar::Builder::new(Vec::new());
        append_text(&mut tar, &format!("{config_digest}.json"), &config)?;
        let mut layer_header = header(tar::EntryType::Regular, 0o644, layer.len() as u64);
        tar.append_data(&mut layer_header, "layer.tar", layer.as_slice())?;
        append_text(&mut tar, "manifest.json", &manifest)?;
        for old in archives(folder)?.iter().filter(|old| file_name(old).starts_with(&name)) {
            fs::remove_file(old)?;
        }
        let part = path.with_extension("part");
        fs::write(&part, tar.into_inner()?)?;
        fs::rename(&part, &path)?;
        Ok(path)
    }
}

/// The images that every cluster with nodes has.
pub fn base_images() -> Result<Vec<Image>> {
    let busybox = Path::new("/bin/busybox");
    let mut tools_image = Image::new(BUSYBOX).file("/bin/busybox", busybox).entrypoint(&["/bin/sh"]);
    // Debian's static busybox crashes where it looks a host's name up, so wget stays out and curl comes in.
    for applet in
        run::output(Command::new(busybox).arg("--list"))?.lines().filter(|name| !["busybox", "wget"].contains(name))
    {
        tools_image = tools_image.link(&format!("/bin/{applet}"), "busybox");
    }
    if let Some(curl) = tools::packaged("curl") {
        tools_image = tools_image.file("/bin/curl", curl);
    }
    let pause = Image::new(PAUSE).file("/bin/busybox", busybox).entrypoint(&["/bin/busybox", "sleep", "2147483647"]);
    Ok(vec![pause, tools_image, Image::of_program(COREDNS, &tools::built("coredns")?)?])
}

/// All archives in a cluster's folder.
pub fn archives(folder: &Folder) -> Result<Vec<PathBuf>> {
    let Ok(entries) = fs::read_dir(folder.join("images")) else { return Ok(Vec::new()) };
    let mut archives: Vec<PathBuf> = entries
        .map(|entry| Ok(entry?.path()))
        .filter(|path: &Result<PathBuf>| {
            path.as_ref().map_or(true, |path| path.extension().is_some_and(|kind| kind == "tar"))
        })
        .collect::<Result<_>>()?;
    archives.sort();
    Ok(archives)
}

/// A path's last part, for names that we made ourselves.
pub fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The loader and the libraries of a program; none for a static one or a file that is no program.
fn shared_libraries(file: &Path) -> Result<Vec<String>> {
    let mut magic = [0; 4];
    let mut open = fs::File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
    if open.read(&mut magic)? < 4 || magic != *b"\x7fELF" {
        return Ok(Vec::new());
    }
    let listed = Command::new("ldd").arg(file).output().context("cannot run ldd (apt-get install libc-bin)")?;
    if !listed.status.success() {
        // What ldd says of static programs.
        return Ok(Vec::new());
    }
    parse_ldd(&String::from_utf8_lossy(&listed.stdout)).with_context(|| format!("{} cannot run here", file.display()))
}

fn parse_ldd(listed: &str) -> Result<Vec<String>> {
    let mut libraries = Vec::new();
    for line in listed.lines() {
        if line.contains("not found") {
            bail!("a library is missing: {}", line.trim());
        }
        libraries.extend(line.split_whitespace().find(|word| word.starts_with('/')).map(str::to_owned));
    }
    Ok(libraries)
}

/// Every folder above these paths, and /tmp, in an order that makes parents first.
fn folders<'a>(paths: impl Iterator<Item = &'a String>) -> BTreeMap<PathBuf, u32> {
    let mut folders: BTreeMap<PathBuf, u32> = paths
        .flat_map(|path| Path::new(path.trim_start_matches('/')).ancestors().skip(1))
        .filter(|folder| !folder.as_os_str().is_empty())
        .map(|folder| (folder.to_owned(), 0o755))
        .collect();
    folders.insert(PathBuf::from("etc"), 0o755);
    folders.insert(PathBuf::from("tmp"), 0o1777);
    folders
}

/// Without times and owners, so that equal files make equal images.
fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header
}

fn append_text(tar: &mut tar::Builder<Vec<u8>>, path: &str, text: &str) -> Result<()> {
    let mut header = header(tar::EntryType::Regular, 0o644, text.len() as u64);
    Ok(tar.append_data(&mut header, path, text.as_bytes())?)
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ldd_names_libraries_and_loader() {
        let listed = "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x2)\n\t/lib64/ld-linux-x86-64.so.2 (0x3)\n";
        assert_eq!(
            parse_ldd(listed).expect("parsed"),
            ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]
        );
        assert!(parse_ldd("\tlibx.so => not found\n").is_err());
    }

    #[test]
    fn equal_files_make_equal_layers() {
        let image = Image::new("sluice.local/x:1").file("/usr/bin/env", "/usr/bin/env").link("/bin/e", "/usr/bin/env");
        assert_eq!(image.layer().expect("layer"), image.layer().expect("layer"));
    }

    #[test]
    fn parents_come_first() {
        let paths = ["/a/b/c".to_owned()];
        let folders: Vec<PathBuf> = folders(paths.iter()).into_keys().collect();
        assert_eq!(folders, ["a", "a/b", "etc", "tmp"].map(PathBuf::from));
    }
}
