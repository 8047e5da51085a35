//! Mutations as a fuzzer makes them, without looking at coverage: the same ones at every run.

use signalbox::sim::Dice;

/// Texts that mean something to somebody who parses.
const TOKENS: [&[u8]; 40] = [
    b"\0",
    b"\n\n",
    b"\r\n",
    b"\"",
    b"\\",
    b"\\u0000",
    b"\\ud800",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b",",
    b"null",
    b"true",
    b"-0",
    b"1e400",
    b"18446744073709551616",
    b"-9223372036854775809",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    b"%",
    b"%00",
    b"%2e%2e",
    b"+",
    b"&payload=",
    b"=",
    b"/../",
    b"//",
    b"@",
    b"[::1]",
    b"0x7f.1",
    b"sha256=",
    b"v1,",
    b"id",
    b"installation",
    b"content-type: application/x-www-form-urlencoded\n",
    b"''",
    b"*",
];

/// Makes inputs out of others.
pub struct Mutator(Dice);

impl Mutator {
    /// Each target has its own sequence.
    pub fn new(target: &str) -> Self {
        let seed = target
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        Self(Dice::new(seed))
    }

    fn below(&mut self, limit: usize) -> usize {
        let last = u64::try_from(limit.saturating_sub(1)).expect("small");
        usize::try_from(self.0.between(0, last)).expect("small")
    }

    /// One of the inputs, changed a few times.
    pub fn mutate(&mut self, inputs: &[&[u8]]) -> Vec<u8> {
        let mut input = inputs[self.below(inputs.len())].to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(input.len() + 1);
            let end = at + self.below((input.len() - at).min(64) + 1);
            match self.below(8) {
                0 if at < input.len() => input[at] ^= 1 << self.below(8),
                1 if at < input.len() => input[at] = u8::try_from(self.below(256)).expect("a byte"),
                2 => drop(input.drain(at..end)),
                3 => {
                    let copied = input[at..end].repeat(1 + self.below(3));
                    input.splice(at..at, copied);
                }
                4 => {
                    let other = inputs[self.below(inputs.len())];
                    let from = self.below(other.len() + 1);
                    input.truncate(at);
                    input.extend_from_slice(&other[from..]);
                }
                5 => input.truncate(at),
                _ => {
                    let token = TOKENS[self.below(TOKENS.len())];
                    input.splice(at..end.min(at + token.len()), token.iter().copied());
                }
            }
        }
        input
    }
}
