//! A template as text and actions, and actions as tokens.

/// A piece of a template.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Piece {
    /// To be printed as it is.
    Text(String),
    /// What stands between `{{` and `}}`.
    Action(Vec<Token>),
}

/// A word of an action.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token {
    pub(super) word: Word,
    /// Nothing stands between it and the one before: `.A.B` is one value, `.A .B` are two.
    pub(super) joined: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Word {
    /// `.`
    Dot,
    /// `.Name`
    Field(String),
    /// `$` (empty) or `$name`
    Variable(String),
    /// A function or keyword.
    Name(String),
    Text(String),
    Number(serde_json::Number),
    Open,
    Close,
    Pipe,
    Comma,
    /// `:=`
    Declare,
    /// `=`
    Assign,
}

/// Cuts a template into its pieces.
pub(super) fn lex(text: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let (mut rest, mut trim_start) = (text, false);
    while let Some((before, after)) = rest.split_once("{{") {
        let (trim_end, body) = match after.strip_prefix('-') {
            Some(body) if body.starts_with(char::is_whitespace) => (true, body),
            _ => (false, after),
        };
        push_text(&mut pieces, before, trim_start, trim_end);
        let (tokens, behind, trims) = action(body)?;
        pieces.extend(tokens.map(Piece::Action));
        (rest, trim_start) = (behind, trims);
    }
    push_text(&mut pieces, rest, trim_start, false);
    Ok(pieces)
}

fn push_text(pieces: &mut Vec<Piece>, text: &str, trim_start: bool, trim_end: bool) {
    let text = if trim_start { text.trim_start() } else { text };
    let text = if trim_end { text.trim_end() } else { text };
    if !text.is_empty() {
        pieces.push(Piece::Text(text.to_owned()));
    }
}

/// The tokens up to `}}` (`None` of a comment), what is behind, and whether the space there goes.
fn action(body: &str) -> Result<(Option<Vec<Token>>, &str, bool), String> {
    let start = body.trim_start();
    if let Some(comment) = start.strip_prefix("/*") {
        let (_, behind) = comment
            .split_once("*/")
            .ok_or("a comment is not closed by */")?;
        let end = behind.trim_start();
        return match (end.strip_prefix("-}}"), end.strip_prefix("}}")) {
            (Some(behind), _) => Ok((None, behind, true)),
            (None, Some(behind)) => Ok((None, behind, false)),
            (None, None) => Err("a comment must stand alone between {{ and }}".into()),
        };
    }
    let mut tokens = Vec::new();
    let mut rest = body;
    loop {
        let trimmed = rest.trim_start();
        let spaced = trimmed.len() != rest.len();
        if let Some(behind) = trimmed.strip_prefix("}}") {
            return Ok((Some(tokens), behind, false));
        }
        if spaced && let Some(behind) = trimmed.strip_prefix("-}}") {
            return Ok((Some(tokens), behind, true));
        }
        let Some(first) = trimmed.chars().next() else {
            return Err("{{ is not closed by }}".into());
        };
        let (word, behind) = word(first, trimmed)?;
        tokens.push(Token {
            word,
            joined: !spaced && !tokens.is_empty(),
        });
        rest = behind;
    }
}

fn word(first: char, text: &str) -> Result<(Word, &str), String> {
    let behind = text.get(first.len_utf8()..).unwrap_or_default();
    let simple = match first {
        '(' => Some(Word::Open),
        ')' => Some(Word::Close),
        '|' => Some(Word::Pipe),
        ',' => Some(Word::Comma),
        '=' => Some(Word::Assign),
        _ => None,
    };
    if let Some(word) = simple {
        return Ok((word, behind));
    }
    match first {
        ':' => match behind.strip_prefix('=') {
            Some(behind) => Ok((Word::Declare, behind)),
            None => Err("':' is no part of a template".into()),
        },
        '.' => match identifier(behind) {
            ("", behind) => Ok((Word::Dot, behind)),
            (name, behind) => Ok((Word::Field(name.to_owned()), behind)),
        },
        '$' => {
            let (name, behind) = identifier(behind);
            Ok((Word::Variable(name.to_owned()), behind))
        }
        '"' => quoted(behind),
        '`' => {
            let (raw, behind) = behind.split_once('`').ok_or("a text is not closed by `")?;
            Ok((Word::Text(raw.to_owned()), behind))
        }
        c if c.is_ascii_digit() || "+-".contains(c) => number(text),
        c if c.is_alphabetic() || c == '_' => {
            let (name, behind) = identifier(text);
            Ok((Word::Name(name.to_owned()), behind))
        }
        c => Err(format!("'{}' is no part of a template", c.escape_debug())),
    }
}

fn identifier(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    text.split_at(end)
}

fn number(text: &str) -> Result<(Word, &str), String> {
    let sign = usize::from(text.starts_with(['+', '-']));
    let digits = text.get(sign..).unwrap_or_default();
    let length = digits
        .find(|c: char| !c.is_ascii_alphanumeric() && c != '.' && c != '_')
        .unwrap_or(digits.len());
    let (number, behind) = text.split_at(sign + length);
    let plain = number.trim_start_matches('+');
    let parsed = match plain.parse::<i64>() {
        Ok(whole) => Some(whole.into()),
        Err(_) => plain
            .parse::<f64>()
            .ok()
            .and_then(serde_json::Number::from_f64),
    };
    match parsed {
        Some(parsed) => Ok((Word::Number(parsed), behind)),
        None if length == 0 => Err(format!("'{number}' is no part of a template")),
        None => Err(format!("\"{number}\" is no number")),
    }
}

/// A text in double quotes, without the first.
fn quoted(text: &str) -> Result<(Word, &str), String> {
    let open = || "a text is not closed by \"".to_owned();
    let mut value = String::new();
    let mut chars = text.char_indices();
    loop {
        let (at, c) = chars.next().ok_or_else(open)?;
        match c {
            '"' => {
                let behind = text.get(at + 1..).unwrap_or_default();
                return Ok((Word::Text(value), behind));
            }
            '\n' => return Err(open()),
            '\\' => value.push(match chars.next().ok_or_else(open)?.1 {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                '"' => '"',
                '\\' => '\\',
                other => return Err(format!("'\\{}' is no escape", other.escape_debug())),
            }),
            _ => value.push(c),
        }
    }
}
