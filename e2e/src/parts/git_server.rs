//! A git server over HTTP on the bridge: lighttpd in front of git's own `http-backend`.

use std::{
    fs,
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{
    cluster::Cluster,
    process::Spawn,
    run, tools,
    wait::{Look, until},
};

const PROCESS: &str = "git-server";
const BACKEND: &str = "/usr/lib/git-core/git-http-backend";

/// The port on the bridge.
pub const PORT: u16 = 3080;

/// A running git server; it ends with its cluster.
#[derive(Debug)]
pub struct GitServer<'a> {
    cluster: &'a Cluster,
    folder: PathBuf,
    ip: Ipv4Addr,
}

impl<'a> GitServer<'a> {
    /// Starts it, or finds the one that runs.
    pub async fn start(cluster: &'a Cluster) -> Result<Self> {
        if !Path::new(BACKEND).exists() {
            bail!("{BACKEND} is missing: apt-get install git");
        }
        let server = Self { cluster, folder: cluster.folder()?.join("git"), ip: cluster.bridge_ip()? };
        fs::create_dir_all(server.folder.join("repositories"))?;
        server.resume().await?;
        Ok(server)
    }

    /// Starts it again after [`Self::stop`].
    pub async fn resume(&self) -> Result<()> {
        let config = self.folder.join("lighttpd.conf");
        fs::write(&config, self.config())?;
        let lighttpd = tools::packaged("lighttpd").context("lighttpd is missing: apt-get install lighttpd")?;
        self.cluster.start_process(&Spawn::new(PROCESS, lighttpd).args(["-D", "-f"]).arg(config.to_string_lossy()))?;
        until("the git server", Duration::from_secs(15), || async {
            self.cluster.processes()?.check(PROCESS)?;
            Ok(match TcpStream::connect((self.ip, PORT)) {
                Ok(_) => Look::Done(()),
                Err(error) => Look::NotYet(error.to_string()),
            })
        })
        .await
    }

    /// Stops it, as an outage would; the repositories stay.
    pub fn stop(&self) -> Result<()> {
        self.cluster.processes()?.stop(PROCESS)
    }

    fn config(&self) -> String {
        format!(
            r#"server.modules = ("mod_alias", "mod_setenv", "mod_cgi")
server.bind = "{ip}"
server.port = {PORT}
server.document-root = "{folder}"
server.upload-dirs = ("{folder}")
alias.url = ("/" => "{BACKEND}/")
cgi.assign = ("" => "")
setenv.add-environment = (
  "GIT_PROJECT_ROOT" => "{folder}/repositories",
  "GIT_HTTP_EXPORT_ALL" => "1",
)
"#,
            ip = self.ip,
            folder = self.folder.display(),
        )
    }

    /// Makes an empty bare repository that takes pushes over HTTP; returns its URL. An existing one is kept.
    pub fn create(&self, name: &str) -> Result<String> {
        let path = self.repository(name);
        if !path.exists() {
            run::output(Command::new("git").args(["init", "--quiet", "--bare", "--initial-branch=main"]).arg(&path))?;
            for setting in ["http.receivepack", "uploadpack.allowAnySHA1InWant", "uploadpack.allowFilter"] {
                run::output(Command::new("git").arg("-C").arg(&path).args(["config", setting, "true"]))?;
            }
        }
        Ok(self.url(name))
    }

    /// The repository's URL, for the machine and for pods alike.
    pub fn url(&self, name: &str) -> String {
        format!("http://{}:{PORT}/{name}.git", self.ip)
    }

    /// The bare repository itself, to look into it or to damage it.
    pub fn repository(&self, name: &str) -> PathBuf {
        self.folder.join("repositories").join(format!("{name}.git"))
    }

    /// Commits these files (`None` removes one) on top of a branch, which may be new, and pushes. Returns the commit.
    pub async fn commit(
        &self,
        name: &str,
        branch: &str,
        message: &str,
        files: &[(&str, Option<&str>)],
    ) -> Result<String> {
        let work = self.clone_of(name)?;
        let git = |arguments: &[&str]| run::output(Command::new("git").arg("-C").arg(&work).args(arguments));
        git(&["fetch", "--quiet", "--prune", "origin"])?;
        if git(&["rev-parse", "--quiet", "--verify", &format!("refs/remotes/origin/{branch}")]).is_ok() {
            git(&["checkout", "--quiet", "--force", "-B", branch, &format!("origin/{branch}")])?;
        } else if git(&["rev-parse", "--quiet", "--verify", "HEAD"]).is_ok() {
            git(&["checkout", "--quiet", "--force", "-B", branch])?;
        } else {
            git(&["symbolic-ref", "HEAD", &format!("refs/heads/{branch}")])?;
        }
        for (path, content) in files {
            let full = work.join(path);
            if let Some(content) = content {
                fs::create_dir_all(full.parent().context("a file has a folder")?)?;
                fs::write(&full, content)?;
            } else {
                fs::remove_file(&full).with_context(|| format!("{path} is not in {name}"))?;
            }
        }
        git(&["add", "--all"])?;
        git(&["commit", "--quiet", "--allow-empty", "--message", message])?;
        git(&["push", "--quiet", "--force", "origin", branch])?;
        Ok(git(&["rev-parse", "HEAD"])?.trim().to_owned())
    }

    /// A clone to work in by hand: for merges, moved branches, binary files.
    pub fn clone_of(&self, name: &str) -> Result<PathBuf> {
        let work = self.folder.join("clones").join(name);
        if !work.exists() {
            run::output(Command::new("git").args(["clone", "--quiet", &self.url(name)]).arg(&work))?;
            for (key, value) in [("user.name", "A Developer"), ("user.email", "developer@example.com")] {
                run::output(Command::new("git").arg("-C").arg(&work).args(["config", key, value]))?;
            }
        }
        Ok(work)
    }
}
