//! The functions of templates: Go's own, and those that Docker adds.

use std::cmp::Ordering;

use serde_json::Value;

/// What counts as true: not zero, not empty, not nothing.
pub(super) fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(values) => !values.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// What Go prints of a value.
pub(super) fn show(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".into(),
        other => show_inner(other),
    }
}

fn show_inner(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".into(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        Value::Array(values) => {
            let all: Vec<String> = values.iter().map(show_inner).collect();
            format!("[{}]", all.join(" "))
        }
        Value::Object(map) => {
            let mut all: Vec<String> = map
                .iter()
                .map(|(key, value)| format!("{key}:{}", show_inner(value)))
                .collect();
            all.sort();
            format!("map[{}]", all.join(" "))
        }
    }
}

/// The heading of a column of labels: the last part of their key.
pub(super) fn heading(key: &Value) -> Value {
    let key = show(key);
    let last = key.rsplit('.').next().unwrap_or_default();
    last.replace(['-', '_'], " ").into()
}

/// Calls a function.
pub(super) fn call(name: &str, arguments: &[Value]) -> Result<Value, String> {
    let wants = |what: &str| Err(format!("{name} wants {what}"));
    Ok(match (name, arguments) {
        ("json", [value]) => Value::String(value.to_string()),
        ("json", _) => return wants("one value"),
        ("index", [value, keys @ ..]) => index(value, keys)?,
        ("len", [value]) => match value {
            Value::String(text) => text.len().into(),
            Value::Array(values) => values.len().into(),
            Value::Object(map) => map.len().into(),
            Value::Null => 0.into(),
            other => return Err(format!("len of {} means nothing", show(other))),
        },
        ("not", [value]) => (!is_true(value)).into(),
        ("and", [_, ..]) => first_or_last(arguments, false),
        ("or", [_, ..]) => first_or_last(arguments, true),
        ("eq", [value, others @ ..]) if !others.is_empty() => {
            others.iter().any(|other| is_equal(value, other)).into()
        }
        ("ne", [a, b]) => (!is_equal(a, b)).into(),
        ("lt" | "le" | "gt" | "ge", [a, b]) => {
            let order = compare(a, b)
                .ok_or_else(|| format!("{name} cannot compare {} and {}", show(a), show(b)))?;
            match name {
                "lt" => order == Ordering::Less,
                "le" => order != Ordering::Greater,
                "gt" => order == Ordering::Greater,
                _ => order != Ordering::Less,
            }
            .into()
        }
        ("print", values) => print(values).into(),
        ("println", values) => {
            let words: Vec<String> = values.iter().map(show_inner).collect();
            format!("{}\n", words.join(" ")).into()
        }
        ("printf", [Value::String(format), values @ ..]) => printf(format, values)?.into(),
        ("join", [Value::Array(values), Value::String(separator)]) => {
            let words: Vec<String> = values.iter().map(show_inner).collect();
            words.join(separator).into()
        }
        ("split", [Value::String(text), Value::String(separator)]) => {
            if separator.is_empty() {
                text.chars().map(String::from).collect()
            } else {
                text.split(separator.as_str()).map(str::to_owned).collect()
            }
        }
        ("upper", [Value::String(text)]) => text.to_uppercase().into(),
        ("lower", [Value::String(text)]) => text.to_lowercase().into(),
        ("title", [Value::String(text)]) => title(text).into(),
        ("truncate", [Value::String(text), Value::Number(length)]) => {
            let length = length.as_u64().and_then(|n| usize::try_from(n).ok());
            let length = length.ok_or("truncate wants a length")?;
            text.chars().take(length).collect::<String>().into()
        }
        ("slice", [value, bounds @ ..]) if bounds.len() <= 2 => slice(value, bounds)?,
        (
            "pad",
            [
                Value::String(text),
                Value::Number(before),
                Value::Number(after),
            ],
        ) => {
            let spaces = |count: &serde_json::Number| {
                // More than a line is a mistake.
                let count = count.as_u64().filter(|count| *count <= 1000);
                count.and_then(|count| usize::try_from(count).ok())
            };
            let (Some(before), Some(after)) = (spaces(before), spaces(after)) else {
                return wants("a text and two numbers of spaces");
            };
            format!("{}{text}{}", " ".repeat(before), " ".repeat(after)).into()
        }
        ("index" | "len" | "not" | "and" | "or" | "eq" | "ne" | "lt" | "le" | "gt" | "ge", _)
        | ("printf" | "join" | "split" | "upper" | "lower" | "title" | "truncate", _)
        | ("slice" | "pad", _) => return wants("other arguments"),
        _ => return Err(format!("there is no function {name}")),
    })
}

/// The first that is as true as wanted, else the last.
fn first_or_last(values: &[Value], wanted: bool) -> Value {
    let found = values.iter().find(|value| is_true(value) == wanted);
    found.or(values.last()).cloned().unwrap_or_default()
}

