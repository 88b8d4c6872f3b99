//! `--format`: the part of Go's templates (text/template) that people's scripts ask Docker with.
//!
//! There are fields, variables, pipelines, `if`, `range`, `with`, and the functions of
//! [`functions`]. Named templates (`define`, `template`, `block`), `break` and `continue` are
//! refused by name. The crates that know all of Go's templates are not maintained any more.
//!
//! Values are JSON. What a template prints of them is what Go prints of the same.

mod eval;
mod functions;
mod lex;
mod parse;

use anyhow::Result;
use serde_json::{Map, Value};

use crate::problem::invalid;

/// A template that was read.
#[derive(Clone, Debug)]
pub struct Template {
    nodes: Vec<parse::Node>,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// A sentence about what is wrong with it.
    pub fn parse(text: &str) -> Result<Self> {
        let nodes = lex::lex(text).and_then(parse::parse);
        nodes
            .map(|nodes| Self { nodes })
            .map_err(|reason| invalid(format!("the format cannot be read: {reason}")))
    }

    /// Fills it in with a value. `methods` are fields that its JSON does not show, among them maps
    /// that are asked for one key: `.Label "KEY"`. One that is null gives headings.
    ///
    /// # Errors
    /// A sentence: a field that is not there, a function that cannot be used with its arguments.
    pub fn render(&self, value: &Value, methods: &Map<String, Value>) -> Result<String> {
        eval::render(&self.nodes, value, methods)
            .map_err(|reason| invalid(format!("the format cannot be filled in: {reason}")))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn network() -> Value {
        json!({
            "Name": "net",
            "Id": "9f86d081884c7d65",
            "Internal": false,
            "EnableIPv4": true,
            "IPAM": {
                "Driver": "default",
                "Options": null,
                "Config": [
                    {"Subnet": "10.0.0.0/24", "Gateway": "10.0.0.1"},
                    {"Subnet": "fd00::/64", "Gateway": "fd00::1"},
                ],
            },
            "Containers": {
                "bb": {"Name": "two", "Ports": 2},
                "aa": {"Name": "one", "Ports": 1},
            },
            "Options": {"com.docker.network.driver.mtu": "1400"},
            "Labels": {},
        })
    }

    fn render(text: &str) -> String {
        let filled = Template::parse(text).and_then(|t| t.render(&network(), &Map::new()));
        filled.unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn what_scripts_write_gives_what_docker_gives() {
        for (text, expected) in [
            ("plain", "plain"),
            ("{{.Name}}", "net"),
            ("{{ .Name }} {{ .Internal }}", "net false"),
            ("{{.IPAM.Driver}}", "default"),
            (
                "{{range .IPAM.Config}}{{.Subnet}} {{end}}",
                "10.0.0.0/24 fd00::/64 ",
            ),
            ("{{(index .IPAM.Config 0).Gateway}}", "10.0.0.1"),
            (
                "{{with index .IPAM.Config 1}}{{.Gateway}}{{end}}",
                "fd00::1",
            ),
            (
                r#"{{index .Options "com.docker.network.driver.mtu"}}"#,
                "1400",
            ),
            (r#"{{index .Options "missing"}}"#, ""),
            (
                "{{json .Options}}",
                r#"{"com.docker.network.driver.mtu":"1400"}"#,
            ),
            ("{{json .Name}}", r#""net""#),
            (
                "{{.Options | json}}",
                r#"{"com.docker.network.driver.mtu":"1400"}"#,
            ),
            ("{{.Options}}", "map[com.docker.network.driver.mtu:1400]"),
            ("{{len .Containers}}", "2"),
            (
                "{{range $id, $c := .Containers}}{{$id}}={{$c.Name}};{{end}}",
                "aa=one;bb=two;",
            ),
            ("{{range $c := .Containers}}{{$c.Name}},{{end}}", "one,two,"),
            ("{{range .Labels}}x{{else}}none{{end}}", "none"),
            ("{{if .Internal}}closed{{else}}open{{end}}", "open"),
            (
                "{{if .Internal}}a{{else if .EnableIPv4}}b{{else}}c{{end}}",
                "b",
            ),
            ("{{if and .EnableIPv4 (not .Internal)}}yes{{end}}", "yes"),
            (r#"{{if eq .Name "other" "net"}}same{{end}}"#, "same"),
            (r#"{{if ne .Name "net"}}other{{end}}"#, ""),
            ("{{.Name}}{{println}}{{println .Name 1}}", "net\nnet 1\n"),
            (
                r#"{{printf "%-5s|%3d|%q|%t%%" .Name 7 "x" true}}"#,
                "net  |  7|\"x\"|true%",
            ),
            (r#"{{printf "%.12s" .Id}}"#, "9f86d081884c"),
            (r#"{{join (split "a,b" ",") "-"}}"#, "a-b"),
            (
                "{{upper .Name}} {{title .Name}} {{lower \"ABC\"}}",
                "NET Net abc",
            ),
            ("{{truncate .Id 4}}", "9f86"),
            ("{{slice .Id 2 4}}", "86"),
            ("a {{- /* gone */ -}} b", "ab"),
            ("{{- .Name -}}  \n x", "netx"),
            (
                "{{$n := .Name}}{{range .IPAM.Config}}{{$n}}{{$.Name}}{{end}}",
                "netnetnetnet",
            ),
            ("{{$n := 1}}{{$n = 2}}{{$n}}", "2"),
            ("{{`raw \"x\"`}}{{\"tab\\t\"}}", "raw \"x\"tab\t"),
            ("{{.IPAM.Options}}", "<no value>"),
            ("{{print 1 2 \"a\" \"b\" 3}}", "1 2ab3"),
            (
                "{{range $i, $c := .IPAM.Config}}{{if $i}},{{end}}{{$c.Subnet}}{{end}}",
                "10.0.0.0/24,fd00::/64",
            ),
            (
                "{{lt 1 2}} {{ge 1 2}} {{gt \"b\" \"a\"}} {{le 2 2}}",
                "true false true true",
            ),
        ] {
            assert_eq!(render(text), expected, "{text}");
        }
    }

    #[test]
    fn methods_are_called_with_their_argument() {
        let template = Template::parse(r#"{{.Label "tier"}}/{{.Label "none"}}"#).unwrap();
        let methods = json!({"Label": {"tier": "web"}});
        let Value::Object(methods) = methods else {
            panic!("no map")
        };
        let row = json!({"Labels": "tier=web"});
        assert_eq!(template.render(&row, &methods).unwrap(), "web/");
        let heading = Template::parse(r#"{{.Label "com.example.the-tier"}}"#).unwrap();
        let none = Map::from_iter([("Label".to_owned(), Value::Null)]);
        assert_eq!(heading.render(&row, &none).unwrap(), "the tier");
        let all = Template::parse("{{json .}}").unwrap();
        assert_eq!(
            all.render(&row, &methods).unwrap(),
            r#"{"Labels":"tier=web"}"#
        );
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, part) in [
            ("{{.Name", "not closed"),
            ("{{.Nmae}}", "no field Nmae"),
            ("{{.Name.Length}}", "no field Length"),
            ("{{bogus .Name}}", "no function bogus"),
            ("{{if .Name}}x", "if has no end"),
            ("{{end}}", "end without"),
            ("{{else}}", "else without"),
            ("{{range .Name}}{{end}}", "range"),
            ("{{index .IPAM.Config 7}}", "7"),
            ("{{.my-net}}", "-net"),
            ("{{\"open}}", "text is not closed"),
            ("{{define \"x\"}}{{end}}", "define"),
            ("{{$x}}", "no variable $x"),
            ("{{len 3}}", "len"),
            ("{{}}", "empty"),
            ("{{(.Name}}", ")"),
            ("{{.Name)}}", ")"),
            ("{{1 2}}", "is no function"),
            ("{{json}}", "json wants"),
            ("{{lt 1 \"a\"}}", "lt"),
            ("{{printf \"%z\" 1}}", "%z"),
            ("{{| json}}", "nothing"),
        ] {
            let filled = Template::parse(text).and_then(|t| t.render(&network(), &Map::new()));
            let error = filled.expect_err(text).to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
        let deep = format!("{{{{{}1{}}}}}", "(".repeat(10_000), ")".repeat(10_000));
        assert!(Template::parse(&deep).is_err());
        let deep = format!("{}{}", "{{if 1}}".repeat(10_000), "{{end}}".repeat(10_000));
        assert!(Template::parse(&deep).is_err());
    }

    proptest! {
        /// Whatever is written, it is filled in or refused.
        #[test]
        fn no_template_panics(words in proptest::collection::vec(
            prop_oneof![
                Just("{{"), Just("}}"), Just("{{-"), Just("-}}"), Just("."), Just(".Name"),
                Just(".IPAM"), Just("$"), Just("$x"), Just(":="), Just("="), Just(","),
                Just("range "), Just("if "), Just("else "), Just("end"), Just("with "),
                Just("index "), Just("json "), Just("printf "), Just("\"%5.2s\""), Just("`"),
                Just("\""), Just("("), Just(")"), Just("|"), Just("1"), Just("-9"), Just(" "),
                Just("é"), Just("/*"), Just("*/"), Just("slice "), Just("truncate "), Just("\\"),
            ],
            0..30,
        )) {
            let text = words.concat();
            if let Ok(template) = Template::parse(&text) {
                let _ = template.render(&network(), &Map::new());
            }
        }
    }
}
