//! Removes a cluster whole, also one whose harness was killed half way, and lists what nobody owns any more.

use std::{fs, io, path::Path, time::Duration};

use anyhow::Result;

use crate::{
    cgroup, network,
    process::{self, Processes},
    run,
    state::{self, Folder},
    wait::{Look, until_blocking},
};

/// Removes processes, control groups, devices, mounts and files of a cluster. Fine where there is none.
pub fn remove(folder: &Folder) -> Result<()> {
    let state = folder.load()?;
    let name = file_name(folder.path());
    // Together, so that none restarts another. Containers bear no mark: their control group holds them.
    Processes::of(folder).kill_marked()?;
    cgroup::remove(&name, None)?;
    Processes::of(folder).kill_marked()?;
    if let Some(state) = state {
        network::remove(state.addresses())?;
    }
    for mount in mounts_below(folder.path()) {
        run::output(std::process::Command::new("umount").args(["--lazy", &mount]))?;
    }
    delete(folder.path())
}

fn delete(path: &Path) -> Result<()> {
    // A node's mounts go with its last process, which may still be on its way out.
    until_blocking(&format!("the removal of {}", path.display()), Duration::from_secs(10), || match fs::remove_dir_all(
        path,
    ) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Look::NotYet(error.to_string()),
        _ => Look::Done(()),
    })
}

/// Innermost first.
fn mounts_below(path: &Path) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    let mut below: Vec<String> = points.filter(|point| Path::new(point).starts_with(path)).map(str::to_owned).collect();
    below.reverse();
    below
}

/// All that belongs to no cluster of this cache: empty unless something went wrong, or another cache has clusters.
pub fn leftovers() -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut devices = network::all_devices();
    let mut groups = Vec::new();
    let mut pids = process::marked_by_any_cluster();
    let mut mounts = mounts_below(&state::cache_dir()?.join("clusters"));
    for hierarchy in cgroup::existing(None) {
        let Ok(entries) = fs::read_dir(hierarchy) else { continue };
        groups.extend(entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_dir()));
    }
    for name in state::names()? {
        let folder = Folder::of(&name)?;
        let owned = folder.load()?.map(|state| network::devices(state.addresses())).unwrap_or_default();
        devices.retain(|device| !owned.contains(device));
        groups.retain(|group| file_name(group) != name);
        let marked = Processes::of(&folder).marked();
        pids.retain(|pid| !marked.contains(pid));
        mounts.retain(|mount| !Path::new(mount).starts_with(folder.path()));
    }
    found.extend(devices.iter().map(|device| format!("network device {device}")));
    found.extend(groups.iter().map(|group| format!("control group {}", group.display())));
    found.extend(mounts.iter().map(|mount| format!("mount {mount}")));
    for pid in pids {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        found.push(format!("process {pid} {}", String::from_utf8_lossy(&command).replace('\0', " ")));
    }
    Ok(found)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