fn index(value: &Value, keys: &[Value]) -> Result<Value, String> {
    let mut value = value.clone();
    for key in keys {
        value = match (&value, key) {
            // What a map does not have is as good as empty: Docker's are maps of texts.
            (Value::Object(map), Value::String(key)) => {
                map.get(key).cloned().unwrap_or_else(|| "".into())
            }
            (Value::Null, Value::String(_)) => "".into(),
            (Value::Array(values), Value::Number(number)) => {
                let at = number.as_u64().and_then(|n| usize::try_from(n).ok());
                let found = at.and_then(|at| values.get(at));
                found.cloned().ok_or_else(|| {
                    format!("there is no element {number}, there are {}", values.len())
                })?
            }
            (of, key) => {
                return Err(format!("index: {} has no element {}", show(of), show(key)));
            }
        };
    }
    Ok(value)
}

fn slice(value: &Value, bounds: &[Value]) -> Result<Value, String> {
    let wrong = || "slice: the bounds are out of range".to_owned();
    let length = match value {
        Value::String(text) => text.len(),
        Value::Array(values) => values.len(),
        other => return Err(format!("slice of {} means nothing", show(other))),
    };
    let bound = |nth: usize, default: usize| match bounds.get(nth) {
        None => Ok(default),
        Some(bound) => bound
            .as_u64()
            .and_then(|bound| usize::try_from(bound).ok())
            .ok_or_else(wrong),
    };
    let range = bound(0, 0)?..bound(1, length)?;
    match value {
        Value::String(text) => text.get(range).map(Value::from).ok_or_else(wrong),
        Value::Array(values) => values.get(range).map(Value::from).ok_or_else(wrong),
        _ => Err(wrong()),
    }
}

fn is_equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        _ => a == b,
    }
}

fn compare(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64()?.partial_cmp(&b.as_f64()?),
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        _ => None,
    }
}

/// Spaces only between two values that are both no texts.
fn print(values: &[Value]) -> String {
    let mut text = String::new();
    for (nth, value) in values.iter().enumerate() {
        let before = nth.checked_sub(1).and_then(|before| values.get(before));
        if before.is_some_and(|before| !before.is_string() && !value.is_string()) {
            text.push(' ');
        }
        text.push_str(&show_inner(value));
    }
    text
}

fn title(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|c| c.to_uppercase().to_string());
    format!("{}{}", first.unwrap_or_default(), chars.as_str())
}

/// The verbs `%v %s %d %q %t %x`, with `-`, `0`, a width and a precision.
fn printf(format: &str, values: &[Value]) -> Result<String, String> {
    let (mut text, mut rest, mut values) = (String::new(), format, values.iter());
    while let Some((before, after)) = rest.split_once('%') {
        text.push_str(before);
        let end = after
            .find(|c: char| !c.is_ascii_digit() && !"-0+. ".contains(c))
            .ok_or("printf: a % at the end")?;
        let (flags, after) = after.split_at(end);
        let verb = after.chars().next().unwrap_or_default();
        rest = after.get(verb.len_utf8()..).unwrap_or_default();
        if verb == '%' {
            text.push('%');
            continue;
        }
        let value = values
            .next()
            .ok_or_else(|| format!("printf: %{verb} has no value"))?;
        let (width, precision) = flags.split_once('.').unwrap_or((flags, ""));
        let number = |text: &str| text.parse::<usize>().ok().filter(|n| *n <= 1000);
        let mut word = match (verb, value) {
            ('v', value) => show_inner(value),
            ('s', Value::String(text)) => text.clone(),
            ('d', Value::Number(number)) => number.to_string(),
            ('q', Value::String(text)) => Value::from(text.as_str()).to_string(),
            ('t', Value::Bool(value)) => value.to_string(),
            ('x', Value::Number(number)) => match number.as_u64() {
                Some(number) => format!("{number:x}"),
                None => return Err(format!("printf: %x cannot show {number}")),
            },
            ('s' | 'd' | 'q' | 't' | 'x', value) => {
                return Err(format!("printf: %{verb} cannot show {}", show(value)));
            }
            _ => return Err(format!("printf: there is no %{verb}")),
        };
        if let Some(longest) = number(precision)
            && value.is_string()
        {
            word = word.chars().take(longest).collect();
        }
        let left = width.contains('-');
        let zero = width.trim_start_matches(['-', '+', ' ']).starts_with('0');
        let width = number(width.trim_start_matches(['-', '+', ' ', '0'])).unwrap_or(0);
        text.push_str(&match (left, zero && value.is_number()) {
            (true, _) => format!("{word:<width$}"),
            (false, true) => format!("{word:0>width$}"),
            (false, false) => format!("{word:>width$}"),
        });
    }
    text.push_str(rest);
    Ok(text)
}
