//! How much memory a compiler may have, so that none of them brings the pod over its limit.
//!
//! Over that limit the kernel ends every process of the container (`memory.oom.group`, which kubelets set), the one that
//! serves as well. So a compiler that would not fit beside others waits for them, and one that is alone takes what there
//! is. Only who had all that any compiler gets tells something about its component.

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{sync::Notify, task::spawn_blocking};

/// What serving may take meanwhile.
const RESERVE_BYTES: u64 = 64 << 20;

/// What this process' memory limit leaves; nothing where there is no limit.
pub(super) type Left = fn() -> Option<u64>;

pub(super) struct Room {
    /// For each compiler.
    bytes: u64,
    left: Left,
    running: Mutex<u64>,
    freed: Notify,
}

/// A compiler's memory, then that of what it made; free again when dropped.
pub(super) struct Share {
    room: Arc<Room>,
    bytes: u64,
}

impl Room {
    pub(super) fn new(bytes: u64, left: Left) -> Self {
        Self { bytes, left, running: Mutex::new(0), freed: Notify::new() }
    }

    pub(super) async fn enter(self: &Arc<Self>) -> Share {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            // From here on no end of a compiler is missed.
            freed.as_mut().enable();
            let left = spawn_blocking(self.left).await.ok().flatten();
            if let Some(share) = self.try_enter(left) {
                return share;
            }
            freed.await;
        }
    }

    fn try_enter(self: &Arc<Self>, left: Option<u64>) -> Option<Share> {
        let mut running = self.running();
        // What those have taken by now is counted twice: too careful rather than too late.
        let promised = running.saturating_mul(self.bytes);
        let bytes = left.map_or(self.bytes, |left| left.saturating_sub(promised).min(self.bytes));
        if bytes < self.bytes && *running > 0 {
            return None;
        }
        *running += 1;
        Some(Share { room: self.clone(), bytes })
    }

    fn running(&self) -> MutexGuard<'_, u64> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn is_whole(&self) -> bool {
        self.bytes == self.room.bytes
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        *self.room.running() -= 1;
        self.room.freed.notify_waiters();
    }
}

/// What the cgroup (v2) leaves, without what the kernel gives back by itself.
pub(super) fn left() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    left_in(&Path::new("/sys/fs/cgroup").join(own))
}

fn left_in(group: &Path) -> Option<u64> {
    let read = |file: &str| fs::read_to_string(group.join(file)).ok();
    let number = |text: &str| text.trim().parse::<u64>().ok();
    // `max` is no number: there is no limit.
    let max = number(&read("memory.max")?)?;
    let used = number(&read("memory.current")?)?;
    let stat = read("memory.stat")?;
    let given_back = stat.lines().find_map(|line| number(line.strip_prefix("inactive_file ")?)).unwrap_or(0);
    Some(max.saturating_sub(used.saturating_sub(given_back)).saturating_sub(RESERVE_BYTES))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MIB: u64 = 1 << 20;

    #[tokio::test]
    async fn without_a_limit_all_have_all() {
        let room = Arc::new(Room::new(512 * MIB, || None));
        let shares = [room.enter().await, room.enter().await, room.enter().await];
        assert!(shares.iter().all(Share::is_whole));
    }

    #[tokio::test]
    async fn one_that_does_not_fit_beside_another_waits_for_its_end() {
        let room = Arc::new(Room::new(512 * MIB, || Some(800 * MIB)));
        let first = room.enter().await;
        assert!(first.is_whole());
        assert!(room.try_enter(Some(800 * MIB)).is_none());
        let mut second = Box::pin(room.enter());
        let waits = tokio::time::timeout(Duration::from_millis(100), &mut second).await;
        assert!(waits.is_err(), "there is room for one");
        drop(first);
        assert!(second.await.is_whole());
    }

    #[tokio::test]
    async fn one_that_is_alone_takes_what_there_is() {
        let room = Arc::new(Room::new(512 * MIB, || Some(100 * MIB)));
        let share = room.enter().await;
        assert_eq!((share.bytes(), share.is_whole()), (100 * MIB, false));
    }

    #[test]
    fn what_a_cgroup_leaves_is_read() {
        let dir = std::env::temp_dir().join(format!("sluice-room-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let write = |file: &str, text: &str| fs::write(dir.join(file), text).unwrap();
        assert_eq!(left_in(&dir), None, "no cgroup v2");
        write("memory.max", "1073741824\n");
        write("memory.current", "524288000\n");
        write("memory.stat", "anon 419430400\ninactive_file 104857600\nactive_file 0\n");
        assert_eq!(left_in(&dir), Some(1024 * MIB - 400 * MIB - RESERVE_BYTES));
        write("memory.max", "max\n");
        assert_eq!(left_in(&dir), None);
        fs::remove_dir_all(&dir).unwrap();
    }
}
