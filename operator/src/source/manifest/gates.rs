//! Checks of the gates that a unit brings along: what the cluster's own objects check with CEL.

use std::collections::BTreeSet;

use sluice_crds::{Gate, Job, Prometheus};

use super::fault::{Fault, clip};
use crate::gates::promql;

/// Gates of one unit.
const GATES_MAX: usize = 32;

/// The first thing wrong, without a place: the caller knows where the list stands.
pub(super) fn check(gates: &[Gate]) -> Result<(), Fault> {
    if gates.len() > GATES_MAX {
        return Err(Fault::new(format!("{} gates", gates.len()), format!("keep at most {GATES_MAX}")));
    }
    let mut names = BTreeSet::new();
    for (index, gate) in gates.iter().enumerate() {
        check_one(gate).map_err(|fault| fault.item(index))?;
        if !names.insert(&gate.name) {
            let fault = Fault::new(format!("the gate `{}` stands here twice", clip(&gate.name)), "rename one of them");
            return Err(fault.item(index));
        }
    }
    Ok(())
}

fn check_one(gate: &Gate) -> Result<(), Fault> {
    if !is_unit_name(&gate.name) {
        return Err(Fault::new(format!("`{}` is no name", clip(&gate.name)), NAME_REMEDY).under("name"));
    }
    let given = [gate.soak.is_some(), gate.preset.is_some(), gate.prometheus.is_some(), gate.job.is_some()];
    if given.into_iter().filter(|g| *g).count() != 1 {
        return Err(Fault::new("a gate does exactly one thing", "write one of soak, preset, prometheus or job"));
    }
    if gate.preset.as_ref().is_some_and(|p| p.error_rate.min_requests == 0) {
        let fault = Fault::new("0 requests prove nothing", "write 1 or more");
        return Err(fault.under("minRequests").under("errorRate").under("preset"));
    }
    if let Some(query) = &gate.prometheus {
        check_query(query).map_err(|fault| fault.under("prometheus"))?;
    }
    match &gate.job {
        Some(job) => check_job(job).map_err(|fault| fault.under("job")),
        None => Ok(()),
    }
}

/// What the API server would refuse when the gate starts is refused while somebody looks.
fn check_job(job: &Job) -> Result<(), Fault> {
    if job.image.is_empty() || job.image.len() > 500 {
        return Err(Fault::new(format!("{} bytes", job.image.len()), "name an image, 1 to 500 bytes").under("image"));
    }
    if job.command.len() > 64 {
        return Err(Fault::new(format!("{} words", job.command.len()), "write at most 64").under("command"));
    }
    match job.image_pull_policy.as_deref() {
        None | Some("Always" | "IfNotPresent" | "Never") => Ok(()),
        Some(other) => {
            let fault = Fault::new(format!("`{}` is no policy", clip(other)), "write Always, IfNotPresent or Never");
            Err(fault.under("imagePullPolicy"))
        }
    }
}

fn check_query(query: &Prometheus) -> Result<(), Fault> {
    if query.query.is_empty() || query.query.len() > 4096 {
        let fault = Fault::new(format!("{} bytes", query.query.len()), "write 1 to 4096 bytes of PromQL");
        return Err(fault.under("query"));
    }
    if promql::has_at(&query.query) {
        let fault = Fault::new("`@` asks for a fixed time, before the gate's start", "use a range and offset instead");
        return Err(fault.under("query"));
    }
    if !is_condition(&query.fail_when) {
        let fault =
            Fault::new(format!("`{}` compares nothing", clip(&query.fail_when)), "write for example `result > 0.25`");
        return Err(fault.under("failWhen"));
    }
    for (name, count) in [("failureLimit", query.failure_limit), ("successCount", query.success_count)] {
        if !(1..=1000).contains(&count) {
            return Err(Fault::new(format!("{count} samples"), "write 1 to 1000").under(name));
        }
    }
    Ok(())
}

/// `result`, an operator, a number: as the CRD's rule says.
fn is_condition(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("result") else { return false };
    let rest = rest.trim_start_matches(' ');
    let Some(rest) = ["<=", ">=", "==", "!=", "<", ">"].iter().find_map(|op| rest.strip_prefix(op)) else {
        return false;
    };
    let number = rest.trim_start_matches(' ');
    let number = number.strip_prefix('-').unwrap_or(number);
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    match number.split_once('.') {
        Some((whole, decimals)) => digits(whole) && digits(decimals),
        None => digits(number),
    }
}

pub(super) const NAME_REMEDY: &str = "write 1 to 40 of a-z, 0-9 and -, with no - at either end";

/// What the schema of manifests asks of names.
pub(super) fn is_unit_name(text: &str) -> bool {
    let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty() && text.len() <= 40 && text.bytes().all(ok) && !text.starts_with('-') && !text.ends_with('-')
}
