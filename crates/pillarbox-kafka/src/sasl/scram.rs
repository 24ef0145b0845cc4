//! SCRAM (RFC 5802, 7677) without channel binding, which Kafka does not have. Pure.
//!
//! ```text
//! n,,n=user,r=ours  ->  r=ours+theirs,s=salt,i=iterations  ->  c=biws,r=..,p=proof  ->  v=signature
//! ```
//! The broker proves that it knows the password as well: who cannot is refused.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::rand::SecureRandom;
use ring::{digest, hmac, pbkdf2, rand};

use super::{Answered, Login};

/// Most iterations that are computed for a broker: Kafka grants 16,384 itself, and a hostile one could hold us up.
const ITERATIONS_MAX: u32 = 100_000;
/// Fewest that are worth a proof (RFC 7677, 4).
const ITERATIONS_MIN: u32 = 4096;

/// The hash of the mechanism.
#[derive(Clone, Copy)]
pub(super) enum Hash {
    Sha256,
    Sha512,
}

impl Hash {
    fn hmac(self) -> hmac::Algorithm {
        match self {
            Self::Sha256 => hmac::HMAC_SHA256,
            Self::Sha512 => hmac::HMAC_SHA512,
        }
    }

    fn digest(self) -> &'static digest::Algorithm {
        match self {
            Self::Sha256 => &digest::SHA256,
            Self::Sha512 => &digest::SHA512,
        }
    }

    fn pbkdf2(self) -> pbkdf2::Algorithm {
        match self {
            Self::Sha256 => pbkdf2::PBKDF2_HMAC_SHA256,
            Self::Sha512 => pbkdf2::PBKDF2_HMAC_SHA512,
        }
    }
}

/// One exchange.
pub(super) struct Scram {
    hash: Hash,
    password: String,
    /// `n=user,r=nonce`.
    bare: String,
    nonce: String,
    /// What the broker must send last, once the proof was sent.
    expected: Option<(hmac::Key, String)>,
}

impl Scram {
    pub(super) fn new(hash: Hash, login: &Login) -> Self {
        let mut bytes = [0; 24];
        // The operating system's source fails only where no TLS could work either.
        let filled = rand::SystemRandom::new().fill(&mut bytes);
        assert!(filled.is_ok(), "the operating system gives no randomness");
        Self::with_nonce(hash, login, BASE64.encode(bytes))
    }

    fn with_nonce(hash: Hash, login: &Login, nonce: String) -> Self {
        let name = login.username.replace('=', "=3D").replace(',', "=2C");
        let bare = format!("n={name},r={nonce}");
        Self { hash, password: login.password.clone(), bare, nonce, expected: None }
    }

    pub(super) fn first(&self) -> Vec<u8> {
        format!("n,,{}", self.bare).into_bytes()
    }

    pub(super) fn answer(&mut self, bytes: &[u8]) -> Answered {
        let text = std::str::from_utf8(bytes).unwrap_or_default();
        match &self.expected {
            None => self.prove(text).map_or(Answered::Unproven, |proof| Answered::Next(proof.into_bytes())),
            Some((key, message)) => {
                let signature = text.strip_prefix("v=").and_then(|text| BASE64.decode(text).ok());
                let proven = signature.is_some_and(|tag| hmac::verify(key, message.as_bytes(), &tag).is_ok());
                if proven { Answered::Done } else { Answered::Unproven }
            }
        }
    }

    /// The final message to a challenge; none where the challenge is not one.
    fn prove(&mut self, challenge: &str) -> Option<String> {
        let mut fields = challenge.split(',');
        let nonce = fields.next()?.strip_prefix("r=")?;
        let salt = BASE64.decode(fields.next()?.strip_prefix("s=")?).ok()?;
        let iterations: u32 = fields.next()?.strip_prefix("i=")?.parse().ok()?;
        let fresh = nonce.len() > self.nonce.len() && nonce.starts_with(&self.nonce);
        if !fresh || !(ITERATIONS_MIN..=ITERATIONS_MAX).contains(&iterations) {
            return None;
        }
        let mut salted = vec![0; self.hash.digest().output_len()];
        let iterations = std::num::NonZeroU32::new(iterations)?;
        pbkdf2::derive(self.hash.pbkdf2(), iterations, &salt, self.password.as_bytes(), &mut salted);
        let salted = hmac::Key::new(self.hash.hmac(), &salted);
        let client_key = hmac::sign(&salted, b"Client Key");
        let stored = digest::digest(self.hash.digest(), client_key.as_ref());
        let without_proof = format!("c=biws,r={nonce}");
        let message = format!("{},{challenge},{without_proof}", self.bare);
        let signature = hmac::sign(&hmac::Key::new(self.hash.hmac(), stored.as_ref()), message.as_bytes());
        let proof: Vec<u8> =
            client_key.as_ref().iter().zip(signature.as_ref()).map(|(key, mask)| key ^ mask).collect();
        let server_key = hmac::sign(&salted, b"Server Key");
        self.expected = Some((hmac::Key::new(self.hash.hmac(), server_key.as_ref()), message));
        Some(format!("{without_proof},p={}", BASE64.encode(proof)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login() -> Login {
        Login { username: "user".into(), password: "pencil".into() }
    }

    /// The example of RFC 7677, 3.
    #[test]
    fn the_rfcs_own_example() {
        let mut scram = Scram::with_nonce(Hash::Sha256, &login(), "rOprNGfwEbeRWgbNEkqO".into());
        assert_eq!(scram.first(), b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let challenge =
            "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let Answered::Next(proof) = scram.answer(challenge.as_bytes()) else { panic!("no proof") };
        assert_eq!(
            String::from_utf8(proof).unwrap(),
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        let wrong = scram.answer(b"v=7rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
        assert!(matches!(wrong, Answered::Unproven), "one digit is another");
        let right = scram.answer(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
        assert!(matches!(right, Answered::Done));
    }

    #[test]
    fn challenges_that_are_none() {
        for challenge in [
            "",
            "r=other,s=AAAA,i=4096",
            "r=nonce,s=AAAA,i=4096",
            "r=nonce1,s=?,i=4096",
            "r=nonce1,s=AAAA,i=4095",
            "r=nonce1,s=AAAA,i=100001",
            "r=nonce1,s=AAAA",
            "e=invalid-encoding",
        ] {
            let mut scram = Scram::with_nonce(Hash::Sha512, &login(), "nonce".into());
            assert!(matches!(scram.answer(challenge.as_bytes()), Answered::Unproven), "{challenge}");
        }
        let mut scram = Scram::with_nonce(Hash::Sha512, &login(), "nonce".into());
        assert!(matches!(scram.answer(b"r=nonce1,s=AAAA,i=4096"), Answered::Next(_)));
        assert!(matches!(scram.answer(b"e=invalid-proof"), Answered::Unproven));
    }

    #[test]
    fn names_are_escaped() {
        let login = Login { username: "a=b,c".into(), password: String::new() };
        let scram = Scram::with_nonce(Hash::Sha512, &login, "n".into());
        assert_eq!(scram.first(), b"n,,n=a=3Db=2Cc,r=n");
    }
}
