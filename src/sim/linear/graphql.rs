//! As much GraphQL as the simulated Linear needs: one operation, fields, arguments, variables, aliases.
//!
//! **Invariants.** A field that the data has not is a validation error, as is an object without a selection: a client
//! that asks for something Linear does not have must not get away with it. No fragments, no directives.

use std::{iter::Peekable, str::Chars};

use serde_json::{Map, Value};

/// A field asked for.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Field {
    /// What it is called in the answer.
    pub alias: String,
    /// Its name.
    pub name: String,
    /// Its arguments, variables filled in.
    pub arguments: Map<String, Value>,
    /// What is asked of it; empty for a scalar.
    pub selection: Vec<Field>,
}

/// An operation.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Operation {
    /// Whether it changes something.
    pub is_mutation: bool,
    /// Its root fields.
    pub fields: Vec<Field>,
}

/// Reads a document of one operation; the error is what a server would say of it.
pub(super) fn parse(document: &str, variables: &Map<String, Value>) -> Result<Operation, String> {
    let mut reader = Reader { tokens: tokens(document)?.into_iter().peekable(), variables };
    let mut is_mutation = false;
    if let Some(Token::Name(kind)) = reader.tokens.peek().cloned() {
        reader.tokens.next();
        is_mutation = match kind.as_str() {
            "query" => false,
            "mutation" => true,
            other => return Err(format!("Syntax Error: Unexpected Name \"{other}\".")),
        };
        if matches!(reader.tokens.peek(), Some(Token::Name(_))) {
            reader.tokens.next();
        }
        if reader.take('(') {
            reader.skip_definitions()?;
        }
    }
    let fields = reader.selection()?;
    match reader.tokens.next() {
        None => Ok(Operation { is_mutation, fields }),
        Some(more) => Err(format!("Syntax Error: Unexpected {more:?}.")),
    }
}

/// What is asked of a value.
pub(super) fn select(value: &Value, selection: &[Field], kind: &str) -> Result<Value, String> {
    match value {
        Value::Null => Ok(Value::Null),
        Value::Array(items) => {
            items.iter().map(|item| select(item, selection, kind)).collect::<Result<Vec<_>, _>>().map(Value::Array)
        }
        Value::Object(members) => {
            if selection.is_empty() {
                return Err(format!("Field \"{kind}\" must have a selection of subfields."));
            }
            let mut selected = Map::new();
            for field in selection {
                let member = members.get(&field.name);
                let member = member.ok_or_else(|| format!("Cannot query field \"{}\" on \"{kind}\".", field.name))?;
                selected.insert(field.alias.clone(), select(member, &field.selection, &field.name)?);
            }
            Ok(Value::Object(selected))
        }
        scalar if selection.is_empty() => Ok(scalar.clone()),
        _ => Err(format!("Field \"{kind}\" must not have a selection since it has no subfields.")),
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Mark(char),
    Name(String),
    Variable(String),
    Text(String),
    Number(f64),
}

fn tokens(document: &str) -> Result<Vec<Token>, String> {
    let mut found = Vec::new();
    let mut chars = document.chars().peekable();
    while let Some(&char) = chars.peek() {
        match char {
            _ if char.is_whitespace() || char == ',' => {
                chars.next();
            }
            '#' => while chars.next_if(|char| *char != '\n').is_some() {},
            '{' | '}' | '(' | ')' | '[' | ']' | ':' | '!' | '=' => {
                chars.next();
                found.push(Token::Mark(char));
            }
            '$' => {
                chars.next();
                found.push(Token::Variable(word(&mut chars)));
            }
            '"' => {
                chars.next();
                found.push(Token::Text(text(&mut chars)?));
            }
            '-' | '0'..='9' => {
                let mut number = String::new();
                while let Some(digit) = chars.next_if(|char| char.is_ascii_digit() || "-+.eE".contains(*char)) {
                    number.push(digit);
                }
                found.push(Token::Number(
                    number.parse().map_err(|_| format!("Syntax Error: Invalid number {number}."))?,
                ));
            }
            _ if char.is_alphabetic() || char == '_' => found.push(Token::Name(word(&mut chars))),
            other => return Err(format!("Syntax Error: Unexpected character: \"{other}\".")),
        }
    }
    Ok(found)
}

fn word(chars: &mut Peekable<Chars<'_>>) -> String {
    let mut word = String::new();
    while let Some(char) = chars.next_if(|char| char.is_alphanumeric() || *char == '_') {
        word.push(char);
    }
    word
}

fn text(chars: &mut Peekable<Chars<'_>>) -> Result<String, String> {
    let mut quoted = String::from('"');
    let mut is_escaped = false;
    for char in chars.by_ref() {
        quoted.push(char);
        match char {
            '"' if !is_escaped => {
                return serde_json::from_str(&quoted).map_err(|_| "Syntax Error: Invalid string.".to_owned());
            }
            '\\' => is_escaped = !is_escaped,
            _ => is_escaped = false,
        }
    }
    Err("Syntax Error: Unterminated string.".to_owned())
}

struct Reader<'a> {
    tokens: Peekable<std::vec::IntoIter<Token>>,
    variables: &'a Map<String, Value>,
}

