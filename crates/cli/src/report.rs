//! What a command has to say: a line for each field, or a JSON object.

use std::io::Write;

use serde_json::{Map, Value};

use crate::failure::Failure;

/// Fields in the order in which they are printed.
#[derive(Default)]
pub(crate) struct Report(Vec<(&'static str, Value)>);

impl Report {
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.0.push((name, value.into()));
        self
    }

    pub(crate) fn print(self, json: bool) -> Result<(), Failure> {
        let mut text = String::new();
        if json {
            let fields = self.0.into_iter().map(|(name, value)| (name.replace(' ', "_"), value));
            text = format!("{}\n", Value::Object(fields.collect::<Map<_, _>>()));
        } else {
            let width = self.0.iter().map(|(name, _)| name.len()).max().unwrap_or_default().max(9);
            for (name, value) in &self.0 {
                match value {
                    Value::Array(lines) => lines.iter().for_each(|line| push(&mut text, width, name, line)),
                    Value::Null => {}
                    value => push(&mut text, width, name, value),
                }
            }
        }
        print(text.as_bytes())
    }
}

fn push(text: &mut String, width: usize, name: &str, value: &Value) {
    let value = value.as_str().map_or_else(|| value.to_string(), str::to_string);
    text.push_str(&format!("{name:<width$} {value}\n"));
}

/// Prints it whole, or says why not: a closed pipe is no reason to panic.
pub(crate) fn print(text: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let printed = out.write_all(text).and_then(|()| out.flush());
    printed.map_err(|error| Failure::failed(format!("standard output: {error}")))
}
