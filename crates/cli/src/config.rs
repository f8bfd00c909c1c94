//! `sealway.toml`: what a relay or a gateway runs with.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::{
    arguments::{self, Command, GatewayCommand, LogFormat, RelayCommand, Vault, Web},
    failure::Failure,
    logs::Log,
};

/// The longest file.
const LONGEST: u64 = 1 << 20;

/// The file, as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct File {
    #[serde(default)]
    pub(crate) log: Log,
    #[serde(default)]
    web: Web,
    relay: Option<RelayPart>,
    gateway: Option<GatewayPart>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RelayPart {
    vault: PathBuf,
    passphrase_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    listen: Vec<String>,
    data: Option<PathBuf>,
    #[serde(default)]
    allow: Vec<String>,
    client_rate: Option<u32>,
    metrics: Option<SocketAddr>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct GatewayPart {
    link: Vec<String>,
    uplink: Vec<String>,
    metrics: Option<SocketAddr>,
}

/// What a relay runs with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Relay {
    pub(crate) vault: Vault,
    pub(crate) web: Web,
    pub(crate) listen: Vec<String>,
    pub(crate) data: Option<PathBuf>,
    pub(crate) allow: Vec<String>,
    pub(crate) client_rate: Option<u32>,
    pub(crate) metrics: Option<SocketAddr>,
    pub(crate) log: Log,
}

/// What a gateway runs with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Gateway {
    pub(crate) web: Web,
    pub(crate) link: Vec<String>,
    pub(crate) uplink: Vec<String>,
    pub(crate) metrics: Option<SocketAddr>,
    pub(crate) log: Log,
}

impl File {
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        let failed = |error: &dyn std::fmt::Display| Failure::given(format!("{}: {error}", path.display()));
        let length = std::fs::metadata(path).map_err(|error| failed(&error))?.len();
        if length > LONGEST {
            return Err(failed(&format_args!("it has {length} octets, the limit is {LONGEST}")));
        }
        let text = std::fs::read_to_string(path).map_err(|error| failed(&error))?;
        toml::from_str(&text).map_err(|error| failed(&error.to_string().trim_end()))
    }
}

/// What a process is to log as: the command line goes before the file, if there is one.
pub(crate) fn log(command: &Command, format: Option<LogFormat>) -> Result<Log, Failure> {
    let path = match command {
        Command::Relay(RelayCommand::Run(relay)) => relay.config.as_deref(),
        Command::Gateway(GatewayCommand::Run(gateway)) => gateway.config.as_deref(),
        _ => None,
    };
    let log = path.map(File::read).transpose()?.map(|file| file.log).unwrap_or_default();
    Ok(Log { format: format.unwrap_or(log.format), ..log })
}

impl Relay {
    pub(crate) fn of(options: &arguments::Relay) -> Result<Self, Failure> {
        let Some(path) = &options.config else {
            let vault =
                options.vault.clone().ok_or_else(|| Failure::given("--vault FILE, or --config FILE, is missing"))?;
            return Ok(Self {
                vault,
                web: options.web.clone(),
                listen: options.listen.clone(),
                data: options.data.clone(),
                allow: options.allow.clone(),
                client_rate: options.client_rate,
                metrics: options.metrics,
                log: Log::default(),
            });
        };
        let File { web, relay, log, .. } = File::read(path)?;
        let lacks = |what: &str| Failure::given(format!("{}: {what}", path.display()));
        let part = relay.ok_or_else(|| lacks("there is no [relay]"))?;
        if part.listen.is_empty() {
            return Err(lacks("relay.listen names no address"));
        }
        if part.client_rate.is_some_and(|rate| rate < 1024) {
            return Err(lacks("relay.client-rate is below 1024"));
        }
        if part.passphrase_file.is_some() && part.key_file.is_some() {
            return Err(lacks("relay.passphrase-file and relay.key-file: one of them opens the vault"));
        }
        Ok(Self {
            vault: Vault { vault: part.vault, passphrase_file: part.passphrase_file, key_file: part.key_file },
            web: checked(web, &lacks)?,
            listen: part.listen,
            data: part.data,
            allow: part.allow,
            client_rate: part.client_rate,
            metrics: part.metrics,
            log,
        })
    }
}

impl Gateway {
    pub(crate) fn of(options: &arguments::Gateway) -> Result<Self, Failure> {
        let Some(path) = &options.config else {
            return Ok(Self {
                web: options.web.clone(),
                link: options.link.clone(),
                uplink: options.uplink.clone(),
                metrics: options.metrics,
                log: Log::default(),
            });
        };
        let File { web, gateway, log, .. } = File::read(path)?;
        let lacks = |what: &str| Failure::given(format!("{}: {what}", path.display()));
        let part = gateway.ok_or_else(|| lacks("there is no [gateway]"))?;
        Ok(Self { web: checked(web, &lacks)?, link: part.link, uplink: part.uplink, metrics: part.metrics, log })
    }
}

fn checked(web: Web, lacks: &impl Fn(&str) -> Failure) -> Result<Web, Failure> {
    match web.certificate.is_some() == web.key.is_some() {
        true => Ok(web),
        false => Err(lacks("web.certificate and web.key: both of them, or neither")),
    }
}
