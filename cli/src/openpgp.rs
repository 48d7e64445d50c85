//! OpenPGP signatures, for the worker that verifies images. This is the only place that knows of the library for them: the
//! plugin must not have it in it.
#![forbid(unsafe_code)]

use pyxis_runtime::image::file::signature::{Message, Signer};
use pyxis_runtime::{Error, Result};
use sequoia_openpgp::cert::CertParser;
use sequoia_openpgp::cert::amalgamation::key::ValidErasedKeyAmalgamation;
use sequoia_openpgp::cert::amalgamation::{ValidAmalgamation, ValidateAmalgamation};
use sequoia_openpgp::packet::key::PublicParts;
use sequoia_openpgp::parse::Parse;
use sequoia_openpgp::parse::stream::{
    GoodChecksum, MessageLayer, MessageStructure, VerificationHelper, VerifierBuilder,
};
use sequoia_openpgp::policy::StandardPolicy;
use sequoia_openpgp::types::{HashAlgorithm, RevocationStatus};
use sequoia_openpgp::{Cert, KeyHandle};
use std::io::Read;

/// Checks clear-signed messages. What is weak by today's measure is bad: the library's policy (keys, SHA-1), and hash
/// functions shorter than SHA-256. The key must be good when it signed and now.
pub fn check(keyrings: &[Vec<u8>], messages: &[Vec<u8>]) -> Result<Vec<Result<Message>>> {
    let mut certs = Vec::new();
    for (number, keyring) in keyrings.iter().enumerate() {
        let bad = |error| {
            Error::Host(format!(
                "key ring {} of images.keyrings cannot be read: {error}",
                number + 1
            ))
        };
        for cert in CertParser::from_bytes(keyring).map_err(bad)? {
            certs.push(cert.map_err(bad)?);
        }
    }
    let mut policy = StandardPolicy::new();
    policy.reject_hash(HashAlgorithm::SHA224);
    Ok(messages
        .iter()
        .map(|message| check_one(&certs, &policy, message))
        .collect())
}

fn check_one(certs: &[Cert], policy: &StandardPolicy<'_>, message: &[u8]) -> Result<Message> {
    if message.first() == Some(&b'{') {
        return Err(Error::Image(
            "it is a DSSE signature, and only OpenPGP ones are checked: sign the image with an OpenPGP key too"
                .to_owned(),
        ));
    }
    let bad = |error: sequoia_openpgp::anyhow::Error| Error::Image(printable(&error.to_string()));
    let helper = Helper {
        certs,
        policy,
        signer: None,
    };
    let mut verifier = VerifierBuilder::from_bytes(message)
        .and_then(|builder| builder.with_policy(policy, None, helper))
        .map_err(bad)?;
    let mut text = Vec::new();
    verifier.read_to_end(&mut text).map_err(|error| bad(error.into()))?;
    match verifier.into_helper().signer {
        Some(signer) => Ok(Message { text, signer }),
        None => Err(Error::Image("it has no signature in it".to_owned())),
    }
}

/// The library's words are about the image's bytes.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(300)
        .collect()
}

/// The library asks whether a key was good when it says that it signed. A thief can say any time: a key that has expired
/// or was revoked since does not count any more.
fn good_now(
    policy: &StandardPolicy<'_>,
    key: &ValidErasedKeyAmalgamation<'_, PublicParts>,
) -> sequoia_openpgp::Result<()> {
    let key = key.amalgamation().with_policy(policy, None)?;
    key.valid_cert().alive()?;
    key.alive()?;
    let revoked = |status| matches!(status, RevocationStatus::Revoked(_));
    if revoked(key.valid_cert().revocation_status()) || revoked(key.revocation_status()) {
        return Err(sequoia_openpgp::anyhow::anyhow!("it is revoked"));
    }
    Ok(())
}

struct Helper<'a> {
    certs: &'a [Cert],
    policy: &'a StandardPolicy<'a>,
    signer: Option<Signer>,
}

