//! Delivery ids that say which event of which stream they are.
//!
//! **Invariants.** Ids of one form have one length, so that they can be written over one another.

/// The form GitHub and Linear use.
pub fn uuid(stream: u16, number: u64) -> String {
    format!("10ad{stream:04x}-0000-4000-8000-{number:012x}")
}

/// Vercel's, which is also short enough to stand in a body of any provider.
pub fn short(stream: u16, number: u64) -> String {
    format!("evt_{stream:04x}{number:012x}")
}

/// Stream and number of either form; `None` if it is none of ours.
pub fn parse(id: &[u8]) -> Option<(u16, u64)> {
    let id = std::str::from_utf8(id).ok()?;
    let (stream, number) = if let Some(rest) = id.strip_prefix("10ad") {
        rest.split_once("-0000-4000-8000-")?
    } else {
        id.strip_prefix("evt_")?.split_at_checked(4)?
    };
    Some((u16::from_str_radix(stream, 16).ok()?, u64::from_str_radix(number, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read_as_they_were_written_and_strangers_are_not() {
        for (stream, number) in [(0, 0), (3, 77), (u16::MAX, 0xffff_ffff_ffff)] {
            for id in [uuid(stream, number), short(stream, number)] {
                assert_eq!(parse(id.as_bytes()), Some((stream, number)), "{id}");
            }
        }
        for id in ["", "evt_", "evt_0001", "10ad0001-0000", "5f2c", "evt_é000000000000"] {
            assert_eq!(parse(id.as_bytes()), None, "{id}");
        }
    }
}
