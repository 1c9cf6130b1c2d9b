use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

const CHUNK: usize = CHUNK_MAX as usize;

fn all() -> Vec<Compression> {
    let names = ["lz4", "zstd", "zstd:1", "zstd:19"];
    names.iter().map(|name| name.parse().unwrap()).collect()
}

fn random(rng: &mut ChaCha8Rng, len: usize) -> Vec<u8> {
    (0..len).map(|_| rng.random()).collect()
}

/// Words and numbers.
fn text(rng: &mut ChaCha8Rng, len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < len {
        let word = ["let ", "mut ", "match ", "return ", "struct "][rng.random_range(0..5)];
        bytes.extend_from_slice(word.as_bytes());
        bytes.extend_from_slice(rng.random_range(0..10_000u32).to_string().as_bytes());
    }
    bytes.truncate(len);
    bytes
}

fn stored(how: Compression, content: &[u8], most: usize) -> Option<Vec<u8>> {
    compress(how, content, most, <[u8]>::to_vec)
}

#[test]
fn names_are_what_they_stand_for() {
    for name in ["off", "lz4", "zstd", "zstd:1", "zstd:19"] {
        let parsed: Compression = name.parse().unwrap();
        assert_eq!(parsed.to_string(), name);
        let (codec, level) = parsed.to_record();
        assert_eq!(Compression::of_record(codec, level), Ok(parsed));
    }
    for wrong in [
        "", "on", "LZ4", "lz4:1", "off:0", "zstd:", "zstd:0", "zstd:20", "zstd:-1", "zstd:300",
    ] {
        let error = wrong.parse::<Compression>().unwrap_err().to_string();
        assert!(error.contains("off, lz4, zstd"), "{wrong}: {error}");
    }
    for (codec, level) in [(3, 0), (255, 0), (0, 1), (1, 1), (2, 20)] {
        assert!(
            Compression::of_record(codec, level).is_err(),
            "{codec} {level}"
        );
    }
}

#[test]
fn what_is_compressed_comes_back() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for how in all() {
        for len in [2, 100, 4096, 4097, 70_000, CHUNK - 1, CHUNK] {
            let content = text(&mut rng, len);
            let Some(stored) = stored(how, &content, len) else {
                assert!(len < 1000, "{how}: {len} bytes of text");
                continue;
            };
            let mut back = vec![1; len];
            decompress(how.codec(), &stored, &mut back).unwrap();
            assert!(back == content, "{how}: {len} bytes");
            // Only to exactly as much.
            for other in [len - 1, len + 1] {
                let mut back = vec![0; other];
                let made = decompress(how.codec(), &stored, &mut back);
                assert!(made.is_err(), "{how}: {other} of {len} bytes");
            }
        }
    }
}

#[test]
fn what_does_not_pay_is_left_alone() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    for how in all() {
        let content = random(&mut rng, CHUNK);
        assert_eq!(stored(how, &content, CHUNK - 4096), None, "{how}");
        assert_eq!(stored(how, &[7; 4096], 0), None, "{how}");
        let content = text(&mut rng, CHUNK);
        let len = stored(how, &content, CHUNK).unwrap().len();
        assert!(stored(how, &content, len).is_some(), "{how}");
        assert_eq!(stored(how, &content, len - 1), None, "{how}");
    }
    assert_eq!(stored(Compression::OFF, &[7; CHUNK], CHUNK), None);
}

/// What a look at single bytes finds nothing in is not given up for that, and the reverse.
#[test]
fn what_repeats_and_what_is_of_few_letters_is_compressed() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut repeated = random(&mut rng, 9001).repeat(CHUNK / 9001 + 1);
    repeated.truncate(CHUNK);
    assert!(looks_random(&repeated));
    let letters: Vec<u8> = (0..CHUNK).map(|_| b'a' + rng.random_range(0..26)).collect();
    assert!(!looks_random(&letters));
    for how in ["zstd", "zstd:1", "zstd:19"] {
        let how = how.parse().unwrap();
        for content in [&repeated, &letters] {
            let len = stored(how, content, CHUNK - 4096).unwrap().len();
            assert!(len < CHUNK * 3 / 4, "{how}: {len}");
        }
    }
}

/// Bytes from nowhere, and some that were sound before a bit flipped: an error or other content,
/// never a panic or a byte behind the room.
#[test]
fn garbage_is_an_error_at_worst() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    for how in all() {
        let content = text(&mut rng, 20_000);
        let sound = stored(how, &content, content.len()).unwrap();
        let mut refused = 0;
        for round in 0..2000 {
            let mut bytes = sound.clone();
            match round % 3 {
                0 => bytes = random(&mut rng, round),
                1 => bytes.truncate(rng.random_range(0..sound.len())),
                _ => {
                    let at = rng.random_range(0..bytes.len());
                    bytes[at] ^= 1 << rng.random_range(0..8);
                }
            }
            let mut back = vec![0; content.len()];
            refused += u32::from(decompress(how.codec(), &bytes, &mut back).is_err());
        }
        assert!(refused > 1300, "{how}: {refused}");
    }
    assert!(decompress(Codec::Raw, &[1; 10], &mut [0; 9]).is_err());
}
