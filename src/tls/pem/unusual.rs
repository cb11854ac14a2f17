//! What a file is that holds no certificate or no private key we can read, and what to do about it.
//!
//! Looks at BEGIN lines and first bytes alone, so that no message can hold a part of a key.

use std::fmt;

/// A kind of file that people configure by mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unusual {
    /// A private key under a passphrase (PKCS#8, or OpenSSL's older form).
    EncryptedKey,
    /// A key of OpenSSH's own format.
    OpensshKey,
    /// A private key where something else is wanted.
    PrivateKey,
    /// A certificate where something else is wanted.
    Certificate,
    /// The public half of a key.
    PublicKey,
    /// Parameters of an elliptic curve, without the key that usually follows them.
    CurveParameters,
    /// A request for a certificate.
    Request,
    /// A certificate in OpenSSL's own format, with trust settings.
    TrustedCertificate,
    /// A PKCS#7 bundle.
    Pkcs7,
    /// DER, a Java or a PKCS#12 key store: binary.
    Binary,
    /// UTF-16 text, as some editors write.
    Utf16,
    /// Nothing at all.
    Empty,
}

impl Unusual {
    /// Looks at what a file holds; `None` where nothing about it explains why it cannot be used.
    pub(super) fn of(content: &[u8]) -> Option<Self> {
        match content {
            [] => return Some(Self::Empty),
            [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => return Some(Self::Utf16),
            // A DER sequence, a Java key store.
            [0x30, 0x80..=0x84, ..] | [0xfe, 0xed, ..] => return Some(Self::Binary),
            _ => {}
        }
        let lines = || content.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
        if lines().any(|line| line.starts_with(b"Proc-Type:") && line.ends_with(b"ENCRYPTED")) {
            return Some(Self::EncryptedKey);
        }
        let labels = lines().filter_map(|line| line.strip_prefix(b"-----BEGIN ")?.strip_suffix(b"-----"));
        let of_label = |label: &[u8]| match label {
            b"ENCRYPTED PRIVATE KEY" => Some(Self::EncryptedKey),
            b"OPENSSH PRIVATE KEY" => Some(Self::OpensshKey),
            b"PRIVATE KEY" | b"RSA PRIVATE KEY" | b"EC PRIVATE KEY" => Some(Self::PrivateKey),
            b"CERTIFICATE" => Some(Self::Certificate),
            b"PUBLIC KEY" | b"RSA PUBLIC KEY" => Some(Self::PublicKey),
            b"EC PARAMETERS" => Some(Self::CurveParameters),
            b"CERTIFICATE REQUEST" | b"NEW CERTIFICATE REQUEST" => Some(Self::Request),
            b"TRUSTED CERTIFICATE" => Some(Self::TrustedCertificate),
            b"PKCS7" | b"CMS" => Some(Self::Pkcs7),
            _ => None,
        };
        labels.filter_map(of_label).next()
    }
}

/// What it is and the way out: `an encrypted private key; ...`.
impl fmt::Display for Unusual {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EncryptedKey => {
                "an encrypted private key: edgehold has no passphrase; decrypt it with `openssl pkey -in FILE -out FILE` and keep it at mode 0600"
            }
            Self::OpensshKey => {
                "a key in OpenSSH's format: convert it with `ssh-keygen -p -m PKCS8 -f FILE`"
            }
            Self::PrivateKey => "a private key: are certFile and keyFile swapped, or is the certificate not written yet?",
            Self::Certificate => "a certificate: are certFile and keyFile swapped, or is the key not written yet?",
            Self::PublicKey => "a public key: the private key is needed",
            Self::CurveParameters => "the parameters of a curve: the key is missing",
            Self::Request => "a certificate request: what the authority has signed is needed",
            Self::TrustedCertificate => {
                "a certificate in OpenSSL's own format: convert it with `openssl x509 -in FILE -out FILE`"
            }
            Self::Pkcs7 => "a PKCS#7 bundle: convert it with `openssl pkcs7 -print_certs -in FILE -out FILE`",
            Self::Binary => {
                "binary (DER, PKCS#12 or a key store): convert it to PEM with `openssl x509`, `openssl pkey` or `openssl pkcs12`"
            }
            Self::Utf16 => "UTF-16 text: save it as ASCII or UTF-8",
            Self::Empty => "an empty file",
        })
    }
}
