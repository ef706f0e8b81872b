"""What the chain is compared with: the same steps, as each of them does such things, before the same upstream."""

import contextlib
import pathlib
import shutil
import subprocess
import tempfile
import urllib.request

import node

UPSTREAM = 18400
# The same on an address of its own, for who is told a name and no port.
SHOP = "127.0.1.1"


class Server:
    """A process on one core, in a folder of its own."""

    def __init__(self, core, port, files, command, host="127.0.0.1"):
        self.host, self.port = host, port
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="sluice-bench-"))
        # Some let go of root's rights before they read.
        self.dir.chmod(0o755)
        for name, text in files.items():
            (self.dir / name).write_text(text.replace("@dir@", str(self.dir)))
        command = [str(part).replace("@dir@", str(self.dir)) for part in command]
        self.log = open(self.dir / "log", "w")
        self.process = subprocess.Popen(["taskset", "-c", core, *command], stdout=self.log, stderr=self.log, cwd=self.dir)
        try:
            node.wait(self.answers, 30, f"{command[0]} answers")
        except RuntimeError as error:
            text = (self.dir / "log").read_text()[-2000:]
            self.stop()
            raise RuntimeError(f"{error}\n{text}") from None

    def answers(self):
        request = urllib.request.Request(f"http://{self.host}:{self.port}/shop", headers={"host": node.HOST})
        with urllib.request.urlopen(request, timeout=5) as response:
            return response.status == 200

    def stop(self):
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.dir)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


NGINX = """
daemon off; worker_processes 1; pid @dir@/pid; error_log stderr error;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 3600s; client_body_temp_path @dir@/body; proxy_temp_path @dir@/proxy;
  fastcgi_temp_path @dir@/fastcgi; uwsgi_temp_path @dir@/uwsgi; scgi_temp_path @dir@/scgi;
  {servers}
}}
"""

HOP = """
upstream to_{port} {{ server 127.0.0.1:{to} max_fails=0; keepalive 64; keepalive_requests 1000000000; }}
server {{ listen 127.0.0.1:{port} backlog=4096; location / {{
  proxy_pass http://to_{port}; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host;
  proxy_set_header X-Step "v$http_user_agent$host"; }} }}
"""


def upstream(core):
    """The application behind all of them."""
    listens = f"listen 127.0.0.1:{UPSTREAM} backlog=4096; listen {SHOP}:80 backlog=4096;"
    servers = f"server {{ {listens} location / {{ return 200 'the shop\\n'; }} }}"
    return nginx_with(core, UPSTREAM, servers)


def nginx(core, steps):
    """A proxy for each step, one behind the other, in one process."""
    ports = [18410 + n for n in range(max(steps, 1))] + [UPSTREAM]
    hops = "".join(HOP.format(port=port, to=to) for port, to in zip(ports, ports[1:]))
    return nginx_with(core, ports[0], hops)


def nginx_with(core, port, servers):
    return Server(core, port, {"nginx.conf": NGINX.format(servers=servers)}, ["nginx", "-p", "@dir@", "-c", "@dir@/nginx.conf"])


STEP_JS = """
export default {
  async fetch(request, env) {
    const last = (name) => (request.headers.get(name) ?? "-").slice(-1);
    const headers = new Headers(request.headers);
    headers.set("x-step", "v" + last("host") + last("user-agent"));
    return env.NEXT.fetch(new Request(request, { headers }));
  }
};
"""


def workerd(core, steps):
    """A worker for each step, joined by service bindings."""
    names = [f"step{n}" for n in range(steps)]
    services, socket = "", "shop"
    for name, following in zip(names, names[1:] + ["shop"]):
        services += f'(name = "{name}", worker = (modules = [(name = "step", esModule = embed "step.js")], ' \
                    f'compatibilityDate = "2026-01-01", bindings = [(name = "NEXT", service = "{following}")])),\n'
    if names:
        socket = names[0]
    config = f"""
using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [
    {services}
    (name = "shop", external = (address = "127.0.0.1:{UPSTREAM}", http = ())),
  ],
  sockets = [(name = "http", address = "127.0.0.1:18440", http = (), service = "{socket}")],
);
"""
    binary = node.cache() / "bench/workerd/node_modules/@cloudflare/workerd-linux-64/bin/workerd"
    return Server(core, 18440, {"config.capnp": config, "step.js": STEP_JS}, [binary, "serve", "config.capnp"])


def envoy(core, steps, kind):
    """A filter for each step in one listener: `native`, Envoy's own mutation of headers, or `wasm`, a filter of proxy-wasm."""
    wasm = node.cache() / "bench/target/wasm32-wasip1/release/proxy_wasm_step.wasm"
    filters = {
        "native": lambda n: f"""
          - name: step{n}
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation
              mutations:
                request_mutations:
                - append:
                    header: {{key: x-step, value: "v%REQ(:AUTHORITY)%%REQ(USER-AGENT)%"}}
                    append_action: OVERWRITE_IF_EXISTS_OR_ADD""",
        "wasm": lambda n: f"""
          - name: step{n}
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm
              config:
                name: step{n}
                root_id: step{n}
                vm_config:
                  vm_id: step{n}
                  runtime: envoy.wasm.runtime.v8
                  code: {{local: {{filename: {wasm}}}}}""",
    }[kind]
    config = f"""
static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: 18460}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: bench
          route_config:
            virtual_hosts:
            - name: shop
              domains: ["*"]
              routes: [{{match: {{prefix: "/"}}, route: {{cluster: shop}}}}]
          http_filters:{"".join(filters(n) for n in range(steps))}
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
  - name: shop
    type: STATIC
    load_assignment:
      cluster_name: shop
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {UPSTREAM}}}}}}}}}]}}]
"""
    command = [node.cache() / "bench/envoy/bin/envoy", "-c", "@dir@/envoy.yaml", "--concurrency", "1", "--log-level", "error", "--disable-hot-restart"]
    return Server(core, 18460, {"envoy.yaml": config}, command)


def wasmtime(core, steps):
    """`wasmtime serve`, a process for each step: the same component as in Sluice. What it calls `next.sluice` is the process behind
    it, or the application: each has a file of names of its own."""
    binary = node.cache() / "bench/wasmtime/bin/wasmtime"
    wasm = node.cache() / "guests/step-proxy.wasm"
    named = 'mount --bind @dir@/hosts /etc/hosts && exec "$@"'
    places = [("127.0.0.1", 18490)] + [(f"127.0.1.{n + 1}", 80) for n in range(1, steps)]

    with contextlib.ExitStack() as row:
        for (host, port), (behind, _) in reversed(list(zip(places, [*places[1:], (SHOP, 80)]))):
            command = ["unshare", "--mount", "sh", "-c", named, "sh", binary, "serve", "-S", "cli", "--addr", f"{host}:{port}", wasm]
            first = row.enter_context(Server(core, port, {"hosts": f"{behind} next.sluice\n"}, command, host))
        all_of_them = row.pop_all()
    all_of_them.port = first.port
    return all_of_them


def sluice(core, steps, kind, reuse):
    """A worker for each step, in one chain."""
    wasm = {"filter": "step-filter", "wasi:http 0.2": "step-proxy", "wasi:http 0.3": "step-handler"}[kind]
    there = node.Node(18480, core)
    units = [node.worker(f"step-{n}", node.guest(wasm, str(n)), order=n, reuse=1_000_000 if reuse else None) for n in range(steps)]
    there.assign([*units, node.routes(f"127.0.0.1:{UPSTREAM}")])
    return there.start()
