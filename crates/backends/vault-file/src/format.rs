//! The file: header, then everything else sealed under the key that passphrase or key file give.

use std::{fmt, path::Path};

use argon2::{Algorithm, Argon2, Params, Version};
use sealway_vault::{AeadKey, CryptoProvider, Secret, VaultError};
use zeroize::Zeroizing;

use crate::FileVaultError;

const MAGIC: &[u8; 14] = b"sealway vault\n";
const VERSION: u8 = 1;
const HEADER: usize = MAGIC.len() + 1 + 1 + 16 + 4 + 4 + 12;
const TAG: usize = 16;
/// The longest vault that is read.
pub(crate) const MAX_FILE: u64 = 8 * 1024 * 1024;

/// RFC 9106 section 4, the second recommended option: 64 MiB, 3 passes; one lane, as it runs in one thread.
const MEMORY_KIB: u32 = 64 * 1024;
const PASSES: u32 = 3;
/// A file that asks for more is no vault of ours: whoever alters it shall not have us fill the memory.
const MAX_MEMORY_KIB: u32 = 1024 * 1024;
const MAX_PASSES: u32 = 64;

/// What opens a vault.
#[derive(Clone)]
pub enum Unlock {
    /// A passphrase, through Argon2id.
    Passphrase(Zeroizing<String>),
    /// The 32 octets of a key file.
    KeyFile(Secret<32>),
}

impl Unlock {
    const fn code(&self) -> u8 {
        match self {
            Self::Passphrase(_) => 1,
            Self::KeyFile(_) => 2,
        }
    }

    fn key<P: CryptoProvider>(&self, header: &Header<'_>, provider: &P) -> Result<Secret<32>, VaultError> {
        let mut key = Secret::zero();
        match self {
            Self::Passphrase(passphrase) => {
                let params = Params::new(header.memory_kib, header.passes, 1, Some(32));
                let argon2 =
                    Argon2::new(Algorithm::Argon2id, Version::V0x13, params.map_err(|_| VaultError::Malformed)?);
                argon2
                    .hash_password_into(passphrase.as_bytes(), header.salt, key.expose_mut())
                    .map_err(|_| VaultError::Malformed)?;
            }
            Self::KeyFile(file) => {
                let mut salt = [0; 32];
                salt[..16].copy_from_slice(header.salt);
                let prk = provider.hkdf_extract(&salt, &[file.expose()]);
                let label: [&[u8]; 1] = [b"sealway/vault\0key file\0"];
                provider.hkdf_expand(&prk, &label, key.expose_mut()).map_err(|_| VaultError::Malformed)?;
            }
        }
        Ok(key)
    }
}

impl fmt::Debug for Unlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passphrase(_) => "Passphrase(..)",
            Self::KeyFile(_) => "KeyFile(..)",
        })
    }
}

struct Header<'a> {
    unlock: u8,
    salt: &'a [u8; 16],
    memory_kib: u32,
    passes: u32,
    nonce: &'a [u8; 12],
}

impl<'a> Header<'a> {
    fn decode(octets: &'a [u8]) -> Result<Self, &'static str> {
        let rest = octets.strip_prefix(MAGIC).ok_or("magic")?;
        let (version, rest) = rest.split_first().ok_or("version")?;
        if *version != VERSION {
            return Err("version");
        }
        let (unlock, rest) = rest.split_first().ok_or("unlock")?;
        let (salt, rest) = rest.split_first_chunk().ok_or("salt")?;
        let (memory, rest) = rest.split_first_chunk().ok_or("memory")?;
        let (passes, rest) = rest.split_first_chunk().ok_or("passes")?;
        let nonce = rest.first_chunk().ok_or("nonce")?;
        let (memory_kib, passes) = (u32::from_be_bytes(*memory), u32::from_be_bytes(*passes));
        if memory_kib > MAX_MEMORY_KIB {
            return Err("memory");
        }
        if passes > MAX_PASSES {
            return Err("passes");
        }
        Ok(Self { unlock: *unlock, salt, memory_kib, passes, nonce })
    }
}

pub(crate) fn seal<P: CryptoProvider>(
    plaintext: &[u8],
    unlock: &Unlock,
    provider: &P,
) -> Result<Vec<u8>, FileVaultError> {
    let salt: [u8; 16] = provider.random().map_err(VaultError::from)?;
    let nonce: [u8; 12] = provider.random().map_err(VaultError::from)?;
    let (memory, passes) = match unlock {
        Unlock::Passphrase(_) => (MEMORY_KIB, PASSES),
        Unlock::KeyFile(_) => (0, 0),
    };
    let mut octets = MAGIC.to_vec();
    octets.extend_from_slice(&[VERSION, unlock.code()]);
    octets.extend_from_slice(&salt);
    octets.extend_from_slice(&memory.to_be_bytes());
    octets.extend_from_slice(&passes.to_be_bytes());
    octets.extend_from_slice(&nonce);
    let header = Header { unlock: unlock.code(), salt: &salt, memory_kib: memory, passes, nonce: &nonce };
    let key = P::AeadKey::new(&unlock.key(&header, provider)?);
    octets.extend_from_slice(plaintext);
    let (associated, data) = octets.split_at_mut(HEADER);
    let tag = key.seal(&nonce, associated, data);
    octets.extend_from_slice(&tag);
    Ok(octets)
}

pub(crate) fn open<P: CryptoProvider>(
    path: &Path,
    octets: &[u8],
    unlock: &Unlock,
    provider: &P,
) -> Result<Zeroizing<Vec<u8>>, FileVaultError> {
    let malformed = |field| FileVaultError::Malformed { path: path.into(), field };
    let header = Header::decode(octets).map_err(malformed)?;
    if header.unlock != unlock.code() {
        let needed = match header.unlock {
            1 => "passphrase",
            2 => "key file",
            _ => return Err(malformed("unlock")),
        };
        return Err(FileVaultError::OtherUnlock { path: path.into(), needed });
    }
    let (associated, sealed) = octets.split_at_checked(HEADER).ok_or(malformed("header"))?;
    let (data, tag) = sealed.split_last_chunk::<TAG>().ok_or(malformed("tag"))?;
    let mut plaintext = Zeroizing::new(data.to_vec());
    let key = unlock.key(&header, provider).map_err(|_| malformed("memory"))?;
    let refused = |_| FileVaultError::Unlock { path: path.into() };
    P::AeadKey::new(&key).open(header.nonce, associated, &mut plaintext, tag).map_err(refused)?;
    Ok(plaintext)
}
