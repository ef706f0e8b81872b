//! Flags and environment variables, parsed once.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args as ClapArgs, Parser, Subcommand};
use sluice_worker::compiler::CompileLimits;

/// Command line of the dataplane.
#[derive(Parser, Debug)]
#[command(name = "sluice-dataplane", version, about, args_conflicts_with_subcommands = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) args: Args,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Print the digest of a file: of the content of a revision (.json), else of its bytes.
    Digest { file: PathBuf },
    /// Compile a component from standard input: what a node starts for itself, once a component.
    #[command(hide = true)]
    Compile {
        #[arg(long)]
        memory_bytes: u64,
        #[arg(long)]
        cpu_seconds: u64,
    },
}

#[derive(ClapArgs, Debug, Clone)]
pub(crate) struct Args {
    /// Name of the Kubernetes node, and of the DataplaneNode that this process reports to.
    #[arg(long, env = "SLUICE_NODE", default_value = "local")]
    pub(crate) node: String,
    /// Name of the pod.
    #[arg(long, env = "SLUICE_POD", default_value = "local")]
    pub(crate) pod: String,
    /// Address of the pod, as the operator reaches the admin listener; the admin address otherwise.
    #[arg(long, env = "SLUICE_POD_IP")]
    pub(crate) pod_ip: Option<std::net::IpAddr>,
    /// Namespace of the pod and of the operator.
    #[arg(long, env = "SLUICE_NAMESPACE", default_value = "sluice-system")]
    pub(crate) namespace: String,
    /// Deployment group, the name of the Assignment to follow.
    #[arg(long, env = "SLUICE_GROUP", default_value = "local")]
    pub(crate) group: String,
    /// Where clients come in, plain HTTP/1.1.
    #[arg(long, env = "SLUICE_LISTEN", default_value = "0.0.0.0:8080")]
    pub(crate) listen: SocketAddr,
    /// Where /healthz, /readyz, /metrics, /counters, /report and /traces are.
    #[arg(long, env = "SLUICE_ADMIN", default_value = "0.0.0.0:9090")]
    pub(crate) admin: SocketAddr,
    /// Disk cache: artifacts, revisions and the last assignment. An emptyDir is enough.
    #[arg(long, env = "SLUICE_STATE_DIR", default_value = "/var/lib/sluice")]
    pub(crate) state_dir: PathBuf,
    /// Where the operator's replicas serve artifacts; https://sluice-operator-artifacts.NAMESPACE.svc:8443 otherwise.
    #[arg(long, env = "SLUICE_ARTIFACTS_URL")]
    pub(crate) artifacts_url: Option<String>,
    /// PEM file with the only authorities trusted to sign that server's certificate; read again at each fetch.
    #[arg(long, env = "SLUICE_ARTIFACTS_CA", default_value = "/etc/sluice/ca/ca.crt")]
    pub(crate) artifacts_ca: PathBuf,
    /// Projected service account token for that server; read again at each fetch.
    #[arg(long, env = "SLUICE_TOKEN_FILE", default_value = "/var/run/secrets/sluice/token")]
    pub(crate) token_file: PathBuf,
    /// Seconds from SIGTERM to the end of the process, where connections last that long.
    #[arg(long, env = "SLUICE_DRAIN_SECONDS", default_value_t = 30)]
    pub(crate) drain_seconds: u64,
    /// Threads that serve requests; as many as CPUs otherwise.
    #[arg(long, env = "SLUICE_THREADS")]
    pub(crate) threads: Option<usize>,
    /// Requests inside the chain at once; what is above gets 503.
    #[arg(long, env = "SLUICE_REQUESTS_MAX", default_value_t = 10_000)]
    pub(crate) requests_max: usize,
    /// Worker instances at once, over all requests and all workers of a contract; what is above is shed. A quarter of them may be
    /// waiting for another call.
    #[arg(long, env = "SLUICE_INSTANCES_MAX", default_value_t = 1_000)]
    pub(crate) instances_max: u32,
    /// Of so many requests, one is traced: /traces of the admin listener tells what each worker changed of the last 100, headers by
    /// name alone. 0: none.
    #[arg(long, env = "SLUICE_TRACE_EVERY", default_value_t = 0)]
    pub(crate) trace_every: u64,
    /// While the node is busy, the part of its threads' CPU time that one worker of several may always have, in percent (an equal
    /// part where that is more); what is above, and not left by the others, is shed. 100: nothing is.
    #[arg(long, env = "SLUICE_UNIT_CPU_PERCENT", default_value_t = 25, value_parser = clap::value_parser!(u64).range(1..=100))]
    pub(crate) unit_cpu_percent: u64,
    /// Memory that compiling one worker may take, in MiB; a worker that needs more is refused.
    #[arg(long, env = "SLUICE_COMPILE_MEMORY_MIB", default_value_t = 512,
          value_parser = clap::value_parser!(u64).range(16..=65_536))]
    pub(crate) compile_memory_mib: u64,
    /// CPU time that compiling one worker may take; a worker that needs more is refused.
    #[arg(long, env = "SLUICE_COMPILE_CPU_SECONDS", default_value_t = 60,
          value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub(crate) compile_cpu_seconds: u64,
    /// Seconds on the clock after which compiling a worker is given up, to be tried again.
    #[arg(long, env = "SLUICE_COMPILE_SECONDS", default_value_t = 600,
          value_parser = clap::value_parser!(u64).range(1..=36_000))]
    pub(crate) compile_seconds: u64,
    /// What compiles in place of this program: for tests.
    #[arg(long, hide = true)]
    pub(crate) compiler: Option<PathBuf>,
    /// Let upstreams and fetches be on this host: for trying things out and for tests.
    #[arg(long, env = "SLUICE_ALLOW_LOOPBACK")]
    pub(crate) allow_loopback: bool,
    /// Serve this hand-written assignment (JSON) instead of following an API server; read again when it changes.
    #[arg(long, env = "SLUICE_ASSIGNMENT_FILE", requires = "revisions_dir")]
    pub(crate) assignment_file: Option<PathBuf>,
    /// Revisions (*.json) and artifacts (*.wasm) for --assignment-file, in any file names.
    #[arg(long, env = "SLUICE_REVISIONS_DIR", requires = "assignment_file")]
    pub(crate) revisions_dir: Option<PathBuf>,
    /// What is logged, as in `info,sluice_dataplane=debug`.
    #[arg(long, env = "SLUICE_LOG", default_value = "info")]
    pub(crate) log: String,
}

