//! The `sealway` program.
//!
//! Exit codes: 0 done; 1 the other side, the network or the disk did not do it; 2 the command line is wrong; 3 what was
//! given (a vault, a card, a passphrase) is not what it must be.
#![forbid(unsafe_code)]

mod arguments;
mod config;
mod demo;
mod diagnose;
mod doctor;
mod failure;
mod gateway;
mod identity;
mod inspect;
mod logs;
mod media;
mod metrics;
mod provision;
mod relay;
mod report;
mod service;
mod talk;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::{
    arguments::{Arguments, CardCommand, Command, DemoCommand, GatewayCommand, IdentityCommand, RelayCommand},
    failure::Failure,
};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let log = config::log(&arguments.command, arguments.log_format);
    if let Err(failure) = log.and_then(|log| logs::start(&log)) {
        return failure.report();
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::failed(format!("the runtime cannot be started: {error}")).report(),
    };
    let outcome = runtime.block_on(run(arguments.command));
    // Reading standard input cannot be cancelled: a thread that waits for a line must not keep the program.
    runtime.shutdown_background();
    match outcome {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}

async fn run(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Identity(IdentityCommand::New(new)) => identity::new(&new)?,
        Command::Identity(IdentityCommand::Show(show)) => identity::show(&show)?,
        Command::Identity(IdentityCommand::Rotate(rotate)) => identity::rotate(&rotate)?,
        Command::Card(CardCommand::Show(show)) => identity::show_card(&show)?,
        Command::Card(CardCommand::Renew(show)) => identity::renew_card(&show)?,
        Command::Card(CardCommand::Inspect(inspect)) => identity::inspect_card(&inspect)?,
        Command::Relay(RelayCommand::Run(run)) => relay::run(&run).await?,
        Command::Gateway(GatewayCommand::Run(run)) => gateway::run(&run).await?,
        Command::Provision(options) => provision::provision(&options)?,
        Command::Listen(listen) => talk::listen(&listen).await?,
        Command::Open(open) => talk::open(&open).await?,
        Command::Ping(options) => diagnose::ping(&options).await?,
        Command::Trace(options) => diagnose::trace(&options).await?,
        Command::Doctor(options) => doctor::run(&options).await?,
        Command::Inspect(options) => inspect::inspect(&options)?,
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "sealway", &mut text);
            report::print(&text)?;
        }
        Command::Man => {
            let mut text = Vec::new();
            clap_mangen::Man::new(Arguments::command()).render(&mut text).map_err(Failure::failed)?;
            report::print(&text)?;
        }
        Command::Demo(DemoCommand::HeartRate(options)) => return demo::run(options).await,
        Command::Demo(DemoCommand::Offline(options)) => return demo::offline::run(&options).await,
        Command::Demo(DemoCommand::Kills(options)) => return demo::kills::run(&options).await,
        Command::DemoRole(role) => demo::run_role(&role).await?,
    }
    Ok(ExitCode::SUCCESS)
}
