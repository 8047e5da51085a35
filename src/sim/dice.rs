//! Reproducible chance: `SplitMix64` (Steele, Lea and Flood 2014), whose sequence no library upgrade changes.
//!
//! **Invariants.** The same seed gives the same throws for ever. Not for secrets.

/// A sequence of throws.
#[derive(Debug, Clone)]
pub struct Dice(u64);

const WORDS: [&str; 48] = [
    "tide",
    "buoy",
    "sensor",
    "harbor",
    "anchor",
    "ledger",
    "signal",
    "lantern",
    "channel",
    "drift",
    "gauge",
    "relay",
    "beacon",
    "current",
    "mooring",
    "pilot",
    "reading",
    "interval",
    "offset",
    "debounce",
    "calibrate",
    "north",
    "spring",
    "winter",
    "station",
    "retry",
    "queue",
    "window",
    "storm",
    "quay",
    "ferry",
    "chart",
    "depth",
    "sounder",
    "keel",
    "rudder",
    "crew",
    "watch",
    "log",
    "knot",
    "berth",
    "cargo",
    "manifest",
    "crane",
    "dock",
    "pier",
    "swell",
    "breaker",
];

impl Dice {
    /// Throws that follow from `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number in `from..to`; `from` when the range is empty. Slightly uneven, which nobody here minds.
    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.bits().checked_rem(to.saturating_sub(from)).unwrap_or(0)
    }

    /// Lower-case hex digits.
    pub fn hex(&mut self, digits: usize) -> String {
        let mut text = String::with_capacity(digits + 16);
        while text.len() < digits {
            text.push_str(&hex::encode(self.bits().to_be_bytes()));
        }
        text.truncate(digits);
        text
    }

    /// A version 4 UUID.
    pub fn uuid(&mut self) -> String {
        let hex = self.hex(32);
        format!("{}-{}-4{}-a{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..])
    }

    /// Letters and digits, as in Vercel's ids.
    pub fn token(&mut self, length: usize) -> String {
        const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        (0..length).map(|_| self.pick(ALPHABET.as_slice()).map_or('0', |&letter| char::from(letter))).collect()
    }

    /// One of `choices`.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> Option<&'a T> {
        let at = self.between(0, choices.len() as u64);
        usize::try_from(at).ok().and_then(|at| choices.get(at))
    }

    /// A word.
    pub fn word(&mut self) -> &'static str {
        self.pick(&WORDS).copied().unwrap_or("tide")
    }

    /// That many words.
    pub fn words(&mut self, count: usize) -> String {
        let mut text = String::new();
        for _ in 0..count {
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(self.word());
        }
        text
    }

    /// A sentence without its stop: some words, the first capitalised.
    pub fn title(&mut self) -> String {
        let count = self.between(3, 8);
        let text = self.words(usize::try_from(count).unwrap_or(3));
        text.chars().take(1).flat_map(char::to_uppercase).chain(text.chars().skip(1)).collect()
    }
}
