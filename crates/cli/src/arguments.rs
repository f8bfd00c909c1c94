//! The command line.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Deserialize;

/// End-to-end encrypted channels for machines that cannot reach each other directly.
///
/// Logs go to standard error; SEALWAY_LOG=error|warn|info|debug|trace|off sets how much (warn).
#[derive(Debug, Parser)]
#[command(name = "sealway", version)]
pub(crate) struct Arguments {
    /// How logs are written [default: text].
    #[arg(long, value_enum, value_name = "FORMAT", global = true)]
    pub(crate) log_format: Option<LogFormat>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// A form of logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// A JSON object a line, for collectors of logs.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Makes, shows and rotates identities.
    #[command(subcommand)]
    Identity(IdentityCommand),
    /// Shows and explains contact cards.
    #[command(subcommand)]
    Card(CardCommand),
    /// Runs a relay.
    #[command(subcommand)]
    Relay(RelayCommand),
    /// Runs a gateway.
    #[command(subcommand)]
    Gateway(GatewayCommand),
    /// Makes devices of the constrained profile: keys and pairing for the flash of each, its pairing for the service, labels.
    Provision(Provision),
    /// Waits for peers and prints what they send, a line a message.
    Listen(Listen),
    /// Opens a channel: each line of standard input is a message, each message received a line of standard output.
    Open(Open),
    /// Asks a peer for signs of life, through every layer: each is sealed and answered by the peer itself. The identity must not be
    /// in use by another process.
    Ping(Ping),
    /// Goes to a peer hop by hop, and says how long each takes, or where the way is lost.
    Trace(Trace),
    /// Looks for what is wrong on this machine and on the way to its relays: files, clock, addresses, relays, lengths of datagrams.
    Doctor(Doctor),
    /// Says what a frame is, or where it is malformed. No key is asked for, and nothing sealed is shown.
    Inspect(Inspect),
    /// Prints what completes the program's words in a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Prints the manual page, for `man -l -`.
    Man,
    /// Shows what Sealway does, on recorded data.
    #[command(subcommand)]
    Demo(DemoCommand),
    /// One process of a demonstration.
    #[command(hide = true)]
    DemoRole(DemoRole),
}

#[derive(Debug, Subcommand)]
pub(crate) enum IdentityCommand {
    /// Makes an identity in a new vault, and writes its card beside it.
    New(New),
    /// Says who the identity in a vault is.
    Show(Show),
    /// Moves the identity to the key in its recovery file, with a new channel key and a new card. The old card goes on
    /// working for 14 days, but not for those to whom this identity has opened a channel since.
    Rotate(Rotate),
}

#[derive(Debug, Subcommand)]
pub(crate) enum CardCommand {
    /// Prints the card of the identity in a vault.
    Show(ShowCard),
    /// Makes a new card: with other addresses, other relays, or the newer card of a relay that has rotated.
    Renew(RenewCard),
    /// Verifies a card and says what is on it.
    Inspect(InspectCard),
}

#[derive(Debug, Subcommand)]
pub(crate) enum RelayCommand {
    /// Forwards frames between the clients that it lets attach, and never sees what is in them.
    Run(Relay),
}

#[derive(Debug, Subcommand)]
pub(crate) enum GatewayCommand {
    /// Carries frames between devices and a relay, over other media; it has no key that opens one.
    Run(Gateway),
}

#[derive(Debug, Subcommand)]
pub(crate) enum DemoCommand {
    /// A heart-rate monitor and a phone behind a relay that tampers, and the same over TLS.
    HeartRate(HeartRate),
    /// Two machines that are never there at the same time, from their first words on.
    Offline(Offline),
    /// Two machines and their relay, one of which is killed again and again.
    Kills(Kills),
}

