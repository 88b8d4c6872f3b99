//! What commands print: tables for people, JSON for programs.

pub mod columns;
pub mod template;

use std::io::{self, Write};

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::Serialize;
use serde_json::Value;

/// The form of a command's output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns for people.
    #[default]
    Table,
    /// JSON for programs.
    Json,
}

/// Writes to standard output. A reader that has seen enough (`| head`) is no error.
///
/// # Errors
/// Any other trouble with the output.
pub fn print(text: &str) -> Result<()> {
    print_more(text).map(|_| ())
}

/// As [`print()`]; false if nobody reads any more.
///
/// # Errors
/// As [`print()`].
pub fn print_more(text: &str) -> Result<bool> {
    let mut stdout = io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        written => written.map(|()| true).context("cannot write the output"),
    }
}

/// One line, whatever a user's words that it quotes contain.
pub fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// Writes an error to standard error.
pub fn complain(error: &str) {
    eprintln!("netpath: {}", one_line(error));
}

/// Writes a value as JSON, indented.
///
/// # Errors
/// As [`print`].
pub fn print_json(value: &impl Serialize) -> Result<()> {
    print(&format!("{}\n", serde_json::to_string_pretty(value)?))
}

/// Writes values as Docker's `inspect` verbs do: one array, indented by four spaces.
///
/// # Errors
/// As [`print()`].
pub fn print_array(values: &[Value]) -> Result<()> {
    let mut text = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
    values.serialize(&mut serializer)?;
    print(&format!("{}\n", String::from_utf8_lossy(&text)))
}

/// Columns under headings, as wide as their widest cell.
pub fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let width = |text: &str| text.chars().count();
    let widths: Vec<usize> = headings
        .iter()
        .enumerate()
        .map(|(column, heading)| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            cells
                .map(|cell| width(cell))
                .chain([width(heading)])
                .max()
                .unwrap_or(0)
        })
        .collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for (cell, width) in cells.zip(&widths) {
            line.push_str(&format!("{cell:width$}  "));
        }
        format!("{}\n", line.trim_end())
    };
    let mut text = line(&mut headings.iter().copied());
    for row in rows {
        text.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    text
}

/// A table of records of any kind: the fields of the first are the headings.
pub fn table_of(records: &[Value]) -> String {
    let Some(Value::Object(first)) = records.first() else {
        return String::new();
    };
    let headings: Vec<String> = first
        .keys()
        .map(|key| key.replace('_', " ").to_uppercase())
        .collect();
    let rows: Vec<Vec<String>> = records
        .iter()
        .map(|record| first.keys().map(|key| cell(&record[key])).collect())
        .collect();
    table(
        &headings.iter().map(String::as_str).collect::<Vec<_>>(),
        &rows,
    )
}

/// A value without quotation marks.
fn cell(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".into(),
        Value::Array(values) => values.iter().map(cell).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

/// A span of time in the largest unit that makes sense: `3 minutes`.
pub fn duration(seconds: u64) -> String {
    let (count, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..86_400 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [
            vec!["a".into(), "long cell".into()],
            vec!["bb".into(), String::new()],
        ];
        assert_eq!(table(&["X", "Y"], &rows), "X   Y\na   long cell\nbb\n");
    }

    #[test]
    fn records_keep_the_order_of_their_fields() {
        let records = [
            json!({"z_y": "text", "a": 1}),
            json!({"z_y": null, "a": [1, "x"]}),
        ];
        assert_eq!(table_of(&records), "Z Y   A\ntext  1\n-     1, x\n");
        assert_eq!(table_of(&[]), "");
    }

    #[test]
    fn a_line_is_a_line() {
        assert_eq!(one_line("a\nb\r\u{1b}[0m\u{85}c"), "a b  [0m c");
    }

    #[test]
    fn durations() {
        assert_eq!(duration(1), "1 second");
        assert_eq!(duration(119), "1 minute");
        assert_eq!(duration(7200), "2 hours");
        assert_eq!(duration(200_000), "2 days");
    }
}
