//! `sluice-operator`; all of it is the library's.

/// Each plan copies and drops what is known of every unit.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> anyhow::Result<()> {
    sluice_operator::process::main()
}