/// Which vault, and what opens it.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub(crate) struct Vault {
    /// The file with the private keys.
    #[arg(long, value_name = "FILE")]
    pub(crate) vault: PathBuf,
    /// The file whose first line is the passphrase. Also: the variable SEALWAY_PASSPHRASE. Without either, a key file
    /// beside the vault (FILE.key) opens it.
    #[arg(long, value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// The key file, if it is not FILE.key.
    #[arg(long, value_name = "FILE", conflicts_with = "passphrase_file")]
    pub(crate) key_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct New {
    #[command(flatten)]
    pub(crate) vault: Vault,
    /// An address at which the machine itself listens, for its card: tcp://host:port or udp://host:port. Repeatable.
    #[arg(long = "at", value_name = "ADDRESS")]
    pub(crate) addresses: Vec<String>,
    /// The card of a relay at which the machine is to be found. Repeatable.
    #[arg(long = "relay", value_name = "CARD")]
    pub(crate) relays: Vec<String>,
    /// Where the card is written [default: FILE.card].
    #[arg(long, value_name = "FILE")]
    pub(crate) card: Option<PathBuf>,
    /// Where the recovery key is written [default: FILE.recovery].
    #[arg(long, value_name = "FILE")]
    pub(crate) recovery: Option<PathBuf>,
    /// Prints a JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Show {
    #[command(flatten)]
    pub(crate) vault: Vault,
    /// Prints a JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Rotate {
    #[command(flatten)]
    pub(crate) vault: Vault,
    /// The recovery file of the identity. Its key becomes the one in the vault.
    #[arg(long, value_name = "FILE")]
    pub(crate) recovery: PathBuf,
    /// Where the next recovery key is written.
    #[arg(long, value_name = "FILE")]
    pub(crate) new_recovery: PathBuf,
    /// Where the new card is written, over the old one [default: FILE.card].
    #[arg(long, value_name = "FILE")]
    pub(crate) card: Option<PathBuf>,
    /// Prints a JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ShowCard {
    #[command(flatten)]
    pub(crate) vault: Vault,
    /// Draws it, for a camera, before it is printed.
    #[arg(long)]
    pub(crate) qr: bool,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true).args(["addresses", "relays"]))]
pub(crate) struct RenewCard {
    #[command(flatten)]
    pub(crate) vault: Vault,
    /// An address at which the machine itself listens, instead of those on the card. Repeatable.
    #[arg(long = "at", value_name = "ADDRESS")]
    pub(crate) addresses: Vec<String>,
    /// The card of a relay, instead of those that are known. Repeatable.
    #[arg(long = "relay", value_name = "CARD")]
    pub(crate) relays: Vec<String>,
    /// Where the new card is written, over the old one [default: FILE.card].
    #[arg(long, value_name = "FILE")]
    pub(crate) card: Option<PathBuf>,
    /// Prints a JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct InspectCard {
    /// The card, or a file with it.
    #[arg(value_name = "CARD")]
    pub(crate) card: String,
    /// Prints a JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// How TLS is spoken where an address says wss, and who stands before a listener.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct Web {
    /// The certificate that is shown to those who connect over wss, and those that vouch for it, in PEM.
    #[arg(long = "tls-certificate", value_name = "FILE", requires = "key")]
    pub(crate) certificate: Option<PathBuf>,
    /// Its private key, in PEM.
    #[arg(long = "tls-key", value_name = "FILE", requires = "certificate")]
    pub(crate) key: Option<PathBuf>,
    /// Whose certificates are believed where we connect over wss, in PEM, instead of the system's authorities.
    #[arg(long = "tls-authority", value_name = "FILE")]
    pub(crate) authority: Option<PathBuf>,
    /// A reverse proxy before us, which is believed from where a connection over ws or wss comes (X-Forwarded-For). Repeatable.
    #[arg(long = "behind", value_name = "IP")]
    pub(crate) behind: Vec<IpAddr>,
}

