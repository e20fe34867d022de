//! Runs the targets of `fuzz/` on mutated seeds, with the same mutations each time, for `TWEEDIE_FUZZ_SECONDS`.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "../../../fuzz/targets.rs"]
mod targets;

use std::{
    fs,
    panic::catch_unwind,
    path::Path,
    time::{Duration, Instant},
};

use targets::{TARGETS, Target};

/// The default duration.
const SECONDS: f64 = 5.0;
/// No input of a few kilobytes may take longer.
const LONGEST: Duration = Duration::from_secs(20);

/// SplitMix64.
struct Draws(u64);

impl Draws {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n.max(1) as u64) as usize
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

/// Numbers and words at the limits of the formats.
const EDGES: &[&str] = &[
    "0",
    "-1",
    "1",
    "2",
    "255",
    "65536",
    "2147483648",
    "4294967296",
    "1000000000000",
    "9223372036854775807",
    "18446744073709551615",
    "1e18",
    "1e300",
    "-1e300",
    "1e-300",
    "NaN",
    "inf",
    "null",
    "true",
    "[]",
    "{}",
    "\"\"",
];

/// Where numbers begin and end in text.
fn numbers(bytes: &[u8]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut start = None;
    for (at, byte) in bytes.iter().chain(b" ").enumerate() {
        let inside = byte.is_ascii_digit() || start.is_some() && matches!(byte, b'.' | b'e' | b'-');
        match (start, inside) {
            (None, true) => start = Some(at),
            (Some(from), false) => {
                found.push((from, at));
                start = None;
            }
            _ => {}
        }
    }
    found
}

fn change(bytes: &mut Vec<u8>, draws: &mut Draws) {
    if bytes.is_empty() {
        bytes.push(0);
    }
    let (length, at) = (bytes.len(), draws.below(bytes.len()));
    let span = at..(at + 1 + draws.below(32)).min(length);
    match draws.below(8) {
        0 => bytes[at] ^= 1 << draws.below(8),
        1 => bytes[at] = draws.of(&[0, 1, 0x7f, 0x80, 0xff, b'"', b'{', b'\n']),
        2 => bytes.truncate(at),
        3 => drop(bytes.drain(span)),
        4 => {
            let copy = bytes[span].to_vec();
            bytes.splice(at..at, copy);
        }
        5 => {
            // Binary lengths and offsets.
            let wide = draws.of(&[0_u64, 1, 0x7fff_ffff, 0xffff_ffff, 1 << 40, u64::MAX]).to_le_bytes();
            bytes[span].iter_mut().zip(wide.iter().cycle()).for_each(|(b, w)| *b = *w);
        }
        _ => match numbers(bytes).as_slice() {
            [] => bytes[at] = bytes[at].wrapping_add(1),
            found => {
                let (from, to) = draws.of(found);
                bytes.splice(from..to, draws.of(EDGES).bytes());
            }
        },
    }
}

/// Runs a target on its seeds and then on mutated ones; returns the number of inputs.
fn hammer(name: &str, target: Target, time: Duration) -> usize {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(name);
    let mut files: Vec<_> = fs::read_dir(&seeds).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let seeds: Vec<Vec<u8>> = files.iter().map(|path| fs::read(path).unwrap()).collect();
    assert!(!seeds.is_empty(), "{name} has no seeds");
    let mut draws = Draws(name.bytes().map(u64::from).sum());
    let (begun, mut round) = (Instant::now(), 0);
    while begun.elapsed() < time || round < 2 * seeds.len() {
        let mut bytes = seeds[round % seeds.len()].clone();
        for _ in 0..if round < seeds.len() { 0 } else { 1 + draws.below(3) } {
            change(&mut bytes, &mut draws);
        }
        let folder = tempfile::tempdir().unwrap();
        let start = Instant::now();
        let ran = catch_unwind(|| target(&bytes, folder.path()));
        if ran.is_err() || start.elapsed() > LONGEST {
            let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{round}"));
            fs::write(&kept, &bytes).unwrap();
            panic!("{name}: the input {} fails or takes too long ({:?})", kept.display(), start.elapsed());
        }
        round += 1;
    }
    round
}

#[test]
fn no_input_panics() {
    let given = std::env::var("TWEEDIE_FUZZ_SECONDS").ok().map(|text| text.parse().unwrap());
    let each = Duration::from_secs_f64(given.unwrap_or(SECONDS) / TARGETS.len() as f64);
    for (name, target) in TARGETS {
        eprintln!("{name}: {} inputs", hammer(name, *target, each));
    }
}
