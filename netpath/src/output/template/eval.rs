//! Filling a template in.

use serde_json::{Map, Value};

use super::functions;
use super::parse::{Node, Operand, Pipeline};

/// Prints `nodes` of `value`; `methods` are maps beside its fields.
pub(super) fn render(
    nodes: &[Node],
    value: &Value,
    methods: &Map<String, Value>,
) -> Result<String, String> {
    let mut state = State {
        out: String::new(),
        variables: vec![(String::new(), value.clone())],
        methods,
    };
    state.nodes(nodes, value)?;
    Ok(state.out)
}

struct State<'a> {
    out: String,
    /// The innermost last; the first is `$`.
    variables: Vec<(String, Value)>,
    methods: &'a Map<String, Value>,
}

impl State<'_> {
    fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Result<(), String> {
        nodes.iter().try_for_each(|node| self.node(node, dot))
    }

    fn node(&mut self, node: &Node, dot: &Value) -> Result<(), String> {
        match node {
            Node::Text(text) => self.out.push_str(text),
            Node::Print(pipeline) => {
                let value = self.pipeline(pipeline, dot)?;
                if pipeline.variables.is_empty() {
                    self.out.push_str(&functions::show(&value));
                }
            }
            Node::If(arms, otherwise) => {
                let depth = self.variables.len();
                for (condition, nodes) in arms {
                    if functions::is_true(&self.pipeline(condition, dot)?) {
                        self.nodes(nodes, dot)?;
                        self.variables.truncate(depth);
                        return Ok(());
                    }
                }
                self.nodes(otherwise, dot)?;
                self.variables.truncate(depth);
            }
            Node::With(pipeline, nodes, otherwise) => {
                let depth = self.variables.len();
                let value = self.pipeline(pipeline, dot)?;
                if functions::is_true(&value) {
                    self.nodes(nodes, &value)?;
                } else {
                    self.nodes(otherwise, dot)?;
                }
                self.variables.truncate(depth);
            }
            Node::Range(pipeline, nodes, otherwise) => {
                self.range(pipeline, nodes, otherwise, dot)?;
            }
        }
        Ok(())
    }

    fn range(
        &mut self,
        pipeline: &Pipeline,
        nodes: &[Node],
        otherwise: &[Node],
        dot: &Value,
    ) -> Result<(), String> {
        let items: Vec<(Value, Value)> = match self.commands(pipeline, dot)? {
            Value::Null => Vec::new(),
            Value::Array(values) => {
                let numbers = (0usize..).map(Value::from);
                numbers.zip(values).collect()
            }
            Value::Object(fields) => {
                let mut fields: Vec<_> = fields.into_iter().collect();
                fields.sort_by(|(a, _), (b, _)| a.cmp(b));
                let items = fields.into_iter();
                items.map(|(key, value)| (key.into(), value)).collect()
            }
            other => {
                return Err(format!("range cannot go over {}", functions::show(&other)));
            }
        };
        if items.is_empty() {
            return self.nodes(otherwise, dot);
        }
        let depth = self.variables.len();
        for (key, value) in items {
            let values = match pipeline.variables.len() {
                0 => Vec::new(),
                1 => vec![value.clone()],
                _ => vec![key, value.clone()],
            };
            for (name, value) in pipeline.variables.iter().zip(values) {
                self.set(name, pipeline.declares, value)?;
            }
            self.nodes(nodes, &value)?;
            self.variables.truncate(depth);
        }
        Ok(())
    }

    fn set(&mut self, name: &str, declares: bool, value: Value) -> Result<(), String> {
        if declares {
            self.variables.push((name.to_owned(), value));
            return Ok(());
        }
        let known = self.variables.iter_mut().rev().find(|(n, _)| n == name);
        match known {
            Some((_, old)) => *old = value,
            None => return Err(format!("there is no variable ${name}")),
        }
        Ok(())
    }

    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, String> {
        let value = self.commands(pipeline, dot)?;
        for name in &pipeline.variables {
            self.set(name, pipeline.declares, value.clone())?;
        }
        Ok(value)
    }

    fn commands(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, String> {
        let mut piped = None;
        for command in &pipeline.commands {
            piped = Some(self.command(command, piped, dot)?);
        }
        Ok(piped.unwrap_or_default())
    }

    fn command(
        &mut self,
        command: &[Operand],
        piped: Option<Value>,
        dot: &Value,
    ) -> Result<Value, String> {
        let Some((first, rest)) = command.split_first() else {
            return Ok(Value::Null);
        };
        let mut arguments = Vec::new();
        for operand in rest {
            arguments.push(self.operand(operand, dot)?);
        }
        arguments.extend(piped);
        match first {
            Operand::Function(name) => functions::call(name, &arguments),
            // A method is a map that is asked for one key.
            Operand::Chain(base, fields) if matches!(**base, Operand::Dot) => {
                let method = match &fields[..] {
                    [name] if !arguments.is_empty() => self.methods.get(name),
                    _ => None,
                };
                match (method, &arguments[..]) {
                    (Some(Value::Null), [key]) => Ok(functions::heading(key)),
                    (Some(map), [key]) => functions::call("index", &[map.clone(), key.clone()]),
                    (Some(_), _) => Err("a method wants one argument".into()),
                    (None, []) => self.operand(first, dot),
                    (None, _) => Err(format!(".{} is no function", fields.join("."))),
                }
            }
            other if arguments.is_empty() => self.operand(other, dot),
            other => {
                let value = self.operand(other, dot)?;
                Err(format!("{} is no function", functions::show(&value)))
            }
        }
    }

    fn operand(&mut self, operand: &Operand, dot: &Value) -> Result<Value, String> {
        match operand {
            Operand::Dot => Ok(dot.clone()),
            Operand::Variable(name) => {
                let known = self.variables.iter().rev().find(|(n, _)| n == name);
                known
                    .map(|(_, value)| value.clone())
                    .ok_or_else(|| format!("there is no variable ${name}"))
            }
            Operand::Literal(value) => Ok(value.clone()),
            Operand::Function(name) => functions::call(name, &[]),
            Operand::Group(pipeline) => self.pipeline(pipeline, dot),
            Operand::Chain(base, fields) => {
                // Most of a value is never looked at: no copy before the last field.
                if matches!(**base, Operand::Dot) {
                    return self.walk(dot, fields).cloned();
                }
                let base = self.operand(base, dot)?;
                self.walk(&base, fields).cloned()
            }
        }
    }

    fn walk<'a>(&'a self, value: &'a Value, fields: &[String]) -> Result<&'a Value, String> {
        fields.iter().try_fold(value, |value, name| {
            let found = match value {
                Value::Object(map) => map.get(name).or_else(|| self.methods.get(name)),
                _ => None,
            };
            found.ok_or_else(|| match value {
                Value::Object(map) if !map.is_empty() => {
                    let names: Vec<&str> = map.keys().map(String::as_str).collect();
                    format!("there is no field {name}, there are: {}", names.join(", "))
                }
                _ => format!("there is no field {name}"),
            })
        })
    }
}
