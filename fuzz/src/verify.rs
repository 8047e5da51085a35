//! Verifying: accepted is what one of the secrets signed, and nothing else, whatever the headers say.

use std::{sync::OnceLock, time::Duration};

use signalbox::{
    model::{clock::EpochMs, secret::Secret, webhook::ReceivedWebhook},
    providers::{VerifyError, verify},
    sim::{self, Signing},
};

use super::webhook::{headers_of, parse, provider};

/// When everything arrives: the time the fixtures' signed timestamps name.
const NOW: EpochMs = EpochMs(1_786_701_234_567);
const SLUGS: [&str; 4] = ["github", "vercel", "linear", "sentry"];

/// The first byte chooses provider, secrets and signer; then a webhook.
pub fn run(data: &[u8]) {
    static SECRETS: OnceLock<Vec<Secret>> = OnceLock::new();
    let all = SECRETS.get_or_init(|| {
        let long = "k".repeat(200);
        ["a secret of the tests", "another", &long].into_iter().filter_map(Secret::new).collect()
    });
    let Some((&choice, data)) = data.split_first() else { return };
    let provider = provider(SLUGS[usize::from(choice & 3)]);
    let signing: &Signing = &sim::find(provider.slug().as_str()).expect("simulated").signing;
    let secrets = &all[..usize::from(choice >> 2 & 3)];
    let (pairs, body) = parse(data);
    let received = |headers| ReceivedWebhook {
        provider: provider.slug(),
        headers,
        body: body.clone(),
        received_at: NOW,
        correlation_id: String::new(),
    };

    let headers = headers_of(&pairs);
    let given: Vec<&[u8]> = headers.all(signing.header).collect();
    let signer = match given[..] {
        [value] => secrets.iter().position(|secret| signing.signature(&body, secret.expose()).as_bytes() == value),
        _ => None,
    };
    match (verify(provider, received(headers.clone()), secrets, Duration::from_mins(1)), signer) {
        (Ok(verified), Some(signer)) => {
            assert_eq!(verified.secret_index(), signer, "another secret than the newest that signed");
            assert_eq!(verified.webhook().body, body);
        }
        (Ok(_), None) => panic!("accepted, and nobody signed it"),
        (Err((_, VerifyError::TimestampStale)), Some(_)) => {}
        (Err((_, error)), Some(_)) => panic!("signed, and refused: {error}"),
        (Err((_, VerifyError::TimestampStale)), None) => panic!("its time was read before its signature"),
        (Err((back, _)), None) => assert_eq!(back.body, body, "what is quarantined is what came"),
    }

    // The same, properly signed.
    let Some(signer) = secrets.get(usize::from(choice >> 4 & 3)) else { return };
    let mut genuine: Vec<(String, &[u8])> =
        pairs.iter().filter(|(name, _)| !name.eq_ignore_ascii_case(signing.header)).cloned().collect();
    let signature = signing.signature(&body, signer.expose());
    genuine.push((signing.header.to_owned(), signature.as_bytes()));
    match verify(provider, received(headers_of(&genuine)), secrets, Duration::from_mins(1)) {
        Ok(verified) => assert_eq!(verified.secret_index(), usize::from(choice >> 4 & 3)),
        Err((_, error)) => assert_eq!(error, VerifyError::TimestampStale, "signed, and refused"),
    }
}