/// The options of a process that runs for years, unless a file has them.
#[derive(Debug, Args)]
pub(crate) struct Relay {
    /// The file with everything: see `sealway.toml` in the documentation. SIGHUP has it read again.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["Vault", "Web", "listen", "data", "allow", "client_rate", "metrics"])]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) vault: Option<Vault>,
    #[command(flatten)]
    pub(crate) web: Web,
    /// An address to listen on: tcp://host:port, udp://host:port, ws://host:port/path, wss://host:port/path or
    /// serial:device?baud=rate. Repeatable.
    #[arg(long = "listen", value_name = "ADDRESS", required_unless_present = "config", requires = "Vault")]
    pub(crate) listen: Vec<String>,
    /// The relay's data file: which box belongs to whom, and what is in it [default: FILE.data].
    #[arg(long, value_name = "FILE")]
    pub(crate) data: Option<PathBuf>,
    /// Who may attach: an identity (64 hexadecimal digits), a card, or a file with a card. Repeatable; without any, nobody.
    #[arg(long = "allow", value_name = "ID|CARD")]
    pub(crate) allow: Vec<String>,
    /// Octets a second that are read from each connection, on average: what is beyond waits at its sender. At least 1024
    /// [without it: as many as there are].
    #[arg(long, value_name = "OCTETS", value_parser = clap::value_parser!(u32).range(1024..))]
    pub(crate) client_rate: Option<u32>,
    /// Serves what is counted (/metrics, for Prometheus) and whether all is well (/health) on this address
    /// [without one: 127.0.0.1:9464].
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, default_missing_value = "127.0.0.1:9464")]
    pub(crate) metrics: Option<SocketAddr>,
    /// Records the frames of all links in a new file, as pcapng, up to 256 MiB: sealed as they are.
    #[arg(long, value_name = "FILE")]
    pub(crate) record: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Gateway {
    /// The file with everything: see `sealway.toml` in the documentation. SIGHUP has it read again.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["Web", "link", "uplink", "metrics"])]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) web: Web,
    /// Where devices are: serial:device?baud=rate, or an address to listen on: tcp://host:port, ws://host:port/path or
    /// wss://host:port/path. Repeatable.
    #[arg(long = "link", value_name = "ADDRESS", required_unless_present = "config")]
    pub(crate) link: Vec<String>,
    /// Where the relay is: tcp://host:port, udp://host:port, ws://host:port/path or wss://host:port/path. Repeatable: they are
    /// tried in turn.
    #[arg(long = "uplink", value_name = "ADDRESS", required_unless_present = "config")]
    pub(crate) uplink: Vec<String>,
    /// Serves what is counted (/metrics, for Prometheus) and whether all is well (/health) on this address
    /// [without one: 127.0.0.1:9464].
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, default_missing_value = "127.0.0.1:9464")]
    pub(crate) metrics: Option<SocketAddr>,
    /// Records the frames of all links in a new file, as pcapng, up to 256 MiB: sealed as they are.
    #[arg(long, value_name = "FILE")]
    pub(crate) record: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Listen {
    #[command(flatten)]
    pub(crate) vault: Vault,
    #[command(flatten)]
    pub(crate) web: Web,
    /// Who may talk to us: an identity, a card, or a file with a card. Repeatable; without any, nobody. With a card we
    /// also open the channel from our side.
    #[arg(long = "from", value_name = "ID|CARD")]
    pub(crate) from: Vec<String>,
    /// An address to listen on, beside the relays of our card. Repeatable.
    #[arg(long = "listen", value_name = "ADDRESS")]
    pub(crate) listen: Vec<String>,
    /// Where the first relay of our card is reached from this machine, before the addresses of its card:
    /// serial:/dev/ttyUSB0?baud=115200, say.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) via: Option<String>,
    /// Takes one peer, and joins standard input and output with what it streams: octets instead of lines.
    #[arg(long)]
    pub(crate) stream: bool,
    /// The data file: messages on the way, and what was received [default: FILE.data].
    #[arg(long, value_name = "FILE")]
    pub(crate) data: Option<PathBuf>,
    /// Records the frames of all links in a new file, as pcapng, up to 256 MiB: sealed as they are.
    #[arg(long, value_name = "FILE")]
    pub(crate) record: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) ways: Ways,
}

#[derive(Debug, Args)]
pub(crate) struct Open {
    #[command(flatten)]
    pub(crate) vault: Vault,
    /// The peer: its card, or a file with its card.
    #[arg(value_name = "CARD")]
    pub(crate) peer: String,
    /// Whose certificates are believed where we connect over wss, in PEM, instead of the system's authorities.
    #[arg(long = "tls-authority", value_name = "FILE")]
    pub(crate) authority: Option<PathBuf>,
    /// Where the first relay of our card, or the peer if there is none, is reached from this machine, before the addresses of its card:
    /// serial:/dev/ttyUSB0?baud=115200, say.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) via: Option<String>,
    /// Sends standard input as octets instead of lines, and writes those that come to standard output. The peer has to
    /// `listen --stream`. Nothing of it survives either program.
    #[arg(long)]
    pub(crate) stream: bool,
    /// The data file: messages on the way, and what was received [default: FILE.data].
    #[arg(long, value_name = "FILE")]
    pub(crate) data: Option<PathBuf>,
    /// Records the frames of all links in a new file, as pcapng, up to 256 MiB: sealed as they are.
    #[arg(long, value_name = "FILE")]
    pub(crate) record: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) ways: Ways,
}

