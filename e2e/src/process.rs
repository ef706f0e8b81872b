//! Long-lived processes of a cluster: started detached, recorded so that a later harness finds and stops exactly these.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::ErrorKind,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use crate::{
    state::{Folder, write_whole},
    wait::{Look, until_blocking},
};

/// In the environment of all that a cluster starts, with the cluster's folder as value: it finds even the processes
/// of a harness that was killed between a start and its record, and containerd's shims, which nobody records.
const MARK: &str = "SLUICE_CLUSTER_FOLDER";

const STOP_LIMIT: Duration = Duration::from_secs(5);

/// How long a program that has arguments may seem to have no environment before it is believed.
const EXEC_LIMIT: Duration = Duration::from_secs(1);

/// A process that cannot be taken for another one that later got the same pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pid: i32,
    /// Field 22 of `/proc/<pid>/stat`: clock ticks between the machine's boot and the process's start.
    started_ticks: u64,
}

impl Identity {
    fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The command's name may hold blanks and parentheses; what follows the last one does not.
        let (_, fields) = stat.rsplit_once(')')?;
        let mut fields = fields.split_whitespace();
        let state = fields.next()?;
        let started_ticks = fields.nth(18)?.parse().ok()?;
        (state != "Z" && state != "X").then_some(Self { pid, started_ticks })
    }

    fn alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    fn signal(self, signal: Signal) {
        if let (true, Some(pid)) = (self.alive(), Pid::from_raw(self.pid)) {
            // Gone in between is what we want anyway.
            let _ = kill_process(pid, signal);
        }
    }
}

/// What to start.
#[derive(Clone, Debug, Default)]
pub struct Spawn {
    /// Names the record and the log.
    pub name: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Added to the environment.
    pub env: BTreeMap<String, String>,
    /// Enter the network and mount namespaces of this recorded process first.
    pub inside: Option<String>,
}