impl Args {
    /// `host:port` of the admin listener, as the report names it.
    pub(crate) fn admin_address(&self, bound: SocketAddr) -> String {
        let ip = self.pod_ip.unwrap_or(bound.ip());
        SocketAddr::new(ip, bound.port()).to_string()
    }

    pub(crate) fn threads(&self) -> usize {
        let cpus = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        self.threads.unwrap_or_else(cpus).clamp(1, 1024)
    }

    pub(crate) fn drain(&self) -> Duration {
        Duration::from_secs(self.drain_seconds.clamp(1, 3600))
    }

    pub(crate) fn compile_limits(&self) -> CompileLimits {
        CompileLimits {
            memory_bytes: self.compile_memory_mib << 20,
            cpu_seconds: self.compile_cpu_seconds,
            wall: Duration::from_secs(self.compile_seconds),
        }
    }

    pub(crate) fn artifacts_url(&self) -> String {
        let default = || format!("https://sluice-operator-artifacts.{}.svc:8443", self.namespace);
        self.artifacts_url.clone().unwrap_or_else(default)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn the_compiler_is_started_as_it_is_parsed() {
        let limits = ["--memory-bytes=1048576", "--cpu-seconds=7"];
        let cli = Cli::parse_from(["x", sluice_worker::compiler::COMMAND].into_iter().chain(limits));
        let Some(Command::Compile { memory_bytes, cpu_seconds }) = cli.command else { panic!("{cli:?}") };
        assert_eq!((memory_bytes, cpu_seconds), (1 << 20, 7));
    }

    #[test]
    fn the_report_names_the_pods_address() {
        let cli = Cli::parse_from(["x", "--pod-ip", "10.1.2.3"]);
        let bound = SocketAddr::from(([0, 0, 0, 0], 9090));
        assert_eq!(cli.args.admin_address(bound), "10.1.2.3:9090");
        assert_eq!(cli.args.artifacts_url(), "https://sluice-operator-artifacts.sluice-system.svc:8443");
    }
}