/// By which ways peers are reached.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(crate) struct Ways {
    /// Sends everything over relays, and tells no peer at which network addresses this machine is. Otherwise two machines that are
    /// attached to a relay over UDP look for a way without it.
    #[arg(long)]
    pub(crate) relayed: bool,
    /// The port from which UDP leaves, while it is free: for a machine to which a router forwards it.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) udp_port: Option<u16>,
}

/// Who looks around, and how.
#[derive(Debug, Args)]
pub(crate) struct Look {
    #[command(flatten)]
    pub(crate) vault: Vault,
    /// Whose certificates are believed where we connect over wss, in PEM, instead of the system's authorities.
    #[arg(long = "tls-authority", value_name = "FILE")]
    pub(crate) authority: Option<PathBuf>,
    /// Where the first relay of our card, or the peer if there is none, is reached from this machine.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) via: Option<String>,
    /// How many seconds an answer is waited for.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(crate) limit: u32,
    /// Prints a JSON object a line.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Who looks for whom.
#[derive(Debug, Args)]
pub(crate) struct Whom {
    /// The peer: its card, or a file with its card.
    #[arg(value_name = "CARD")]
    pub(crate) peer: String,
    #[command(flatten)]
    pub(crate) look: Look,
}

#[derive(Debug, Args)]
pub(crate) struct Ping {
    #[command(flatten)]
    pub(crate) whom: Whom,
    /// Asks the relays on the way too.
    #[arg(long)]
    pub(crate) route: bool,
    /// How many times.
    #[arg(long, value_name = "NUMBER", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) count: u32,
    /// Milliseconds between two of them.
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 1000)]
    pub(crate) interval: u32,
}

#[derive(Debug, Args)]
pub(crate) struct Trace {
    #[command(flatten)]
    pub(crate) whom: Whom,
}

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// A peer that is to answer too: its card, or a file with its card.
    #[arg(value_name = "CARD")]
    pub(crate) peer: Option<String>,
    #[command(flatten)]
    pub(crate) look: Look,
}

#[derive(Debug, Args)]
pub(crate) struct Provision {
    /// The service that the devices call: its card, or a file with its card.
    #[arg(long = "for", value_name = "CARD")]
    pub(crate) service: String,
    /// An empty folder, or none yet: NAME.bin for the flash of each device, pairings.csv for the service, recoveries.csv for
    /// whoever may rotate the identities, labels.csv for people.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) out: PathBuf,
    /// A file with names: the first column of each line.
    #[arg(long, value_name = "FILE")]
    pub(crate) list: Option<PathBuf>,
    /// Writes NAME.h too: the same as a constant of C.
    #[arg(long)]
    pub(crate) header: bool,
    /// Writes NAME.svg too: a label to be printed.
    #[arg(long)]
    pub(crate) labels: bool,
    /// Prints a JSON object.
    #[arg(long)]
    pub(crate) json: bool,
    /// Names of devices.
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// The frame in hexadecimal digits; spaces and colons are ignored.
    #[arg(value_name = "FRAME")]
    pub(crate) frame: String,
    /// Prints a JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct HeartRate {
    /// Keeps the folder with captures, logs and data, and says where it is.
    #[arg(long)]
    pub(crate) keep: bool,
    /// The seed of all damage, for a run that repeats it.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Turns one protection off: window, tag or ack. Only in builds for tests.
    #[cfg(sealway_break)]
    #[arg(long = "break", value_name = "PROTECTION")]
    pub(crate) broken: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Offline {
    /// Keeps the folder with logs and data, and says where it is.
    #[arg(long)]
    pub(crate) keep: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Kills {
    /// How often one of the three is killed.
    #[arg(long, default_value_t = 200)]
    pub(crate) count: u32,
    /// The seed that says which, and when.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Keeps the folder with logs and data, and says where it is.
    #[arg(long)]
    pub(crate) keep: bool,
}

/// Which process of a demonstration this is.
#[derive(Debug, Args)]
pub(crate) struct DemoRole {
    /// Its name.
    pub(crate) role: String,
    /// The demonstration's folder.
    pub(crate) folder: PathBuf,
    /// Where it listens, or the local address from which it connects.
    pub(crate) address: String,
    /// The seed of its damage.
    #[arg(default_value_t = 0)]
    pub(crate) seed: u64,
}
