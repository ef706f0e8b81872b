//! What never ends by itself: for tests of what ends it.

/// Until it has used its CPU time.
#[allow(clippy::empty_loop, reason = "what it is for")]
pub fn spin() -> ! {
    loop {
        std::hint::spin_loop();
    }
}

/// Until it has used its memory.
pub fn alloc() -> ! {
    let mut all = Vec::new();
    loop {
        all.push(vec![1_u8; 1 << 20]);
        std::hint::black_box(&all);
    }
}
