//! `identity`, `card`, and how vaults and cards are named on the command line.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use sealway::{
    Algorithm, Card, CryptoProvider, Identity, IdentityError, IdentityFileError, IdentityId, Policy, RecoveryKey,
    RelayEntry, Secret, Unlock, UnverifiedCard, crypto,
};
use zeroize::Zeroizing;

use crate::{
    arguments::{InspectCard, New, RenewCard, Rotate, Show, ShowCard, Vault},
    failure::Failure,
    report::{self, Report},
};

pub(crate) fn new(options: &New) -> Result<(), Failure> {
    options.addresses.iter().try_for_each(|address| check_public(address))?;
    let relays = options.relays.iter().map(|relay| relay_card(relay)).collect::<Result<Vec<_>, _>>()?;
    let path = &options.vault.vault;
    let card_path = options.card.clone().unwrap_or_else(|| beside(path, ".card"));
    let recovery_path = options.recovery.clone().unwrap_or_else(|| beside(path, ".recovery"));
    for taken in [path, &card_path, &recovery_path] {
        if taken.exists() {
            let taken = taken.display();
            return Err(Failure::given(format!("{taken} exists already; choose another name, or remove it")));
        }
    }
    let unlock = unlock_new(&options.vault)?;
    let (identity, recovery) = Identity::create(path, unlock, options.addresses.clone(), relays)?;
    write_recovery(&recovery_path, &recovery)?;
    write_card(&card_path, identity.card())?;
    let report = Report::default()
        .with("identity", identity.id().to_string())
        .with("card", card_path.display().to_string())
        .with("recovery", recovery_path.display().to_string());
    report.print(options.json)?;
    eprintln!("move the recovery file away from this machine: who has it and nobody else can rotate the identity");
    Ok(())
}

pub(crate) fn show(options: &Show) -> Result<(), Failure> {
    let identity = open(&options.vault)?;
    of_card(identity.card()).with("card", identity.card().to_uri()).print(options.json)
}

pub(crate) fn rotate(options: &Rotate) -> Result<(), Failure> {
    let identity = open(&options.vault)?;
    let recovery = read_recovery(&options.recovery)?;
    let next = &options.new_recovery;
    if next.exists() {
        return Err(Failure::given(format!("{} exists already; choose another name", next.display())));
    }
    // On disk, folder and all, before the vault is written: with the vault alone nobody could rotate it again.
    let wrong = || {
        let what =
            "is not the one that was announced: it is of another identity, or was used; or the limit of four rotations";
        Failure::given(format!("the key in {} {what} is reached", options.recovery.display()))
    };
    let rotated =
        identity.rotate(&recovery, |recovery| write_recovery(next, recovery)).map_err(|error| match error {
            IdentityFileError::Identity(IdentityError::History { .. }) => wrong(),
            error => error.into(),
        })?;
    let identity = rotated.inspect_err(|_| drop(std::fs::remove_file(next)))?;
    let card_path = options.card.clone().unwrap_or_else(|| beside(&options.vault.vault, ".card"));
    write_card(&card_path, identity.card())?;
    let report = of_card(identity.card())
        .with("card", card_path.display().to_string())
        .with("recovery", next.display().to_string());
    report.print(options.json)?;
    eprintln!(
        "give the new card to your peers; the old one works for 14 days more. The old recovery file is of no use now"
    );
    Ok(())
}

pub(crate) fn show_card(options: &ShowCard) -> Result<(), Failure> {
    let uri = open(&options.vault)?.card().to_uri();
    if options.qr {
        let code = qrcode::QrCode::with_error_correction_level(&uri, qrcode::EcLevel::L);
        let code = code.map_err(|error| Failure::given(format!("the card cannot be drawn: {error}")))?;
        let drawn = code.render::<qrcode::render::unicode::Dense1x2>().quiet_zone(true).build();
        report::print(format!("{drawn}\n").as_bytes())?;
    }
    report::print(format!("{uri}\n").as_bytes())
}

pub(crate) fn renew_card(options: &RenewCard) -> Result<(), Failure> {
    options.addresses.iter().try_for_each(|address| check_public(address))?;
    let relays = options.relays.iter().map(|relay| relay_card(relay)).collect::<Result<Vec<_>, _>>()?;
    let identity = open(&options.vault)?;
    let addresses = Some(options.addresses.clone()).filter(|addresses| !addresses.is_empty());
    let identity = identity.renew_card(addresses, Some(relays).filter(|relays| !relays.is_empty()))?;
    let card_path = options.card.clone().unwrap_or_else(|| beside(&options.vault.vault, ".card"));
    write_card(&card_path, identity.card())?;
    of_card(identity.card()).with("card", card_path.display().to_string()).print(options.json)?;
    eprintln!("give the new card to your peers, and start what runs under this identity anew");
    Ok(())
}

