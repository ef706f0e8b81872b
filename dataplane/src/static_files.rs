//! A hand-written assignment in a file, for tests and for trying things out without a cluster.

use std::{path::PathBuf, time::Duration};

use sluice_config::Assignment;
use tokio::sync::mpsc;

use crate::{control::Input, desired::Accepted};

const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Reads the file whenever its content changes, until the control loop is gone.
pub(crate) async fn follow(path: PathBuf, group: String, to: mpsc::Sender<Input>) {
    let mut last = Vec::new();
    loop {
        match tokio::fs::read(&path).await {
            Ok(bytes) if bytes != last => {
                last = bytes;
                if to.send(parse(&last, &group)).await.is_err() {
                    return;
                }
            }
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(path = %path.display(), %error, "cannot read the assignment file");
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn parse(bytes: &[u8], group: &str) -> Input {
    match serde_json::from_slice::<Assignment>(bytes) {
        Ok(assignment) => Input::Assignment(Accepted { group: group.to_owned(), uid: None, assignment }),
        Err(error) => Input::AssignmentTrouble(format!("the assignment file is not readable: {error}")),
    }
}
