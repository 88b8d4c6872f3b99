//! Listings by templates: `--format` of `ls` verbs, with and without headings.

use std::cmp::Ordering;

use anyhow::Result;
use serde_json::{Map, Value};

use super::template::Template;

/// Narrowest column, and the space behind a cell: those of Docker.
const NARROWEST: usize = 10;
const PADDING: usize = 3;

/// The form of a listing.
#[derive(Clone, Debug)]
pub struct Layout {
    template: Template,
    headings: bool,
}

impl Layout {
    /// Reads the form of a line; after `table ` there are headings, and columns line up.
    ///
    /// # Errors
    /// A sentence about the template.
    pub fn parse(format: &str) -> Result<Self> {
        let (headings, template) = match format.strip_prefix("table") {
            Some(rest) if rest.starts_with([' ', '\t']) => (true, rest),
            _ => (false, format),
        };
        // Shells do not make tabs of these.
        let template = template
            .trim_matches(' ')
            .replace("\\t", "\t")
            .replace("\\n", "\n");
        Ok(Self {
            template: Template::parse(&template)?,
            headings,
        })
    }

    /// The listing of some rows, each with what it has beside its fields.
    ///
    /// # Errors
    /// A sentence about a field that the rows do not have.
    pub fn fill(&self, rows: &[(Value, Map<String, Value>)]) -> Result<String> {
        let mut lines = Vec::new();
        if self.headings {
            let methods = Map::from_iter([("Label".to_owned(), Value::Null)]);
            lines.push(self.template.render(&headings(), &methods)?);
        }
        for (row, methods) in rows {
            lines.push(self.template.render(row, methods)?);
        }
        Ok(line_up(&lines))
    }
}

/// The heading of each field.
fn headings() -> Value {
    let pairs = [
        ("CreatedAt", "CREATED AT"),
        ("ID", "NETWORK ID"),
        ("IPv4", "IPV4"),
        ("IPv6", "IPV6"),
        ("Internal", "INTERNAL"),
        ("Labels", "LABELS"),
        ("Name", "NAME"),
        ("Driver", "DRIVER"),
        ("Scope", "SCOPE"),
        ("Subnets", "SUBNETS"),
        ("Policy", "POLICY"),
    ];
    let fields = pairs.map(|(field, heading)| (field.to_owned(), heading.into()));
    Value::Object(fields.into_iter().collect())
}

/// Makes columns of what tabs separate.
fn line_up(lines: &[String]) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for line in lines.iter().flat_map(|text| text.lines()) {
        let cells: Vec<&str> = line.split('\t').collect();
        // The last one of a line belongs to no column.
        for (column, cell) in cells.iter().take(cells.len() - 1).enumerate() {
            let width = (cell.chars().count() + PADDING).max(NARROWEST);
            match widths.get_mut(column) {
                Some(widest) => *widest = width.max(*widest),
                None => widths.push(width),
            }
        }
    }
    let mut text = String::new();
    for line in lines {
        let mut first = true;
        for line in line.split('\n') {
            if !first {
                text.push('\n');
            }
            first = false;
            let cells: Vec<&str> = line.split('\t').collect();
            let Some((last, cells)) = cells.split_last() else {
                continue;
            };
            for (cell, width) in cells.iter().zip(&widths) {
                text.push_str(&format!("{cell:width$}"));
            }
            text.push_str(last);
        }
        text.push('\n');
    }
    text
}

/// The order of names in which `net2` is before `net10`.
pub fn natural(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        let order = match (take_part(&mut a), take_part(&mut b)) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(a), Some(b)) => match (a.parse::<u128>(), b.parse::<u128>()) {
                (Ok(x), Ok(y)) => x.cmp(&y).then_with(|| a.len().cmp(&b.len())),
                _ => a.cmp(b),
            },
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

/// Takes digits, or what is none, from the beginning.
fn take_part<'a>(text: &mut &'a str) -> Option<&'a str> {
    let digits = text.starts_with(|c: char| c.is_ascii_digit());
    let end = text
        .find(|c: char| c.is_ascii_digit() != digits)
        .unwrap_or(text.len());
    let (part, rest) = text.split_at(end);
    *text = rest;
    (!part.is_empty()).then_some(part)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rows() -> Vec<(Value, Map<String, Value>)> {
        [("0123456789ab", "net"), ("ba9876543210", "a-longer-name")]
            .map(|(id, name)| (json!({"ID": id, "Name": name}), Map::new()))
            .into()
    }

    fn fill(format: &str) -> String {
        Layout::parse(format).unwrap().fill(&rows()).unwrap()
    }

    #[test]
    fn tables_look_as_dockers() {
        assert_eq!(
            fill("table {{.ID}}\\t{{.Name}}\t{{.Name}}"),
            "NETWORK ID     NAME            NAME\n\
             0123456789ab   net             net\n\
             ba9876543210   a-longer-name   a-longer-name\n"
        );
        assert_eq!(fill("{{.Name}}"), "net\na-longer-name\n");
        assert_eq!(fill("table {{.Name}}"), "NAME\nnet\na-longer-name\n");
        assert_eq!(fill("{{.Name}}\\n"), "net\n\na-longer-name\n\n");
        assert!(Layout::parse("{{.No}}").unwrap().fill(&rows()).is_err());
        assert_eq!(Layout::parse("{{.No}}").unwrap().fill(&[]).unwrap(), "");
    }

    #[test]
    fn names_are_in_natural_order() {
        let mut names = ["net10", "net2", "bridge", "net", "net02", "x9y1", "x9"];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(
            names,
            ["bridge", "net", "net2", "net02", "net10", "x9", "x9y1"]
        );
    }
}
