//! The process under test.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, mpsc},
};

use serde_json::Value;
use sluice_config::{Assignment, Counters, NodeReport};

use super::{PATIENCE, client, until};

/// Files of a node: they outlive its process.
pub struct Home {
    pub dir: tempfile::TempDir,
    pub state: PathBuf,
    flags: Vec<String>,
}

impl Home {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("revisions")).unwrap();
        let state = dir.path().join("state");
        Self { dir, state, flags: vec![] }
    }

    pub fn with_flags(mut self, flags: &[&str]) -> Self {
        self.flags.extend(flags.iter().map(|&f| f.to_owned()));
        self
    }

    pub fn revisions(&self) -> PathBuf {
        self.dir.path().join("revisions")
    }

    /// Replaces the assignment, as one change.
    pub fn assign(&self, assignment: &Assignment) {
        self.assign_bytes(&serde_json::to_vec(assignment).unwrap());
    }

    pub fn assign_bytes(&self, bytes: &[u8]) {
        let aside = self.dir.path().join("assignment.aside");
        fs::write(&aside, bytes).unwrap();
        fs::rename(aside, self.assignment_file()).unwrap();
    }

    pub fn assignment_file(&self) -> PathBuf {
        self.dir.path().join("assignment.json")
    }

    pub fn start(&self) -> Node {
        Node::start(&self.state, &self.assignment_file(), &self.revisions(), &self.flags)
    }
}

/// A running process; killed when dropped.
pub struct Node {
    child: Child,
    pub clients: SocketAddr,
    pub admin: SocketAddr,
    log: Arc<Mutex<Vec<String>>>,
}

impl Node {
    fn start(state: &Path, assignment: &Path, revisions: &Path, flags: &[String]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_sluice-dataplane"))
            .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--threads", "2"])
            .args(["--requests-max", "64", "--instances-max", "128", "--allow-loopback"])
            .args(["--log", "info,sluice_dataplane=debug", "--node", "node-1", "--group", "canary"])
            .arg("--state-dir")
            .arg(state)
            .arg("--assignment-file")
            .arg(assignment)
            .arg("--revisions-dir")
            .arg(revisions)
            .args(flags)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(vec![]));
        let (addresses, from_log) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let lines = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let value: Value = serde_json::from_str(&line).unwrap_or_default();
                if value["message"] == "starting" {
                    let address = |key: &str| value[key].as_str().unwrap().parse::<SocketAddr>().unwrap();
                    let _test_is_gone = addresses.send((address("listen"), address("admin")));
                }
                lines.lock().unwrap().push(line);
            }
        });
        let Ok((clients, admin)) = from_log.recv_timeout(PATIENCE) else {
            panic!("the process did not start: {:?}", log.lock().unwrap());
        };
        Self { child, clients, admin, log }
    }

    pub async fn admin_json(&self, path: &str) -> Value {
        let response = client::get(self.admin, "admin", path).await.unwrap();
        assert_eq!(response.status, 200, "{path}");
        serde_json::from_slice(&response.body).unwrap()
    }

    pub async fn report(&self) -> NodeReport {
        serde_json::from_value(self.admin_json("/report").await).unwrap()
    }

    pub async fn counters(&self) -> Counters {
        serde_json::from_value(self.admin_json("/counters").await).unwrap()
    }

    pub async fn applied(&self, generation: u64) {
        let what = format!("generation {generation} is applied");
        until(&what, async || (self.report().await.applied_generation == generation).then_some(())).await;
    }

    pub async fn ready(&self) {
        let ready = async || {
            let response = client::get(self.admin, "admin", "/readyz").await.ok()?;
            (response.status == 200).then_some(())
        };
        until("it is ready", ready).await;
    }

    pub fn logged(&self, text: &str) -> bool {
        self.log.lock().unwrap().iter().any(|line| line.contains(text))
    }

    /// Whether one line has both.
    pub fn logged_both(&self, a: &str, b: &str) -> bool {
        self.log.lock().unwrap().iter().any(|line| line.contains(a) && line.contains(b))
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    pub async fn ended(&mut self) -> ExitStatus {
        until("the process ends", async || self.child.try_wait().unwrap()).await
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _may_have_ended = self.child.kill();
        let _may_have_ended = self.child.wait();
        if std::thread::panicking() {
            for line in self.log.lock().unwrap().iter() {
                eprintln!("{line}");
            }
        }
    }
}
