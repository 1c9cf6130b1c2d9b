//! What a receiver that was cut off tells the sender: which stream, and where to go on.

use crate::format::record::ReceiveRecord;

/// What a token begins with.
const PREFIX: &str = "rz1-";

/// The text of a token.
#[must_use]
pub fn encode(of: &ReceiveRecord) -> String {
    let mut bytes = of.encode();
    let check = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&check.to_le_bytes());
    let mut text = PREFIX.to_owned();
    for byte in bytes {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// Reads a token; `None` when it is none, or not whole.
#[must_use]
pub fn decode(text: &str) -> Option<ReceiveRecord> {
    let digits = text.trim().strip_prefix(PREFIX)?.as_bytes();
    let (pairs, rest) = digits.as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    let bytes = pairs.iter().map(|pair| {
        let digit = |at: u8| char::from(at).to_digit(16);
        let [high, low] = *pair;
        u8::try_from(digit(high)? * 16 + digit(low)?).ok()
    });
    let bytes = bytes.collect::<Option<Vec<u8>>>()?;
    let (record, check) = bytes.split_last_chunk::<4>()?;
    if crc32fast::hash(record) != u32::from_le_bytes(*check) {
        return None;
    }
    ReceiveRecord::decode(record).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::id::Ino;
    use crate::format::record::{StreamPosition, Time};

    #[test]
    fn a_token_is_whole_or_none() {
        let record = ReceiveRecord {
            snapshot: [1; 16],
            base: [0; 16],
            sender: [2; 16],
            created: Time { sec: 5, nsec: 6 },
            position: StreamPosition {
                pass: 1,
                ino: Ino(77),
                kind: 0x30,
                at: 4096,
            },
            name: "monday".into(),
        };
        let text = encode(&record);
        assert_eq!(decode(&text), Some(record.clone()));
        assert_eq!(decode(&format!(" {text}\n")), Some(record));
        for at in 0..text.len() {
            assert_eq!(decode(text.get(..at).unwrap_or_default()), None, "{at}");
            let mut other = text.clone().into_bytes();
            if let Some(byte) = other.get_mut(at) {
                *byte = if *byte == b'0' { b'1' } else { b'0' };
            }
            let other = String::from_utf8(other).unwrap_or_default();
            assert_eq!(decode(&other), None, "{at}");
        }
    }
}
