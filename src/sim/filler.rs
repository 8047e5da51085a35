//! Makes a payload longer where real payloads are long: in a description, a message, a comment.
//!
//! **Invariants.** The body grows to the byte; what is added needs no JSON escapes and no form escapes but the blank.

use serde_json::Value;

use super::Dice;

/// Lengthens the text at `pointer` until `payload` serialises to `body_bytes`; does nothing if it is that long already
/// or has no text there.
pub(super) fn lengthen(payload: &mut Value, pointer: &str, body_bytes: usize, seed: u64) {
    let missing = body_bytes.saturating_sub(if body_bytes == 0 { 0 } else { payload.to_string().len() });
    if missing == 0 {
        return;
    }
    if let Some(Value::String(text)) = payload.pointer_mut(pointer) {
        text.reserve_exact(missing);
        let end = text.len() + missing;
        let mut dice = Dice::new(seed ^ 0xf111_0000_0000_0000);
        while text.len() < end {
            text.push(' ');
            text.push_str(dice.word());
        }
        text.truncate(end);
    }
}
