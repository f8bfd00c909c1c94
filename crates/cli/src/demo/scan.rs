//! The scanner: which of many secrets are to be found in a file, as they are, in hexadecimal, or in base64.

use std::{collections::BTreeSet, path::PathBuf};

use aho_corasick::AhoCorasick;
use data_encoding::{BASE64, BASE64URL, HEXLOWER, HEXUPPER};

use crate::failure::Failure;

/// How many of `secrets` occur in at least one of `files`. Files that do not exist hold nothing.
pub(crate) fn count(secrets: &[Vec<u8>], files: &[PathBuf]) -> Result<usize, Failure> {
    let mut patterns = Vec::new();
    let mut owners = Vec::new();
    for (index, secret) in secrets.iter().enumerate() {
        for form in forms(secret) {
            patterns.push(form);
            owners.push(index);
        }
    }
    let search = AhoCorasick::new(&patterns).map_err(Failure::failed)?;
    let mut found = BTreeSet::new();
    for file in files {
        let octets = match std::fs::read(file) {
            Ok(octets) => octets,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Failure::failed(format!("{}: {error}", file.display()))),
        };
        found.extend(search.find_overlapping_iter(&octets).map(|hit| owners[hit.pattern().as_usize()]));
    }
    Ok(found.len())
}

/// The forms in which a secret could have been written: base64 has three, by where in a longer text it begins.
fn forms(secret: &[u8]) -> Vec<Vec<u8>> {
    let mut forms = vec![secret.to_vec(), HEXLOWER.encode(secret).into_bytes(), HEXUPPER.encode(secret).into_bytes()];
    for before in 0..3 {
        let padded = [&[0; 2][..before.min(2)], secret].concat();
        let padded = if before == 0 { secret.to_vec() } else { padded };
        for alphabet in [&BASE64, &BASE64URL] {
            let text = alphabet.encode(&padded);
            // Digits that also hold bits of what is around the secret say nothing.
            let from = (before * 8).div_ceil(6);
            let to = padded.len() * 8 / 6;
            forms.push(text.as_bytes()[from..to].to_vec());
        }
    }
    forms
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_found_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let secret = b"a secret of twenty-odd octets".to_vec();
        let other = b"another one, never written".to_vec();
        let secrets = [secret.clone(), other];
        let mut texts =
            vec![secret.clone(), HEXLOWER.encode(&secret).into_bytes(), HEXUPPER.encode(&secret).into_bytes()];
        for before in 0..6 {
            let around = [&b"before"[..before], &secret, b"after"].concat();
            texts.push(BASE64.encode(&around).into_bytes());
            texts.push(BASE64URL.encode(&around).into_bytes());
            texts.push(around);
        }
        for (index, text) in texts.iter().enumerate() {
            let file = folder.path().join(index.to_string());
            std::fs::write(&file, text).unwrap();
            assert_eq!(count(&secrets, &[file]).unwrap(), 1, "form {index}");
        }
        let clean = folder.path().join("clean");
        std::fs::write(&clean, vec![0x61; 4096]).unwrap();
        assert_eq!(count(&secrets, &[clean, folder.path().join("missing")]).unwrap(), 0);
    }
}