impl VerificationHelper for Helper<'_> {
    fn get_certs(&mut self, _: &[KeyHandle]) -> sequoia_openpgp::Result<Vec<Cert>> {
        Ok(self.certs.to_vec())
    }

    fn check(&mut self, structure: MessageStructure<'_>) -> sequoia_openpgp::Result<()> {
        for layer in structure {
            let MessageLayer::SignatureGroup { results } = layer else {
                return Err(sequoia_openpgp::anyhow::anyhow!("it is not a signed text"));
            };
            for result in results {
                let GoodChecksum { ka, .. } = result.map_err(|error| sequoia_openpgp::anyhow::anyhow!("{error}"))?;
                good_now(self.policy, &ka).map_err(|error| {
                    sequoia_openpgp::anyhow::anyhow!("the key {} is no good: {error:#}", ka.cert().fingerprint())
                })?;
                let name = ka.cert().userids().next();
                self.signer = Some(Signer {
                    fingerprint: ka.cert().fingerprint().to_hex(),
                    name: name.map_or_else(String::new, |id| {
                        printable(&String::from_utf8_lossy(id.userid().value()))
                    }),
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sequoia_openpgp::cert::{CertBuilder, CipherSuite};
    use sequoia_openpgp::serialize::SerializeInto;
    use sequoia_openpgp::serialize::stream;
    use sequoia_openpgp::types::ReasonForRevocation;
    use std::io::Write;
    use std::time::{Duration, SystemTime};

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn new_key(validity: Option<Duration>) -> Cert {
        CertBuilder::general_purpose(["Signer <signer@example.org>"])
            .set_cipher_suite(CipherSuite::Cv25519)
            .set_creation_time(SystemTime::now() - 10 * DAY)
            .set_validity_period(validity)
            .generate()
            .unwrap()
            .0
    }

    /// A text clear-signed eight days ago.
    fn signed(key: &Cert, hash: HashAlgorithm) -> Vec<u8> {
        let policy = StandardPolicy::new();
        let time = SystemTime::now() - 8 * DAY;
        let pair = key
            .keys()
            .secret()
            .with_policy(&policy, time)
            .for_signing()
            .next()
            .unwrap();
        let pair = pair.key().clone().into_keypair().unwrap();
        let mut bytes = Vec::new();
        let message = stream::Message::new(&mut bytes);
        let mut signer = stream::Signer::new(message, pair)
            .unwrap()
            .cleartext()
            .hash_algo(hash)
            .unwrap()
            .creation_time(time)
            .build()
            .unwrap();
        signer.write_all(b"{\"version\":1}\n").unwrap();
        signer.finalize().unwrap();
        bytes
    }

    fn revoked(key: &Cert, reason: ReasonForRevocation) -> Cert {
        let mut pair = key
            .primary_key()
            .key()
            .clone()
            .parts_into_secret()
            .unwrap()
            .into_keypair()
            .unwrap();
        let revocation = key.revoke(&mut pair, reason, b"").unwrap();
        key.clone().insert_packets(revocation).unwrap().0
    }

    fn ring(certs: &[&Cert]) -> Vec<u8> {
        certs.iter().flat_map(|cert| cert.to_vec().unwrap()).collect()
    }

    fn outcome(keyring: Vec<u8>, message: Vec<u8>) -> Result<Message> {
        check(&[keyring], &[message]).unwrap().remove(0)
    }

    fn refusal(keyring: Vec<u8>, message: Vec<u8>) -> String {
        outcome(keyring, message).unwrap_err().to_string()
    }

    #[test]
    fn a_text_signed_by_a_key_of_the_ring_is_good() {
        let (key, other) = (new_key(None), new_key(None));
        let message = outcome(ring(&[&other, &key]), signed(&key, HashAlgorithm::SHA256)).unwrap();
        assert_eq!(message.text.trim_ascii(), b"{\"version\":1}");
        assert_eq!(message.signer.fingerprint, key.fingerprint().to_hex());
        assert_eq!(message.signer.name, "Signer <signer@example.org>");
        let why = refusal(ring(&[&other]), signed(&key, HashAlgorithm::SHA256));
        assert!(why.contains("Missing key"), "{why}");
    }

    #[test]
    fn keys_that_have_expired_or_were_revoked_since_do_not_count() {
        let key = new_key(Some(5 * DAY));
        let why = refusal(ring(&[&key]), signed(&key, HashAlgorithm::SHA512));
        assert!(why.contains("is no good") && why.contains("xpired"), "{why}");
        let key = new_key(None);
        let message = signed(&key, HashAlgorithm::SHA512);
        for reason in [ReasonForRevocation::KeyCompromised, ReasonForRevocation::KeySuperseded] {
            let why = refusal(ring(&[&revoked(&key, reason)]), message.clone());
            assert!(why.contains("revoked"), "{why}");
        }
        outcome(ring(&[&key]), message).unwrap();
    }

    #[test]
    fn weak_hash_functions_are_refused() {
        let key = new_key(None);
        for hash in [HashAlgorithm::SHA1, HashAlgorithm::SHA224] {
            let why = refusal(ring(&[&key]), signed(&key, hash));
            assert!(why.contains("Policy rejected"), "{hash}: {why}");
        }
    }

    #[test]
    fn what_is_no_signed_text_or_was_changed_is_refused() {
        let key = new_key(None);
        let message = String::from_utf8(signed(&key, HashAlgorithm::SHA256)).unwrap();
        let changed = message.replace("version", "verslon");
        assert_ne!(changed, message);
        for text in [changed.as_str(), "", "garbage", "-----BEGIN PGP SIGNED MESSAGE-----\n"] {
            refusal(ring(&[&key]), text.into());
        }
        let why = refusal(ring(&[&key]), b"{\"payload\":\"\"}".to_vec());
        assert!(why.contains("DSSE"), "{why}");
    }

    #[test]
    fn a_ring_that_cannot_be_read_is_the_administrators() {
        let error = check(&[b"no keys".to_vec()], &[]).unwrap_err();
        assert!(
            matches!(&error, Error::Host(text) if text.contains("key ring 1")),
            "{error}"
        );
    }
}
