//! The processes of a demonstration, seen from the one that starts and kills them.

use std::{process::Stdio, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, Command},
    sync::mpsc,
};

use super::files::Folder;
use crate::failure::Failure;

/// A line that a process has said.
pub(crate) struct Said {
    pub(crate) who: &'static str,
    pub(crate) line: String,
}

/// What the processes say, in the order in which it arrives.
pub(crate) struct Stage {
    folder: Folder,
    pub(crate) step: Duration,
    /// For every process, beside what this one has.
    pub(crate) environment: Vec<(&'static str, String)>,
    said: mpsc::UnboundedReceiver<Said>,
    sayer: mpsc::UnboundedSender<Said>,
}

/// A process. It is killed when this is dropped.
pub(crate) struct Actor {
    process: Child,
    orders: ChildStdin,
}

impl Stage {
    /// A stage on which nothing is waited for longer than `step`.
    pub(crate) fn new(folder: Folder, step: Duration) -> Self {
        let (sayer, said) = mpsc::unbounded_channel();
        Self { folder, step, environment: Vec::new(), said, sayer }
    }

    /// Starts a process of the demonstration. Its log goes to the folder.
    pub(crate) fn enter(&self, role: &'static str, address: &str, seed: u64) -> Result<Actor, Failure> {
        let failed = |error: std::io::Error| Failure::failed(format!("the {role} cannot be started: {error}"));
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.folder.path(&format!("{role}.log")));
        let mut process = Command::new(std::env::current_exe().map_err(failed)?)
            .args(["demo-role", role])
            .arg(&self.folder.0)
            .args([address, &seed.to_string()])
            .env("SEALWAY_LOG", "info")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log.map_err(failed)?)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let (Some(orders), Some(output)) = (process.stdin.take(), process.stdout.take()) else {
            return Err(Failure::failed(format!("the {role} has no pipes")));
        };
        let sayer = self.sayer.clone();
        tokio::spawn(async move {
            let mut lines = BufReader::new(output).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                if sayer.send(Said { who: role, line }).is_err() {
                    break;
                }
            }
        });
        Ok(Actor { process, orders })
    }

    /// Waits until `done` says so of a line.
    pub(crate) async fn wait(&mut self, what: &str, mut done: impl FnMut(&Said) -> bool) -> Result<Said, Failure> {
        let waiting = async {
            while let Some(said) = self.said.recv().await {
                if done(&said) {
                    return Some(said);
                }
            }
            None
        };
        match tokio::time::timeout(self.step, waiting).await {
            Ok(Some(said)) => Ok(said),
            _ => Err(Failure::failed(format!("the demonstration has stalled while waiting for {what}"))),
        }
    }
}

impl Actor {
    pub(crate) async fn order(&mut self, order: &str) -> Result<(), Failure> {
        self.orders.write_all(format!("{order}\n").as_bytes()).await.map_err(Failure::failed)
    }

    /// Tells the process nothing more, and waits until it has ended.
    pub(crate) async fn end(self) -> Result<(), Failure> {
        let Self { mut process, orders } = self;
        drop(orders);
        let status = process.wait().await.map_err(Failure::failed)?;
        if status.success() { Ok(()) } else { Err(Failure::failed(format!("a process has failed: {status}"))) }
    }

    /// Kills the process as `kill -9` does, and waits until it is gone.
    pub(crate) async fn kill(mut self) -> Result<(), Failure> {
        self.process.kill().await.map_err(Failure::failed)
    }
}