pub(crate) fn inspect_card(options: &InspectCard) -> Result<(), Failure> {
    of_card(&card(&options.card)?).print(options.json)
}

fn of_card(card: &Card) -> Report {
    let (event, sequence) = card.rank();
    let attestation = card.attestation();
    let relay = |relay: &RelayEntry| {
        let at = if relay.addresses.is_empty() { String::new() } else { format!(" at {}", relay.addresses.join(", ")) };
        format!("{} box {}{at}", relay.id, relay.contact_box)
    };
    let algorithm = match card.algorithm() {
        Algorithm::Ed25519 => "Ed25519",
        Algorithm::P256 => "P-256",
    };
    Report::default()
        .with("identity", card.id().to_string())
        .with("algorithm", algorithm)
        .with("rotations", event)
        .with("sequence", sequence)
        .with("channel key", data_encoding::HEXLOWER.encode(&attestation.channel_key))
        .with("generation", attestation.generation)
        .with("not after", attestation.not_after.map(|at| at.0))
        .with("addresses", card.addresses().to_vec())
        .with("relays", card.relays().iter().map(relay).collect::<Vec<_>>())
}

fn write_card(path: &Path, card: &Card) -> Result<(), Failure> {
    std::fs::write(path, format!("{}\n", card.to_uri())).map_err(|error| cannot_write(path, &error))
}

const RECOVERY_HEAD: &str = "sealway recovery key";

fn write_recovery(path: &Path, recovery: &RecoveryKey) -> Result<(), Failure> {
    let digits = Zeroizing::new(data_encoding::HEXLOWER.encode(recovery.expose().expose()));
    write_private(path, Zeroizing::new(format!("{RECOVERY_HEAD}\n{}\n", digits.as_str())).as_bytes())
}

fn read_recovery(path: &Path) -> Result<RecoveryKey, Failure> {
    let text = Zeroizing::new(read_short(path, "recovery file")?);
    let wrong = || {
        let what = "the line \"sealway recovery key\", and 66 hexadecimal digits";
        Failure::given(format!("{} is no recovery file: it holds {what}", path.display()))
    };
    let digits = text.trim().strip_prefix(RECOVERY_HEAD).ok_or_else(wrong)?.trim();
    let octets = data_encoding::HEXLOWER.decode(digits.as_bytes()).map(Zeroizing::new).map_err(|_| wrong())?;
    let octets = <[u8; 33]>::try_from(octets.as_slice()).map_err(|_| wrong())?;
    RecoveryKey::from_secret(&Secret::new(octets)).map_err(|_| wrong())
}

/// Opens the identity in a vault.
pub(crate) fn open(vault: &Vault) -> Result<Identity, Failure> {
    if !vault.vault.exists() {
        let path = vault.vault.display();
        return Err(Failure::given(format!(
            "there is no vault {path}; make one with `sealway identity new --vault {path}`"
        )));
    }
    let unlock = match passphrase(vault)? {
        Some(passphrase) => Unlock::Passphrase(passphrase),
        None if vault.key_file.is_none() && !key_path(vault).exists() => {
            let key = key_path(vault);
            let key = key.display();
            let what = "give --passphrase-file, or the variable SEALWAY_PASSPHRASE, if a passphrase opens it";
            return Err(Failure::given(format!("there is no key file {key}; {what}")));
        }
        None => read_key_file(&key_path(vault))?,
    };
    Ok(Identity::open(&vault.vault, unlock)?)
}

/// A card as text, or a file with one. What it says is verified.
pub(crate) fn card(text_or_path: &str) -> Result<Card, Failure> {
    let text = if text_or_path.starts_with("sealway:") {
        text_or_path.to_string()
    } else {
        read_short(Path::new(text_or_path), "card")?
    };
    let refused = |error: &dyn std::fmt::Display| Failure::given(format!("{text_or_path:.60}: no card: {error}"));
    let card = UnverifiedCard::from_uri(&text).map_err(|error| refused(&error))?;
    card.verify(&crypto()).map_err(|error| refused(&error))
}

