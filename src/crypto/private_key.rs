//! The shape of a provider's private key as operators paste it: PEM, PEM with `\n` spelled out, or base64 of either.
//!
//! **Invariants**: looks at the envelope only (label, base64, the DER's outer length); whether the key signs is for
//! whoever signs with it (`jwt.rs`). No error repeats any of the key.

use base64::{Engine, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use crate::model::secret::Secret;

/// What stands inside the PEM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrivateKeyForm {
    /// `RSA PRIVATE KEY`, what GitHub hands out.
    Pkcs1,
    /// `PRIVATE KEY`.
    Pkcs8,
}

/// Why a private key cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PrivateKeyError {
    /// There is no `-----BEGIN … PRIVATE KEY-----` in it.
    #[error("it is not PEM: no `-----BEGIN … PRIVATE KEY-----` line was found")]
    NotPem,
    /// It is protected by a passphrase.
    #[error("it is encrypted; store it without passphrase")]
    Encrypted,
    /// It is something else than an RSA or PKCS#8 private key.
    #[error("it is PEM, but neither `RSA PRIVATE KEY` nor `PRIVATE KEY`")]
    OtherLabel,
    /// Its last line is missing, or what is between is not base64.
    #[error("its PEM is damaged: it was cut off, or its base64 does not decode")]
    Damaged,
    /// The bytes inside are not the length they say they are.
    #[error("the key inside is damaged: its DER is not as long as it says")]
    DamagedDer,
    /// It is not an RSA key, too short, or inconsistent.
    #[error("the key inside cannot sign: it is not a sound RSA key of 2048 to 8192 bits")]
    CannotSign,
}

/// A private key taken out of its envelope.
pub struct PrivateKey {
    /// What `der` is.
    pub form: PrivateKeyForm,
    /// The DER bytes, wiped when dropped.
    pub der: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PrivateKey").field("form", &self.form).finish_non_exhaustive()
    }
}

/// Takes a private key out of whatever envelope it was pasted in.
///
/// # Errors
/// [`PrivateKeyError`] says what is wrong with the envelope.
pub fn unwrap_private_key(given: &Secret) -> Result<PrivateKey, PrivateKeyError> {
    let text = Zeroizing::new(given.expose_str().ok_or(PrivateKeyError::NotPem)?.replace("\\n", "\n"));
    if text.contains("-----BEGIN") {
        return from_pem(&text);
    }
    let packed: Zeroizing<String> = Zeroizing::new(text.split_ascii_whitespace().collect());
    let decoded = Zeroizing::new(STANDARD.decode(packed.as_bytes()).map_err(|_| PrivateKeyError::NotPem)?);
    let inner = std::str::from_utf8(&decoded).map_err(|_| PrivateKeyError::NotPem)?;
    from_pem(&Zeroizing::new(inner.replace("\\n", "\n")))
}

fn from_pem(text: &str) -> Result<PrivateKey, PrivateKeyError> {
    let (_, rest) = text.split_once("-----BEGIN ").ok_or(PrivateKeyError::NotPem)?;
    let (label, rest) = rest.split_once("-----").ok_or(PrivateKeyError::NotPem)?;
    let form = match label {
        "RSA PRIVATE KEY" => PrivateKeyForm::Pkcs1,
        "PRIVATE KEY" => PrivateKeyForm::Pkcs8,
        "ENCRYPTED PRIVATE KEY" => return Err(PrivateKeyError::Encrypted),
        _ => return Err(PrivateKeyError::OtherLabel),
    };
    let (body, _) = rest.split_once(&format!("-----END {label}-----")).ok_or(PrivateKeyError::Damaged)?;
    if body.contains("ENCRYPTED") {
        return Err(PrivateKeyError::Encrypted);
    }
    let packed: Zeroizing<String> = Zeroizing::new(body.split_ascii_whitespace().collect());
    let der = Zeroizing::new(STANDARD.decode(packed.as_bytes()).map_err(|_| PrivateKeyError::Damaged)?);
    if outer_length(&der) == Some(der.len()) { Ok(PrivateKey { form, der }) } else { Err(PrivateKeyError::DamagedDer) }
}

/// The length of a DER SEQUENCE, header included; `None` if it is none.
fn outer_length(der: &[u8]) -> Option<usize> {
    match *der {
        [0x30, short, ..] if short < 0x80 => Some(2 + usize::from(short)),
        [0x30, 0x81, one, ..] => Some(3 + usize::from(one)),
        [0x30, 0x82, high, low, ..] => Some(4 + usize::from(u16::from_be_bytes([high, low]))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem(label: &str, der: &[u8]) -> String {
        let body = STANDARD.encode(der);
        let lines: Vec<&str> = body.as_bytes().chunks(64).map(|c| std::str::from_utf8(c).expect("ASCII")).collect();
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
    }

    fn der() -> Vec<u8> {
        let mut der = vec![0x30, 0x82, 0x01, 0x00];
        der.resize(260, 5);
        der
    }

    fn read(text: &str) -> Result<PrivateKeyForm, PrivateKeyError> {
        let key = unwrap_private_key(&Secret::new(text).expect("not empty"))?;
        assert_eq!(key.der.as_slice(), der());
        Ok(key.form)
    }

    #[test]
    fn every_usual_envelope_is_understood() {
        let plain = pem("RSA PRIVATE KEY", &der());
        assert_eq!(read(&plain), Ok(PrivateKeyForm::Pkcs1));
        assert_eq!(read(&pem("PRIVATE KEY", &der())), Ok(PrivateKeyForm::Pkcs8));
        assert_eq!(read(&plain.replace('\n', "\\n")), Ok(PrivateKeyForm::Pkcs1));
        assert_eq!(read(&plain.replace('\n', "\r\n")), Ok(PrivateKeyForm::Pkcs1));
        assert_eq!(read(&STANDARD.encode(&plain)), Ok(PrivateKeyForm::Pkcs1));
    }

    #[test]
    fn a_damaged_key_is_told_from_a_wrong_one() {
        let plain = pem("RSA PRIVATE KEY", &der());
        assert_eq!(read("not a key"), Err(PrivateKeyError::NotPem));
        assert_eq!(read(&plain[..plain.len() / 2]), Err(PrivateKeyError::Damaged));
        assert_eq!(read(&plain.replacen("MIIB", "MI!B", 1)), Err(PrivateKeyError::Damaged));
        assert_eq!(read(&pem("RSA PRIVATE KEY", &der()[..200])), Err(PrivateKeyError::DamagedDer));
        assert_eq!(read(&pem("EC PRIVATE KEY", &der())), Err(PrivateKeyError::OtherLabel));
        assert_eq!(read(&pem("ENCRYPTED PRIVATE KEY", &der())), Err(PrivateKeyError::Encrypted));
    }
}
