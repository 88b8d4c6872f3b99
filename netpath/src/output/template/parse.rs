//! Pieces as a tree.

use serde_json::Value;

use super::lex::{Piece, Token, Word};

/// Nobody writes more; each level is one of the stack.
const DEEPEST: usize = 100;

/// A part of a template.
#[derive(Clone, Debug)]
pub(super) enum Node {
    Text(String),
    Print(Pipeline),
    /// Conditions with what they guard, and what is done if none holds.
    If(Vec<(Pipeline, Vec<Node>)>, Vec<Node>),
    With(Pipeline, Vec<Node>, Vec<Node>),
    Range(Pipeline, Vec<Node>, Vec<Node>),
}

/// Commands of which each gets the value of the one before as its last argument.
#[derive(Clone, Debug)]
pub(super) struct Pipeline {
    /// Variables that get its value; two only of a `range`.
    pub(super) variables: Vec<String>,
    /// Whether the variables are new.
    pub(super) declares: bool,
    pub(super) commands: Vec<Vec<Operand>>,
}

/// A value, or what gives one.
#[derive(Clone, Debug)]
pub(super) enum Operand {
    Dot,
    Variable(String),
    Literal(Value),
    Function(String),
    Group(Box<Pipeline>),
    /// Fields of another.
    Chain(Box<Operand>, Vec<String>),
}

/// Why a list of nodes ended.
enum End {
    Template,
    Block,
    Else(Vec<Token>),
}

/// Reads all pieces.
pub(super) fn parse(pieces: Vec<Piece>) -> Result<Vec<Node>, String> {
    let mut pieces = pieces.into_iter();
    match block(&mut pieces, 0)? {
        (nodes, End::Template) => Ok(nodes),
        (_, End::Block) => Err("there is an end without if, range or with".into()),
        (_, End::Else(_)) => Err("there is an else without if, range or with".into()),
    }
}

fn block(
    pieces: &mut impl Iterator<Item = Piece>,
    depth: usize,
) -> Result<(Vec<Node>, End), String> {
    if depth > DEEPEST {
        return Err("it is nested too deeply".into());
    }
    let mut nodes = Vec::new();
    while let Some(piece) = pieces.next() {
        let mut tokens = match piece {
            Piece::Text(text) => {
                nodes.push(Node::Text(text));
                continue;
            }
            Piece::Action(tokens) => tokens,
        };
        let keyword = match tokens.first().map(|token| &token.word) {
            None => return Err("an action is empty".into()),
            Some(Word::Name(name)) => name.clone(),
            Some(_) => String::new(),
        };
        match keyword.as_str() {
            "end" if tokens.len() == 1 => return Ok((nodes, End::Block)),
            "end" => return Err("nothing may follow end".into()),
            "else" => return Ok((nodes, End::Else(tokens.split_off(1)))),
            "if" | "range" | "with" => {
                let rest = tokens.split_off(1);
                nodes.push(control(&keyword, &rest, pieces, depth)?);
            }
            "define" | "template" | "block" | "break" | "continue" => {
                return Err(format!("{keyword} is not supported"));
            }
            _ => nodes.push(Node::Print(pipeline(&tokens, 1)?)),
        }
    }
    Ok((nodes, End::Template))
}

fn control(
    keyword: &str,
    tokens: &[Token],
    pieces: &mut impl Iterator<Item = Piece>,
    depth: usize,
) -> Result<Node, String> {
    let variables = if keyword == "range" { 2 } else { 1 };
    let missing = || format!("{keyword} has no end");
    let mut arms = Vec::new();
    let mut condition = pipeline(tokens, variables)?;
    let otherwise = loop {
        let (nodes, end) = block(pieces, depth + 1)?;
        arms.push((condition, nodes));
        match end {
            End::Template => return Err(missing()),
            End::Block => break Vec::new(),
            End::Else(rest) => match rest.first().map(|token| &token.word) {
                None => match block(pieces, depth + 1)? {
                    (nodes, End::Block) => break nodes,
                    (_, End::Else(_)) => return Err(format!("{keyword} has a second else")),
                    (_, End::Template) => return Err(missing()),
                },
                Some(Word::Name(name)) if name == "if" && keyword == "if" => {
                    condition = pipeline(rest.get(1..).unwrap_or_default(), 1)?;
                }
                Some(_) => return Err("after else there may only be another if".into()),
            },
        }
    };
    if keyword == "if" {
        return Ok(Node::If(arms, otherwise));
    }
    let Some((pipeline, nodes)) = arms.pop() else {
        return Err(missing());
    };
    Ok(if keyword == "with" {
        Node::With(pipeline, nodes, otherwise)
    } else {
        Node::Range(pipeline, nodes, otherwise)
    })
}

