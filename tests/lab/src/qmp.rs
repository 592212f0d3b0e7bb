//! QEMU's machine protocol, as far as the lab speaks it: one command at a time, events kept until asked for.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{Result, at};

/// A connection.
#[derive(Debug)]
pub struct Qmp {
    stream: BufReader<UnixStream>,
    events: Vec<Value>,
}

impl Qmp {
    /// Greets QEMU on a connected socket.
    pub(crate) fn new(stream: UnixStream) -> Result<Self> {
        stream
            .set_read_timeout(Some(Duration::from_secs(120)))
            .map_err(at("QMP socket"))?;
        let mut qmp = Self {
            stream: BufReader::new(stream),
            events: Vec::new(),
        };
        qmp.next()?;
        qmp.command("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    fn next(&mut self) -> Result<Value> {
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Ok(0) => Err("QEMU has closed the QMP socket".to_owned()),
            Ok(_) => serde_json::from_str(&line).map_err(at("QMP answer")),
            Err(error) => Err(format!("QMP: {error}")),
        }
    }

    /// Runs a command and returns what it returned.
    ///
    /// # Errors
    /// When QEMU refuses it or does not answer.
    pub fn command(&mut self, name: &str, arguments: &Value) -> Result<Value> {
        let line = json!({"execute": name, "arguments": arguments});
        writeln!(self.stream.get_mut(), "{line}").map_err(at("QMP"))?;
        loop {
            let mut answer = self.next()?;
            if answer.get("event").is_some() {
                self.events.push(answer);
            } else if let Some(error) = answer.get("error") {
                return Err(format!("QMP {line}: {}", error["desc"]));
            } else {
                return Ok(answer["return"].take());
            }
        }
    }

    /// Waits for an event of this name whose data has `key` = `value`.
    ///
    /// # Errors
    /// When it has not come after two minutes.
    pub fn wait_event(&mut self, name: &str, key: &str, value: &str) -> Result {
        let wanted = |event: &Value| event["event"] == name && event["data"][key] == value;
        let until = Instant::now() + Duration::from_secs(120);
        loop {
            if let Some(found) = self.events.iter().position(wanted) {
                self.events.remove(found);
                return Ok(());
            }
            if Instant::now() > until {
                return Err(format!(
                    "QEMU sent no {name} with {key} {value} in two minutes"
                ));
            }
            let event = self.next()?;
            self.events.push(event);
        }
    }
}
