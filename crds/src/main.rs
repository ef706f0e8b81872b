//! `sluice-crds DIR`: writes the generated files into a folder.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args().nth(1).ok_or("usage: sluice-crds DIR")?;
    std::fs::create_dir_all(&dir)?;
    for (name, content) in sluice_crds::generate::files()? {
        std::fs::write(std::path::Path::new(&dir).join(name), content)?;
    }
    Ok(())
}
