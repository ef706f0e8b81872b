//! `demo`: tells the story on a cluster named demo and leaves it up.

use anyhow::{Result, bail};

const NAME: &str = "demo";

#[tokio::main]
async fn main() -> Result<()> {
    tracing_subscriber::fmt().with_env_filter("warn,kube_client=off").with_writer(std::io::stderr).init();
    let ending = match sluice_e2e::demo::tell(NAME).await {
        Ok(ending) => ending,
        Err(error) => {
            eprintln!(
                "\nThe demo did not go as told. The cluster is still up for a look; `make demo-down` removes it."
            );
            return Err(error);
        }
    };
    println!("{}", ending.figures.table());
    println!("The same is in {}.", ending.figures.write("demo")?.display());
    println!("The cluster stays up: export KUBECONFIG={}", ending.stage.cluster.kubeconfig_path().display());
    println!("Look around with kubectl get rollouts,units,dpn,dg -A; `make demo-down` removes all of it.");
    let missed: Vec<&str> = ending.figures.missed().map(|row| row.name.as_str()).collect();
    if !missed.is_empty() {
        bail!("goals missed: {}", missed.join(", "));
    }
    Ok(())
}