fn relay_card(text_or_path: &str) -> Result<Card, Failure> {
    let card = card(text_or_path)?;
    if card.addresses().is_empty() {
        let what = "the card has no address to connect to: a relay's identity is made with --at ADDRESS";
        return Err(Failure::given(format!("{text_or_path:.60}: {what}")));
    }
    Ok(card)
}

/// Refuses what is no address, and says what one looks like.
pub(crate) fn check_address(text: &str) -> Result<sealway::Address<'_>, Failure> {
    let form = "write tcp://host:port, udp://host:port, ws[s]://host:port/path or serial:device?baud=rate";
    sealway::Address::parse(text).map_err(|error| Failure::given(format!("{text:.60} is no address ({error}): {form}")))
}

/// Refuses what is no address, and what is one on this machine alone.
fn check_public(text: &str) -> Result<(), Failure> {
    match check_address(text)?.is_public() {
        true => Ok(()),
        false => Err(Failure::given(format!("{text:.60} is a line of this machine: it means nothing on a card"))),
    }
}

/// An identity by its digits, or by a card.
pub(crate) enum Named {
    Id(IdentityId),
    Card(Box<Card>),
}

impl Named {
    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        match text.parse() {
            Ok(id) => Ok(Self::Id(id)),
            Err(_) if text.len() == 64 && text.bytes().all(|digit| digit.is_ascii_hexdigit()) => {
                Err(Failure::given(format!("{text:.60}..: an identity is written in lower-case digits")))
            }
            Err(_) => card(text).map(|card| Self::Card(Box::new(card))),
        }
    }

    pub(crate) const fn id(&self) -> IdentityId {
        match self {
            Self::Id(id) => *id,
            Self::Card(card) => card.id(),
        }
    }
}

/// The policy that admits exactly these.
pub(crate) fn policy(named: &[Named]) -> Policy {
    Policy::ids(named.iter().map(Named::id))
}

pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn key_path(vault: &Vault) -> PathBuf {
    vault.key_file.clone().unwrap_or_else(|| beside(&vault.vault, ".key"))
}

fn passphrase(vault: &Vault) -> Result<Option<Zeroizing<String>>, Failure> {
    let text = match (&vault.passphrase_file, std::env::var("SEALWAY_PASSPHRASE")) {
        (Some(path), _) => Zeroizing::new(read_short(path, "passphrase")?),
        (None, Ok(text)) if vault.key_file.is_none() => Zeroizing::new(text),
        _ => return Ok(None),
    };
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        return Err(Failure::given("the passphrase is empty; give at least one character"));
    }
    Ok(Some(Zeroizing::new(line.to_string())))
}

fn unlock_new(vault: &Vault) -> Result<Unlock, Failure> {
    if let Some(passphrase) = passphrase(vault)? {
        return Ok(Unlock::Passphrase(passphrase));
    }
    let path = key_path(vault);
    if path.exists() {
        return read_key_file(&path);
    }
    let key: Secret<32> = crypto().random_secret().map_err(Failure::failed)?;
    let text = Zeroizing::new(format!("{}\n", data_encoding::HEXLOWER.encode(key.expose())));
    write_private(&path, text.as_bytes())?;
    Ok(Unlock::KeyFile(key))
}

fn read_key_file(path: &Path) -> Result<Unlock, Failure> {
    let text = Zeroizing::new(read_short(path, "key file")?);
    let octets = data_encoding::HEXLOWER.decode(text.trim().as_bytes()).map(Zeroizing::new);
    let key = octets.ok().and_then(|octets| <[u8; 32]>::try_from(octets.as_slice()).ok());
    let wrong = || Failure::given(format!("{} is no key file: it holds 64 hexadecimal digits", path.display()));
    key.map(|key| Unlock::KeyFile(Secret::new(key))).ok_or_else(wrong)
}

const SHORT: u64 = 64 * 1024;

fn read_short(path: &Path, what: &str) -> Result<String, Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        Failure::given(format!("the {what} {} cannot be read: {error}", path.display()))
    };
    let length = std::fs::metadata(path).map_err(|error| failed(&error))?.len();
    if length > SHORT {
        return Err(failed(&format_args!("it has {length} octets, the limit is {SHORT}")));
    }
    std::fs::read_to_string(path).map_err(|error| failed(&error))
}

pub(crate) fn write_private(path: &Path, octets: &[u8]) -> Result<(), Failure> {
    sealway::write_private(path, octets).map_err(|error| cannot_write(path, &error))
}

pub(crate) fn cannot_write(path: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(format!("{} cannot be written: {error}", path.display()))
}