/// A pipeline that fills all of `tokens`, with at most so many variables.
fn pipeline(tokens: &[Token], variables: usize) -> Result<Pipeline, String> {
    let mut reader = Reader { tokens, depth: 0 };
    let parsed = reader.pipeline(variables)?;
    match reader.tokens.first() {
        None => Ok(parsed),
        Some(token) => Err(format!("{} is out of place", show(&token.word))),
    }
}

fn show(word: &Word) -> String {
    match word {
        Word::Dot => ".".into(),
        Word::Field(name) => format!(".{name}"),
        Word::Variable(name) => format!("${name}"),
        Word::Name(name) => name.clone(),
        Word::Text(text) => format!("{text:?}"),
        Word::Number(number) => number.to_string(),
        Word::Open => "(".into(),
        Word::Close => ")".into(),
        Word::Pipe => "|".into(),
        Word::Comma => ",".into(),
        Word::Declare => ":=".into(),
        Word::Assign => "=".into(),
    }
}

struct Reader<'a> {
    tokens: &'a [Token],
    depth: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<&Word> {
        self.tokens.first().map(|token| &token.word)
    }

    fn skip(&mut self, count: usize) {
        self.tokens = self.tokens.get(count..).unwrap_or_default();
    }

    fn pipeline(&mut self, most: usize) -> Result<Pipeline, String> {
        let (variables, declares) = self.variables(most)?;
        let mut commands = Vec::new();
        loop {
            let mut command = Vec::new();
            while let Some(operand) = self.operand()? {
                command.push(operand);
            }
            if command.is_empty() {
                return Err("a value is missing, there is nothing".into());
            }
            commands.push(command);
            if self.peek() != Some(&Word::Pipe) {
                break;
            }
            self.skip(1);
        }
        Ok(Pipeline {
            variables,
            declares,
            commands,
        })
    }

    /// `$a :=`, `$a =` or `$a, $b :=`.
    fn variables(&mut self, most: usize) -> Result<(Vec<String>, bool), String> {
        let words: Vec<&Word> = self.tokens.iter().take(4).map(|t| &t.word).collect();
        let (names, sign) = match words[..] {
            [Word::Variable(a), sign @ (Word::Declare | Word::Assign), ..] => {
                (vec![a.clone()], sign)
            }
            [
                Word::Variable(a),
                Word::Comma,
                Word::Variable(b),
                sign @ (Word::Declare | Word::Assign),
            ] => (vec![a.clone(), b.clone()], sign),
            _ => return Ok((Vec::new(), false)),
        };
        if names.len() > most {
            return Err("only range gives two variables".into());
        }
        let declares = *sign == Word::Declare;
        self.skip(names.len() * 2);
        Ok((names, declares))
    }

    fn operand(&mut self) -> Result<Option<Operand>, String> {
        let Some(word) = self.peek().cloned() else {
            return Ok(None);
        };
        let mut operand = match word {
            Word::Dot => Operand::Dot,
            Word::Field(name) => Operand::Chain(Box::new(Operand::Dot), vec![name]),
            Word::Variable(name) => Operand::Variable(name),
            Word::Text(text) => Operand::Literal(text.into()),
            Word::Number(number) => Operand::Literal(Value::Number(number)),
            Word::Name(name) => match name.as_str() {
                "true" => Operand::Literal(true.into()),
                "false" => Operand::Literal(false.into()),
                "nil" => Operand::Literal(Value::Null),
                _ => Operand::Function(name),
            },
            Word::Open => {
                self.depth += 1;
                if self.depth > DEEPEST {
                    return Err("it is nested too deeply".into());
                }
                self.skip(1);
                let inner = self.pipeline(0)?;
                self.depth -= 1;
                if self.peek() != Some(&Word::Close) {
                    return Err("( is not closed by )".into());
                }
                Operand::Group(Box::new(inner))
            }
            Word::Close | Word::Pipe => return Ok(None),
            other => return Err(format!("{} is out of place", show(&other))),
        };
        self.skip(1);
        let mut fields = Vec::new();
        while let Some(Token {
            word: Word::Field(name),
            joined: true,
        }) = self.tokens.first()
        {
            fields.push(name.clone());
            self.skip(1);
        }
        if !fields.is_empty() {
            operand = match operand {
                Operand::Chain(base, mut earlier) => {
                    earlier.extend(fields);
                    Operand::Chain(base, earlier)
                }
                other => Operand::Chain(Box::new(other), fields),
            };
        }
        Ok(Some(operand))
    }
}
