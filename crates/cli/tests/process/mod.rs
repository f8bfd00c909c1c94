//! The program, run as a person runs it.
#![allow(dead_code, reason = "each test file uses some of it")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Output, Stdio},
};

pub(crate) fn sealway(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sealway"));
    command.current_dir(folder).env_remove("SEALWAY_PASSPHRASE").env_remove("SEALWAY_LOG").stdin(Stdio::null());
    command
}

pub(crate) fn run(folder: &Path, arguments: &[&str]) -> Output {
    sealway(folder).args(arguments).output().unwrap()
}

pub(crate) fn made(folder: &Path, name: &str, more: &[&str]) {
    let vault = format!("{name}.vault");
    let output = run(folder, &[&["identity", "new", "--vault", &vault], more].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The exit code, and the one sentence.
pub(crate) fn refused(folder: &Path, arguments: &[&str]) -> (i32, String) {
    sentence(&run(folder, arguments))
}

pub(crate) fn sentence(output: &Output) -> (i32, String) {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    let said: Vec<&str> = text.lines().filter(|line| line.starts_with("sealway: ")).collect();
    assert_eq!(said.len(), 1, "one sentence: {text}");
    assert!(!text.contains("panicked"), "{text}");
    (output.status.code().unwrap(), said[0].trim_start_matches("sealway: ").to_string())
}

/// A process that does not outlive its test.
pub(crate) struct Running(pub(crate) Child);

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self(command.stdout(Stdio::piped()).spawn().unwrap())
    }

    /// Asks it to end, and waits.
    pub(crate) fn stop(mut self) {
        self.signal("TERM");
        assert!(self.0.wait().unwrap().success());
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    pub(crate) fn lines(&mut self) -> impl Iterator<Item = String> + use<> {
        BufReader::new(self.0.stdout.take().unwrap()).lines().map(Result::unwrap)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What is asked of a path over HTTP, without more ado.
pub(crate) fn get(address: &str, path: &str) -> String {
    let mut connection = TcpStream::connect(address).unwrap();
    write!(connection, "GET {path} HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    connection.read_to_string(&mut text).unwrap();
    text
}
