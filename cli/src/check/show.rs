//! Findings as lines for people and as JSON for programs. Pure.
#![forbid(unsafe_code)]

use super::{Finding, Status};
use pyxis_runtime::{Error, Result};

/// The number of the JSON's shape: it goes up when something in it changes its meaning or goes away.
const SHAPE: u32 = 1;

/// Nothing was found that keeps containers from starting.
pub fn will_start(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.status != Status::Fail)
}

/// One line for each finding, and one that says what it means.
pub fn lines(findings: &[Finding]) -> String {
    let width = findings
        .iter()
        .map(|finding| finding.what.chars().count())
        .max()
        .unwrap_or(0)
        + 1;
    let lines = findings.iter().map(|finding| {
        let what = format!("{}:", finding.what);
        let advice = finding
            .advice
            .as_ref()
            .map_or_else(String::new, |advice| format!("; {advice}"));
        let text = format!("{:4}  {what:width$} {}{advice}", finding.status.word(), finding.fact);
        printable(&text) + "\n"
    });
    lines.collect::<String>() + "\n" + &verdict(findings) + "\n"
}

fn verdict(findings: &[Finding]) -> String {
    let count = |status| findings.iter().filter(|finding| finding.status == status).count();
    let (failed, warnings, skipped) = (count(Status::Fail), count(Status::Warn), count(Status::Skip));
    let mut text = match failed {
        0 if skipped > 0 => "nothing was found that keeps containers from starting".to_owned(),
        0 => "containers will start".to_owned(),
        1 => "containers will not start: 1 thing to mend".to_owned(),
        more => format!("containers will not start: {more} things to mend"),
    };
    for (number, one, many) in [
        (warnings, "warning", "warnings"),
        (skipped, "not looked at", "not looked at"),
    ] {
        match number {
            0 => {}
            1 => text += &format!(", 1 {one}"),
            _ => text += &format!(", {number} {many}"),
        }
    }
    text
}

/// Names of files and words of other programs may hold anything.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// `{"version", "will_start", "findings": [{"id", "status", "what", "fact", "advice"}]}`.
pub fn json(findings: &[Finding]) -> Result<String> {
    let report = serde_json::json!({
        "version": SHAPE,
        "will_start": will_start(findings),
        "findings": findings,
    });
    let text = serde_json::to_string_pretty(&report).map_err(|error| Error::Host(error.to_string()))?;
    Ok(text + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use pyxis_runtime::check::Subject;

    const ONE: Subject = Subject::new("kernel.one", "one");
    const LONGER: Subject = Subject::new("kernel.longer", "longer");

    #[test]
    fn lines_are_aligned_and_say_what_to_do() {
        let findings = [ONE.ok("3"), LONGER.warn("slow", "be\tquick"), ONE.skip("only root can")];
        let text = "ok    one:    3\n\
                    warn  longer: slow; be quick\n\
                    skip  one:    not looked at: only root can\n\
                    \n\
                    nothing was found that keeps containers from starting, 1 warning, 1 not looked at\n";
        assert_eq!(lines(&findings), text);
    }

    #[test]
    fn one_failure_is_enough() {
        let findings = [
            ONE.ok("3"),
            LONGER.fail("gone", "get it"),
            LONGER.fail("gone", "get it"),
        ];
        assert!(!will_start(&findings));
        assert!(lines(&findings).ends_with("\ncontainers will not start: 2 things to mend\n"));
        assert!(lines(&findings[..2]).ends_with("\ncontainers will not start: 1 thing to mend\n"));
    }

    #[test]
    fn the_shape_of_the_json() {
        let findings = [ONE.ok("3"), LONGER.fail("gone", "get it")];
        let value: serde_json::Value = serde_json::from_str(&json(&findings).unwrap()).unwrap();
        let wanted = serde_json::json!({
            "version": 1,
            "will_start": false,
            "findings": [
                {"id": "kernel.one", "status": "ok", "what": "one", "fact": "3", "advice": null},
                {"id": "kernel.longer", "status": "fail", "what": "longer", "fact": "gone", "advice": "get it"},
            ],
        });
        assert_eq!(value, wanted);
    }
}