impl Spawn {
    /// A command under a name.
    pub fn new(name: impl Into<String>, program: impl AsRef<Path>) -> Self {
        let program = program.as_ref().to_string_lossy().into_owned();
        Self { name: name.into(), command: vec![program], ..Self::default() }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<String>) -> Self {
        self.command.push(argument.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: Into<String>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.command.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Adds a variable to the environment.
    #[must_use]
    pub fn env(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.insert(key.into(), value.into());
        self
    }

    /// Starts in the namespaces of a recorded process.
    #[must_use]
    pub fn inside(mut self, process: impl Into<String>) -> Self {
        self.inside = Some(process.into());
        self
    }
}

/// The processes of one cluster.
#[derive(Clone, Debug)]
pub struct Processes {
    folder: PathBuf,
}

impl Processes {
    /// Those of the cluster in this folder.
    pub fn of(folder: &Folder) -> Self {
        Self { folder: folder.path().to_owned() }
    }

    fn record_path(&self, name: &str) -> PathBuf {
        self.folder.join("processes").join(format!("{name}.json"))
    }

    /// Where a process's output goes.
    pub fn log_path(&self, name: &str) -> PathBuf {
        self.folder.join("logs").join(format!("{name}.log"))
    }

    fn record(&self, name: &str) -> Option<Identity> {
        serde_json::from_str(&fs::read_to_string(self.record_path(name)).ok()?).ok()
    }

    /// The recorded process's id, if it runs.
    pub fn pid(&self, name: &str) -> Option<i32> {
        self.record(name).filter(|identity| identity.alive()).map(|identity| identity.pid)
    }

    /// The names of all recorded processes, with whether they run.
    pub fn list(&self) -> BTreeMap<String, bool> {
        let Ok(entries) = fs::read_dir(self.folder.join("processes")) else { return BTreeMap::new() };
        entries
            .filter_map(|entry| Some(entry.ok()?.file_name().to_str()?.strip_suffix(".json")?.to_owned()))
            .map(|name| {
                let alive = self.pid(&name).is_some();
                (name, alive)
            })
            .collect()
    }

    /// Starts in a session of its own, so that neither Ctrl-C nor the harness's end stops it. One that runs is kept.
    pub fn start(&self, spawn: &Spawn) -> Result<()> {
        if self.pid(&spawn.name).is_some() {
            return Ok(());
        }
        for folder in ["processes", "logs"] {
            fs::create_dir_all(self.folder.join(folder))?;
        }
        let log_path = self.log_path(&spawn.name);
        let log = OpenOptions::new().create(true).append(true).open(&log_path)?;
        let mut command = Command::new("setsid");
        if let Some(host) = &spawn.inside {
            let pid = self.pid(host).with_context(|| format!("{host} does not run"))?;
            command.args(["nsenter", "--target", &pid.to_string(), "--net", "--mount", "--"]);
        }
        let mut child = command
            .args(&spawn.command)
            .envs(&spawn.env)
            .env(MARK, &self.folder)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", spawn.name))?;
        let pid = i32::try_from(child.id()).context("a pid beyond i32")?;
        let identity =
            Identity::of(pid).with_context(|| format!("{} ended at once{}", spawn.name, self.tail(&spawn.name)))?;
        write_whole(&self.record_path(&spawn.name), &serde_json::to_string(&identity)?)?;
        // Reaps it, should it end before the harness does.
        std::thread::spawn(move || child.wait());
        Ok(())
    }

    /// An error with the end of the log, if the process has ended.
    pub fn check(&self, name: &str) -> Result<()> {
        if self.pid(name).is_none() {
            bail!("{name} has ended{}", self.tail(name));
        }
        Ok(())
    }

    /// The end of a process's log, for error messages.
    pub fn tail(&self, name: &str) -> String {
        let path = self.log_path(name);
        let text = fs::read(&path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(15)..].join("\n  ");
        format!("; the end of {}:\n  {last}", path.display())
    }

    /// Asks, then forces; forgets the record.
    pub fn stop(&self, name: &str) -> Result<()> {
        self.end(name, Signal::TERM)
    }

    /// Stops without asking, as a power cut would.
    pub fn kill(&self, name: &str) -> Result<()> {
        self.end(name, Signal::KILL)
    }

    fn end(&self, name: &str, first: Signal) -> Result<()> {
        if let Some(identity) = self.record(name) {
            identity.signal(first);
            let gone = || if identity.alive() { Look::NotYet("it still runs".to_owned()) } else { Look::Done(()) };
            if until_blocking(name, STOP_LIMIT, gone).is_err() {
                identity.signal(Signal::KILL);
                until_blocking(name, STOP_LIMIT, gone)?;
            }
        }
        match fs::remove_file(self.record_path(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// The pids of everything that bears this cluster's mark, recorded or not.
    pub fn marked(&self) -> Vec<i32> {
        let mut mark = format!("{MARK}=").into_bytes();
        mark.extend_from_slice(self.folder.as_os_str().as_bytes());
        marked(|variable| variable == mark)
    }

    /// Kills what shares a mount namespace with a process: a node's shims, once its containers are gone.
    pub fn kill_in_mount_namespace(&self, pid: i32) -> Result<()> {
        let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
        let Some(wanted) = namespace(pid) else { return Ok(()) };
        let others = || -> Vec<i32> {
            let of_the_node = |other: &i32| *other != pid && namespace(*other).as_ref() == Some(&wanted);
            self.marked().into_iter().filter(of_the_node).collect()
        };
        kill_all("the end of a node's processes", STOP_LIMIT, others)
    }

    /// Kills everything that bears this cluster's mark.
    pub fn kill_marked(&self) -> Result<()> {
        kill_all("the end of the cluster's processes", STOP_LIMIT * 4, || self.marked())
    }
}

/// Kills what is found until nothing is, and waits for the end of each: one that is ending shows no mark any more.
fn kill_all(what: &str, limit: Duration, find: impl Fn() -> Vec<i32>) -> Result<()> {
    let mut killed: BTreeMap<i32, Identity> = BTreeMap::new();
    until_blocking(what, limit, || {
        killed.extend(find().into_iter().filter_map(|pid| Some((pid, Identity::of(pid)?))));
        killed.retain(|_, identity| identity.alive());
        killed.values().for_each(|identity| identity.signal(Signal::KILL));
        if killed.is_empty() { Look::Done(()) } else { Look::NotYet(format!("still running: {:?}", killed.keys())) }
    })
}

/// Kills a process that was just seen to be ours, by its mark or its control group.
pub fn kill_member(pid: i32) {
    if let Some(identity) = Identity::of(pid) {
        identity.signal(Signal::KILL);
    }
}

/// The pids of everything that bears any cluster's mark.
pub fn marked_by_any_cluster() -> Vec<i32> {
    marked(|variable| variable.starts_with(MARK.as_bytes()) && variable.get(MARK.len()) == Some(&b'='))
}

fn marked(is_mark: impl Fn(&[u8]) -> bool) -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| Identity::of(*pid).is_some())
        .filter(|pid| environment(*pid).split(|byte| *byte == 0).any(&is_mark))
        .collect()
}

/// A process's environment. While it executes a program it seems to have none, and would be taken for nobody's; on a
/// busy machine that may take a while.
fn environment(pid: i32) -> Vec<u8> {
    let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    // None of them will ever have one to be read. While a program is executed in place of another, there is none for a
    // moment: that says nothing.
    let is_denied =
        || fs::File::open(format!("/proc/{pid}/environ")).is_err_and(|e| e.kind() == ErrorKind::PermissionDenied);
    let is_nobodys = || Identity::of(pid).is_none() || is_of_the_kernel(pid) || is_denied();
    let start = Instant::now();
    let settled = until_blocking("an environment", STOP_LIMIT, || {
        let environment = read("environ");
        // Its arguments come a moment before its environment.
        let without = || !read("cmdline").is_empty() && start.elapsed() >= EXEC_LIMIT;
        if !environment.is_empty() || is_nobodys() || without() {
            return Look::Done(environment);
        }
        Look::NotYet(format!("process {pid} seems to have none"))
    });
    settled.unwrap_or_default()
}

/// Whether it is a thread of the kernel: `kthreadd` or a child of it.
fn is_of_the_kernel(pid: i32) -> bool {
    const KTHREADD: &str = "2";
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let parent = stat.rsplit_once(')').and_then(|(_, fields)| fields.split_whitespace().nth(1));
    parent == Some(KTHREADD) || stat.starts_with("2 (")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn processes() -> (tempfile::TempDir, Processes) {
        let folder = tempfile::tempdir().expect("a folder");
        let processes = Processes { folder: folder.path().to_owned() };
        (folder, processes)
    }

    #[test]
    fn a_recorded_process_is_found_again_and_stopped() {
        let (_folder, processes) = processes();
        processes.start(&Spawn::new("sleeper", "sleep").arg("60")).expect("started");
        let pid = processes.pid("sleeper").expect("running");
        assert_eq!(processes.marked(), vec![pid]);
        processes.stop("sleeper").expect("stopped");
        assert_eq!(processes.pid("sleeper"), None);
        assert!(processes.list().is_empty());
    }

    #[test]
    fn a_recycled_pid_is_left_alone() {
        let (_folder, processes) = processes();
        processes.start(&Spawn::new("other", "sleep").arg("60")).expect("started");
        let pid = processes.pid("other").expect("running");
        let stale = Identity { pid, started_ticks: 1 };
        let text = serde_json::to_string(&stale).expect("json");
        fs::write(processes.record_path("stale"), text).expect("written");
        processes.stop("stale").expect("nothing to stop");
        assert_eq!(processes.pid("other"), Some(pid), "the process with the same pid lives");
        processes.kill_marked().expect("cleaned");
        assert_eq!(processes.pid("other"), None);
    }

    #[test]
    fn a_process_that_is_just_starting_is_found() {
        let (_folder, processes) = processes();
        for round in 0..50 {
            // `setsid` executes the program in its place: this comes before, within or after that.
            processes.start(&Spawn::new("starting", "sleep").arg("60")).expect("started");
            processes.kill_marked().expect("killed");
            assert_eq!(processes.pid("starting"), None, "overlooked in round {round}");
        }
    }

    #[test]
    fn an_early_end_shows_the_log() {
        let (_folder, processes) = processes();
        processes.start(&Spawn::new("failing", "sh").args(["-c", "echo the reason; sleep 0.1"])).expect("started");
        until_blocking("its end", STOP_LIMIT, || match processes.check("failing") {
            Err(error) if error.to_string().contains("the reason") => Look::Done(()),
            Err(error) => Look::NotYet(error.to_string()),
            Ok(()) => Look::NotYet("runs".to_owned()),
        })
        .expect("the error shows the log");
    }
}
