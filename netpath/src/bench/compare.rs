//! Two runs, the older one first: what became worse.

use std::fs;
use std::path::Path;

use anyhow::{Result, anyhow};

use super::results::{Report, SCHEMA};
use super::statistics::Estimate;
use crate::output::table;
use crate::problem::invalid;

/// What became of one ratio.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// What the ratio compares.
    pub what: String,
    /// Before.
    pub old: Estimate,
    /// Now.
    pub new: Estimate,
    /// Now divided by before.
    pub change: f64,
    /// Worse by more than the threshold, and the intervals do not overlap.
    pub worse: bool,
}

/// Reads a run.
///
/// # Errors
/// The file cannot be read, is something else, or of another version.
pub fn read(path: &Path) -> Result<Report> {
    let text = fs::read_to_string(path)
        .map_err(|error| invalid(format!("cannot read {}: {error}", path.display())))?;
    let wrong = |why: String| {
        invalid(format!(
            "{} is no result of `netpath bench --json`: {why}",
            path.display()
        ))
    };
    let value: serde_json::Value =
        serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    let schema = value["schema"].as_u64();
    if schema != Some(SCHEMA.into()) {
        return Err(match schema {
            Some(other) => invalid(format!(
                "{} has the form {other}, this netpath reads {SCHEMA}; make it anew with this \
                 version",
                path.display()
            )),
            None => wrong("it has no field \"schema\"".into()),
        });
    }
    serde_json::from_value(value).map_err(|error| wrong(error.to_string()))
}

/// Every ratio that both runs have.
///
/// # Errors
/// They have none in common.
pub fn changes(old: &Report, new: &Report, threshold: f64) -> Result<Vec<Change>> {
    let changes: Vec<Change> = new
        .comparisons
        .iter()
        .filter_map(|now| {
            let before = old.comparisons.iter().find(|c| c.key() == now.key())?;
            let change = now.ratio.median / before.ratio.median;
            let apart = now.ratio.high < before.ratio.low;
            Some(Change {
                what: now.key(),
                old: before.ratio,
                new: now.ratio,
                change,
                worse: change < 1.0 - threshold && apart,
            })
        })
        .collect();
    if changes.is_empty() {
        return Err(anyhow!(invalid(
            "the two runs have no comparison in common, run both with the same cases"
        )));
    }
    Ok(changes)
}

/// The changes, those that are worse first.
pub fn text(old: &Report, new: &Report, changes: &[Change]) -> String {
    let mut sorted: Vec<&Change> = changes.iter().collect();
    sorted.sort_by(|a, b| a.change.total_cmp(&b.change));
    let rows: Vec<Vec<String>> = sorted
        .iter()
        .map(|change| {
            vec![
                change.what.clone(),
                super::table::interval(&change.old, 2),
                super::table::interval(&change.new, 2),
                format!("{:+.1} %", (change.change - 1.0) * 100.0),
                if change.worse { "WORSE" } else { "" }.to_owned(),
            ]
        })
        .collect();
    let mut text = table(&["RATIO", "BEFORE", "NOW", "CHANGE", ""], &rows);
    for (name, report) in [("older", old), ("newer", new)] {
        if report.control.void {
            text.push_str(&format!(
                "the {name} run is void, its figures mean nothing\n"
            ));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::results::Comparison;
    use super::*;

    fn report(ratios: &[(&str, f64, f64)]) -> Report {
        let comparisons: Vec<Comparison> = ratios
            .iter()
            .map(|(reference, median, width)| Comparison {
                cores: "one-core".into(),
                workload: "tcp-rr".into(),
                path: "container-container".into(),
                subject: "netpath".into(),
                reference: (*reference).into(),
                ratio: Estimate {
                    median: *median,
                    low: median - width,
                    high: median + width,
                },
                rounds: 10,
            })
            .collect();
        let mut value = serde_json::json!({
            "schema": SCHEMA, "command": "", "started": 0, "seconds": 1.0, "rounds": 10,
            "window_ms": 1, "warmup_ms": 1,
            "control": {"void": false, "tolerance": 0.03, "ratios": []},
            "variants": [], "left_out": [], "series": [], "targets": [], "latencies": null,
            "programs": [], "generator": [],
        });
        value["comparisons"] = serde_json::to_value(comparisons).unwrap();
        value["environment"] =
            serde_json::to_value(super::super::environment::Environment::default()).unwrap();
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn worse_is_what_is_beyond_threshold_and_intervals() {
        let old = report(&[
            ("a", 1.30, 0.01),
            ("b", 1.30, 0.01),
            ("c", 1.30, 0.10),
            ("gone", 1.0, 0.0),
        ]);
        let new = report(&[
            ("a", 1.20, 0.01),
            ("b", 1.26, 0.01),
            ("c", 1.20, 0.10),
            ("new", 1.0, 0.0),
        ]);
        let changes = changes(&old, &new, 0.05).unwrap();
        let worse: Vec<bool> = changes.iter().map(|change| change.worse).collect();
        // a: 7.7 % less and clearly so. b: 3 % less. c: as much as a, but that may be noise.
        assert_eq!(worse, [true, false, false]);
        let text = text(&old, &new, &changes);
        assert!(
            text.contains("vs a") && text.contains("WORSE") && !text.contains("gone"),
            "{text}"
        );
    }

    #[test]
    fn runs_without_anything_in_common_are_refused() {
        let error = changes(
            &report(&[("a", 1.0, 0.0)]),
            &report(&[("b", 1.0, 0.0)]),
            0.05,
        );
        assert!(error.unwrap_err().to_string().contains("in common"));
    }

    #[test]
    fn other_files_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.json");
        let refused = |text: &str| {
            fs::write(&path, text).unwrap();
            read(&path).unwrap_err().to_string()
        };
        assert!(refused("nonsense").contains("x.json is no result"));
        assert!(refused("{}").contains("no field \"schema\""));
        assert!(refused("{\"schema\": 99}").contains("has the form 99"));
        assert!(refused("{\"schema\": 1}").contains("x.json is no result"));
        fs::write(&path, serde_json::to_string(&report(&[])).unwrap()).unwrap();
        assert!(read(&path).is_ok());
        assert!(
            read(&dir.path().join("none"))
                .unwrap_err()
                .to_string()
                .contains("cannot read")
        );
    }
}
