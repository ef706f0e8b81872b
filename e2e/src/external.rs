//! A cluster that the user named on purpose: used, never changed or removed by the harness itself.

use std::{path::PathBuf, process::Command};

use anyhow::{Context, Result, bail};

use crate::{
    control_plane::client,
    image::Image,
    run,
    state::{Folder, write_whole},
    tools,
};

/// A context of the user's kubeconfig.
#[derive(Clone, Debug)]
pub(crate) struct External {
    /// Its name.
    pub(crate) context: String,
    /// A kubeconfig that holds only this context.
    pub(crate) kubeconfig: PathBuf,
    folder: Folder,
}

impl External {
    /// Looks the context up and sees that the cluster answers.
    pub(crate) async fn of(context: &str) -> Result<Self> {
        let plain: String =
            context.to_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let folder = Folder::of(&format!("context-{}", &plain[..plain.len().min(30)]))?;
        let mut kubectl = Command::new(tools::kubectl());
        kubectl.args(["config", "view", "--minify", "--flatten", "--raw", "--context", context]);
        let text = run::output(&mut kubectl).with_context(|| format!("your kubeconfig has no context {context}"))?;
        std::fs::create_dir_all(folder.path())?;
        let kubeconfig = folder.join("kubeconfig");
        write_whole(&kubeconfig, &text)?;
        let version = client(&kubeconfig).await?.apiserver_version().await;
        version.with_context(|| format!("the cluster of context {context} does not answer"))?;
        Ok(Self { context: context.to_owned(), kubeconfig, folder })
    }

    /// Loads an image into kind; elsewhere the user has to bring it.
    pub(crate) async fn import_image(&self, image: &Image) -> Result<()> {
        let Some(name) = self.context.strip_prefix("kind-") else {
            bail!(
                "cannot load {} into context {}: push it to a registry that the cluster reaches",
                image.reference(),
                self.context
            );
        };
        let archive = image.write_archive(&self.folder)?;
        let mut kind = Command::new("kind");
        kind.args(["load", "image-archive", "--name", name]).arg(&archive);
        run::output_later(kind, None).await?;
        Ok(())
    }
}
