//! Random scripts, the same at each run: what nobody thought of must keep the promises, too.

/// A tiny generator; quality does not matter, repeatability does.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % limit
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }

    /// The cluster that all random scripts start with.
    pub fn setting() -> Vec<String> {
        let lines = "group st staging 10 nodes st-1 gates soak:30s job:e2e
group internal production 10 nodes int-1,int-2 gates soak:1m errors:1%:50
group canary production 20 nodes edge-1,edge-2 deadline 2m hold 1h gates soak:2m job:e2e query:latency:30s:2
group eu production 30 nodes eu-1 window 1h gates soak:1m
group us production 30 nodes us-1 optional pauses gates soak:1m:100
traffic a:v1 10/s 0%
traffic a:v2 10/s 0%
traffic b:v1 10/s 0%
traffic b:v2 10/s 30%
traffic b:v3 10/s 0%
traffic routes/c:v1 10/s 0%
traffic routes/c:v2 10/s 0%";
        lines.lines().map(str::to_owned).collect()
    }

    /// One more line; `rollouts` are those that exist.
    pub fn line(&mut self, rollouts: &[String]) -> String {
        let unit = self.pick(&["a", "b", "routes/c"]);
        let version = self.pick(&["v1", "v2", "v3", "removed"]);
        let node = self.pick(&["st-1", "int-1", "int-2", "edge-1", "edge-2", "eu-1", "us-1"]);
        let environment = self.pick(&["staging", "production", "production"]);
        let verb = self.pick(&["pause", "resume", "abort", "approve", "retry", "rollback"]);
        let wait = self.pick(&["3s", "20s", "70s", "5m", "20m", "2h"]);
        let rollout = rollouts.get(self.below(rollouts.len().max(1))).cloned();
        match (self.below(23), rollout) {
            (0..=3, _) => format!("push {environment} {unit}:{version}"),
            (4, _) => format!("push staging a:{version} b:{version} routes/c:{version}"),
            (5, _) if self.below(2) == 0 => format!("push {environment} a:{version} b:v1 together ab"),
            (5, _) => format!("push production a:{version} b:{version} routes/c:{version}"),
            (6 | 7, Some(rollout)) => format!("{verb} {rollout} \"why not\""),
            (8, _) => format!("node {node} {}", self.pick(&["lags", "keeps up", "keeps up", "keeps up"])),
            (9, _) => format!("node {node} {}", self.pick(&["down", "up", "up", "up"])),
            (10, _) => format!("node {node} {}", self.pick(&["has trouble \"disk full\"", "is well", "is well"])),
            (11, _) => {
                format!("job e2e {}", self.pick(&["fails \"no\"", "fails while b:v2", "errors \"pull\"", "passes"]))
            }
            (12, _) => {
                format!("query latency {}", self.pick(&["nan", "fails \"1 > 0\"", "good \"0 ≤ 1\"", "error \"x\""]))
            }
            (13, _) => self
                .pick(&[
                    "stale",
                    "backup",
                    "backup",
                    "restore",
                    "restore",
                    "clock +10m",
                    "clock -10m",
                    "confirm production",
                    "seen partly",
                    "seen partly production",
                    "seen whole",
                    "seen whole",
                    "seen whole",
                ])
                .to_owned(),
            (14, Some(rollout)) if self.below(4) == 0 => format!("delete rollout {rollout}"),
            (15, _) if self.below(4) == 0 => format!("delete assignment {}", self.pick(&["st", "internal", "eu"])),
            (17, _) => format!("node {node} {}", self.pick(&["claims 9007199254740991", "claims the truth"])),
            (18, _) => {
                format!("node {node} {}", self.pick(&["lists 0", "lists 50", "refuses all \"full\"", "is well"]))
            }
            (19, _) => format!("node {node} joins {}", self.pick(&["internal", "canary", "eu", "us"])),
            (20, _) => self
                .pick(&[
                    "evidence commit-status",
                    "evidence commit-status",
                    "evidence in-cluster",
                    "elsewhere a:v2 passed",
                    "elsewhere b:v3 failed \"no\"",
                    "elsewhere down",
                    "elsewhere up",
                ])
                .to_owned(),
            (16, _) => format!("dies after {} push {environment} {unit}:{version}", 1 + self.below(6)),
            _ => format!("wait {wait}"),
        }
    }
}
