//! `sluice-operator`; all of it is the library's.

fn main() -> anyhow::Result<()> {
    sluice_operator::process::main()
}
