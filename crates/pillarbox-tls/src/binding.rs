//! `tls-server-end-point` (RFC 5929, 4.1): the hash of the server's certificate that SCRAM-SHA-256-PLUS binds a login
//! to, so that nobody between the two can pass it on.
//!
//! The hash is that of the certificate's own signature, and SHA-256 where that would be MD5 or SHA-1. Reads just
//! as much of the certificate as tells which; where there is no single hash (Ed25519, RSA-PSS) there is no binding.

use ring::digest::{self, Algorithm};

/// Object identifiers in DER of signature algorithms, with their hash.
const HASHES: [(&[u8], &Algorithm); 11] = [
    // md5, sha1, sha256, sha384, sha512 WithRSAEncryption: 1.2.840.113549.1.1.x
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x04], &digest::SHA256),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x05], &digest::SHA256),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b], &digest::SHA256),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0c], &digest::SHA384),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0d], &digest::SHA512),
    // ecdsa-with-SHA1, -SHA256, -SHA384, -SHA512: 1.2.840.10045.4.x
    (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01], &digest::SHA256),
    (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02], &digest::SHA256),
    (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03], &digest::SHA384),
    (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x04], &digest::SHA512),
    // dsa-with-sha1: 1.2.840.10040.4.3, dsa-with-sha256: 2.16.840.1.101.3.4.3.2
    (&[0x2a, 0x86, 0x48, 0xce, 0x38, 0x04, 0x03], &digest::SHA256),
    (&[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x03, 0x02], &digest::SHA256),
];

const SEQUENCE: u8 = 0x30;
const OBJECT_IDENTIFIER: u8 = 0x06;

/// The binding of a certificate in DER; none where it has no hash of its own.
pub fn server_end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let signature = signature_algorithm(certificate)?;
    let (_, hash) = HASHES.iter().find(|(identifier, _)| *identifier == signature)?;
    Some(digest::digest(hash, certificate).as_ref().to_vec())
}

/// `Certificate ::= SEQUENCE { tbs SEQUENCE, SEQUENCE { algorithm OBJECT IDENTIFIER, .. }, signature }`
fn signature_algorithm(certificate: &[u8]) -> Option<&[u8]> {
    let (certificate, _) = element(certificate, SEQUENCE)?;
    let (_, rest) = element(certificate, SEQUENCE)?;
    let (algorithm, _) = element(rest, SEQUENCE)?;
    element(algorithm, OBJECT_IDENTIFIER).map(|(identifier, _)| identifier)
}

/// The content of the DER element at the front, which must be of this kind, and what follows it.
fn element(der: &[u8], kind: u8) -> Option<(&[u8], &[u8])> {
    let (head, rest) = der.split_first_chunk::<2>()?;
    let short = usize::from(head[1]);
    let (length, rest) = if short < 0x80 {
        (short, rest)
    } else {
        // Four bytes of length are 4 GiB, and no certificate is that long.
        let count = Some(short & 0x7f).filter(|count| (1..=4).contains(count))?;
        let (digits, rest) = rest.split_at_checked(count)?;
        (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
    };
    (head[0] == kind).then(|| rest.split_at_checked(length)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The binding of a fresh self-signed certificate, and what a hash over it is.
    fn bound(
        algorithm: &'static rcgen::SignatureAlgorithm,
        hash: &'static Algorithm,
    ) -> (Option<Vec<u8>>, Vec<u8>) {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let certificate =
            rcgen::CertificateParams::new(vec!["db".to_owned()]).unwrap().self_signed(&key).unwrap();
        (server_end_point(certificate.der()), digest::digest(hash, certificate.der()).as_ref().to_vec())
    }

    #[test]
    fn the_hash_is_that_of_the_certificates_signature() {
        for (algorithm, hash) in [
            (&rcgen::PKCS_ECDSA_P256_SHA256, &digest::SHA256),
            (&rcgen::PKCS_ECDSA_P384_SHA384, &digest::SHA384),
        ] {
            let (binding, expected) = bound(algorithm, hash);
            assert_eq!(binding, Some(expected));
        }
        assert_eq!(bound(&rcgen::PKCS_ED25519, &digest::SHA256).0, None);
    }

    #[test]
    fn what_is_no_certificate_has_no_binding() {
        let key = rcgen::KeyPair::generate().unwrap();
        let whole = rcgen::CertificateParams::default().self_signed(&key).unwrap();
        for length in 0..whole.der().len() {
            assert_eq!(server_end_point(&whole.der()[..length]), None, "{length} bytes");
        }
        assert_eq!(server_end_point(&[0x30, 0x85, 1, 1, 1, 1, 1]), None);
    }
}
