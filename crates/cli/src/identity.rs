//! `identity new`, `card show`, and how vaults and cards are named on the command line.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use sealway::{Card, CryptoProvider, Identity, IdentityId, Policy, Secret, Unlock, UnverifiedCard, crypto};
use zeroize::Zeroizing;

use crate::{
    arguments::{New, Show, Vault},
    failure::Failure,
};

pub(crate) fn new(options: &New) -> Result<(), Failure> {
    options.addresses.iter().try_for_each(|address| check_address(address))?;
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
    let text = format!("sealway recovery key\n{}\n", data_encoding::HEXLOWER.encode(recovery.expose().expose()));
    write_private(&recovery_path, Zeroizing::new(text).as_bytes())?;
    let uri = format!("{}\n", identity.card().to_uri());
    std::fs::write(&card_path, uri).map_err(|error| cannot_write(&card_path, &error))?;
    println!("identity  {}", identity.id());
    println!("card      {}", card_path.display());
    println!("recovery  {}   (move it away from this machine)", recovery_path.display());
    Ok(())
}

pub(crate) fn show_card(options: &Show) -> Result<(), Failure> {
    println!("{}", open(&options.vault)?.card().to_uri());
    Ok(())
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
pub(crate) fn check_address(text: &str) -> Result<(), Failure> {
    let wrong = |error| Failure::given(format!("{text:.60} is no address ({error}): write tcp://host:port"));
    sealway::Address::parse(text).map(drop).map_err(wrong)
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

fn write_private(path: &Path, octets: &[u8]) -> Result<(), Failure> {
    sealway::write_private(path, octets).map_err(|error| cannot_write(path, &error))
}

fn cannot_write(path: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(format!("{} cannot be written: {error}", path.display()))
}