impl Reader<'_> {
    fn take(&mut self, mark: char) -> bool {
        self.tokens.next_if(|token| *token == Token::Mark(mark)).is_some()
    }

    fn expect(&mut self, mark: char) -> Result<(), String> {
        if self.take(mark) {
            Ok(())
        } else {
            Err(format!("Syntax Error: Expected \"{mark}\", found {:?}.", self.tokens.peek()))
        }
    }

    fn name(&mut self) -> Result<String, String> {
        match self.tokens.next() {
            Some(Token::Name(name)) => Ok(name),
            other => Err(format!("Syntax Error: Expected Name, found {other:?}.")),
        }
    }

    /// The types of variables are the client's business.
    fn skip_definitions(&mut self) -> Result<(), String> {
        while !self.take(')') {
            self.tokens.next().ok_or("Syntax Error: Expected \")\", found <EOF>.")?;
        }
        Ok(())
    }

    fn selection(&mut self) -> Result<Vec<Field>, String> {
        self.expect('{')?;
        let mut fields = Vec::new();
        while !self.take('}') {
            let alias = self.name()?;
            let name = if self.take(':') { self.name()? } else { alias.clone() };
            let mut arguments = Map::new();
            if self.take('(') {
                while !self.take(')') {
                    let argument = self.name()?;
                    self.expect(':')?;
                    let value = self.value()?;
                    arguments.insert(argument, value);
                }
            }
            let selection = if self.tokens.peek() == Some(&Token::Mark('{')) { self.selection()? } else { Vec::new() };
            fields.push(Field { alias, name, arguments, selection });
        }
        if fields.is_empty() { Err("Syntax Error: Expected Name, found \"}\".".to_owned()) } else { Ok(fields) }
    }

    fn value(&mut self) -> Result<Value, String> {
        match self.tokens.next() {
            Some(Token::Variable(name)) => Ok(self.variables.get(&name).cloned().unwrap_or_default()),
            Some(Token::Text(text)) => Ok(Value::from(text)),
            #[expect(clippy::cast_possible_truncation, reason = "Linear's arguments are small whole numbers")]
            Some(Token::Number(number)) if number.fract() == 0.0 => Ok(Value::from(number as i64)),
            Some(Token::Number(number)) => Ok(Value::from(number)),
            Some(Token::Name(name)) => Ok(match name.as_str() {
                "true" => Value::from(true),
                "false" => Value::from(false),
                "null" => Value::Null,
                _ => Value::from(name),
            }),
            Some(Token::Mark('[')) => {
                let mut items = Vec::new();
                while !self.take(']') {
                    items.push(self.value()?);
                }
                Ok(Value::Array(items))
            }
            Some(Token::Mark('{')) => {
                let mut members = Map::new();
                while !self.take('}') {
                    let name = self.name()?;
                    self.expect(':')?;
                    let value = self.value()?;
                    members.insert(name, value);
                }
                Ok(Value::Object(members))
            }
            other => Err(format!("Syntax Error: Unexpected {other:?}.")),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(document: &str) -> Result<Operation, String> {
        parse(document, &Map::from_iter([("n".to_owned(), json!(50))]))
    }

    #[test]
    fn an_operation_is_read_with_its_arguments_and_aliases() {
        let operation = read(
            "query Teams($n: Int! = 5, $after: String) { # all\n all: teams(first: $n, after: null, x: [1, {a: \"b\\\"\"}]) { nodes { id } } viewer { id } }",
        );
        let operation = operation.expect("valid");
        assert_eq!((operation.is_mutation, operation.fields.len()), (false, 2));
        let teams = &operation.fields[0];
        assert_eq!((teams.alias.as_str(), teams.name.as_str()), ("all", "teams"));
        assert_eq!(Value::Object(teams.arguments.clone()), json!({"first": 50, "after": null, "x": [1, {"a": "b\""}]}));
        assert!(read("mutation { webhookDelete(id: \"x\") { success } }").expect("valid").is_mutation);
        assert!(read("{ viewer { id } }").is_ok());
        for wrong in [
            "",
            "{",
            "{ }",
            "{ viewer { id }",
            "{ viewer { id } } x",
            "subscription { x }",
            "{ a(b) }",
            "{ \"a\" }",
            "{ a(b: \"c) }",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_what_exists_can_be_asked_for() {
        let value = json!({"id": "1", "team": {"key": "TIDE"}, "none": null, "nodes": [{"id": 1}, {"id": 2}]});
        let ask = |selection: &str| select(&value, &read(selection).expect("valid").fields, "Issue");
        assert_eq!(
            ask("{ x: id team { key } none { y } nodes { id } }"),
            Ok(json!({"x": "1", "team": {"key": "TIDE"}, "none": null, "nodes": [{"id": 1}, {"id": 2}]}))
        );
        for wrong in ["{ other }", "{ team }", "{ id { x } }", "{ nodes { id key } }"] {
            assert!(ask(wrong).is_err(), "{wrong}");
        }
    }
}
