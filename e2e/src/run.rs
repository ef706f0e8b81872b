//! Running a short command to its end, with an error that shows what it printed.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

/// Runs and returns standard output; a failure carries the command and its standard error.
pub fn output(command: &mut Command) -> Result<String> {
    finish(command.stdin(Stdio::null()), None)
}

/// The same with text on standard input.
pub fn output_with_input(command: &mut Command, input: &str) -> Result<String> {
    finish(command.stdin(Stdio::piped()), Some(input))
}

/// The same without holding up the runtime, for what takes longer.
pub async fn output_later(command: Command, input: Option<String>) -> Result<String> {
    let mut command = command;
    tokio::task::spawn_blocking(move || match input {
        Some(input) => output_with_input(&mut command, &input),
        None => output(&mut command),
    })
    .await?
}

/// Runs words separated by blanks: for commands whose arguments contain none.
pub fn words(line: &str) -> Result<String> {
    let mut words = line.split_whitespace();
    let program = words.next().context("an empty command")?;
    output(Command::new(program).args(words))
}

fn finish(command: &mut Command, input: Option<&str>) -> Result<String> {
    let shown = shown(command);
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().with_context(|| format!("cannot run {shown}"))?;
    if let (Some(mut pipe), Some(text)) = (child.stdin.take(), input) {
        // A command that fails early closes its end; its own message says why.
        let _ = pipe.write_all(text.as_bytes());
    }
    let result = child.wait_with_output().with_context(|| format!("{shown} did not end"))?;
    if !result.status.success() {
        bail!("{shown} failed ({}): {}", result.status, String::from_utf8_lossy(&result.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&result.stdout).into_owned())
}

fn shown(command: &Command) -> String {
    let mut shown = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        shown.push(' ');
        shown.push_str(&argument.to_string_lossy());
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_was_run_and_what_it_said() {
        let error = words("ls /no/such/path").expect_err("no such path").to_string();
        assert!(error.contains("ls /no/such/path"), "{error}");
        assert!(error.contains("No such file"), "{error}");
    }

    #[test]
    fn input_reaches_the_command() {
        assert_eq!(output_with_input(&mut Command::new("cat"), "hello").expect("cat"), "hello");
    }
}
