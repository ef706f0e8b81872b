//! What the node says it runs, made from what the control loop decided.

use sluice_config::{Exception, FORMAT, MAX_EXCEPTIONS, NodeReport};

/// Status messages are for people; the whole story is in the log.
const MESSAGE_BYTES_MAX: usize = 512;

/// Who reports.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) group: String,
    pub(crate) boot: String,
    pub(crate) pod: String,
    pub(crate) admin: String,
}

/// The report: everything as assigned but for the exceptions, of which at most 50 are listed.
pub(crate) fn report(
    who: &Identity,
    applied_generation: u64,
    exceptions: &[Exception],
    last_error: Option<String>,
) -> NodeReport {
    let listed = exceptions.iter().take(MAX_EXCEPTIONS).map(|e| Exception { message: clip(&e.message), ..e.clone() });
    NodeReport {
        group: who.group.clone(),
        boot: who.boot.clone(),
        pod: who.pod.clone(),
        admin: who.admin.clone(),
        applied_generation,
        exceptions: listed.collect(),
        exceptions_total: u32::try_from(exceptions.len()).unwrap_or(u32::MAX),
        last_error: last_error.map(|e| clip(&e)),
        formats: vec![FORMAT],
        contracts: sluice_worker::CONTRACTS.map(str::to_owned).to_vec(),
    }
}

fn clip(text: &str) -> String {
    if text.len() <= MESSAGE_BYTES_MAX {
        return text.to_owned();
    }
    let mut end = MESSAGE_BYTES_MAX;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}

#[cfg(test)]
mod tests {
    use sluice_config::{Digest, ExceptionKind, UnitKind};

    use super::*;

    #[test]
    fn at_most_50_exceptions_are_listed_and_all_are_counted() {
        let who = Identity { group: "canary".into(), boot: "b".into(), pod: "p".into(), admin: "10.0.0.1:9090".into() };
        let exception = Exception {
            kind: UnitKind::Worker,
            namespace: "team".into(),
            name: "a".into(),
            revision: Digest::of(b"a"),
            reason: ExceptionKind::Refused,
            message: "é".repeat(10_000),
        };
        let report = report(&who, 7, &vec![exception; 80], None);
        assert_eq!(report.exceptions.len(), 50);
        assert_eq!(report.exceptions_total, 80);
        assert!(report.exceptions[0].message.len() < 600);
    }
}
