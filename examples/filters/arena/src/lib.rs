//! Memory for guests of short calls: taken from one end to the other, out of what the component starts with.
//!
//! The standard allocator grows the memory before it gives the first byte, which is three system calls in each fresh
//! instance: two to three times what the rest of a small filter's call costs. With `use arena as _;` a guest has this
//! one. What is freed is had again where it was the last, and all of it once nothing is taken any more. That is so at the end
//! of each call, so that an instance that serves many needs no more than for one; where it keeps something from call to
//! call it wants another allocator.

use core::{
    alloc::{GlobalAlloc, Layout},
    arch::wasm32::memory_grow,
    cell::{Cell, UnsafeCell},
    ptr::null_mut,
};

const START_BYTES: usize = 64 << 10;
const PAGE_BYTES: usize = 64 << 10;

#[repr(align(16))]
struct Start(UnsafeCell<[u8; START_BYTES]>);

// SAFETY: a component has one thread.
unsafe impl Sync for Start {}

static START: Start = Start(UnsafeCell::new([0; START_BYTES]));

struct Arena {
    /// The first free byte; 0 before anything was taken.
    next: Cell<usize>,
    end: Cell<usize>,
    /// Where the chunk that is in use begins.
    start: Cell<usize>,
    /// Blocks that are taken.
    taken: Cell<usize>,
}

// SAFETY: a component has one thread.
unsafe impl Sync for Arena {}

#[global_allocator]
static ARENA: Arena = Arena { next: Cell::new(0), end: Cell::new(0), start: Cell::new(0), taken: Cell::new(0) };

impl Arena {
    /// Makes room for so many bytes at `next`, or elsewhere if that is where memory grows.
    fn room(&self, layout: Layout) -> Option<usize> {
        if self.next.get() == 0 {
            self.start.set(START.0.get() as usize);
            self.next.set(self.start.get());
            self.end.set(START.0.get() as usize + START_BYTES);
        }
        let at = self.next.get().next_multiple_of(layout.align());
        if at.checked_add(layout.size())? <= self.end.get() {
            return Some(at);
        }
        let pages = layout.size().checked_add(layout.align())?.div_ceil(PAGE_BYTES);
        let grown = memory_grow::<0>(pages);
        if grown == usize::MAX {
            return None;
        }
        let from = grown * PAGE_BYTES;
        // What is left of the chunk before is lost, unless memory goes on where that ended.
        if from != self.end.get() {
            self.start.set(from);
            self.next.set(from);
        }
        self.end.set(from + pages * PAGE_BYTES);
        Some(self.next.get().next_multiple_of(layout.align()))
    }
}

// SAFETY: every block lies between `next` and `end` when it is given out, and `next` moves past it.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(at) = self.room(layout) else {
            return null_mut();
        };
        self.next.set(at + layout.size());
        self.taken.set(self.taken.get() + 1);
        at as *mut u8
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        self.taken.set(self.taken.get() - 1);
        if self.taken.get() == 0 {
            self.next.set(self.start.get());
        } else if block as usize + layout.size() == self.next.get() {
            self.next.set(block as usize);
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let is_last = block as usize + layout.size() == self.next.get();
        if is_last && block as usize + size <= self.end.get() {
            self.next.set(block as usize + size);
            return block;
        }
        // SAFETY: the caller's promises, with another size; the two blocks do not overlap.
        unsafe {
            let moved = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !moved.is_null() {
                core::ptr::copy_nonoverlapping(block, moved, layout.size().min(size));
                self.taken.set(self.taken.get() - 1);
            }
            moved
        }
    }
}
