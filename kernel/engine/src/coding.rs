//! Literals as coded bytes and back: raw, one continuous zstd stream, or zstd against a base that both sides hold.
//!
//! It knows bytes only: where they rest, what their digests are and which base fits is said by `outgoing.rs` and
//! `incoming.rs`. What comes from a peer is hostile: nothing is written beyond the length that was agreed on, and no
//! window is larger than [`STREAM_WINDOW_LOG`].

use std::collections::HashSet;

use zstd_safe::{CCtx, CParameter, DCtx, DParameter, FrameFormat, InBuffer, OutBuffer, get_error_name, zstd_sys};
use zstd_sys::ZSTD_EndDirective;

use crate::{Error, Result};

/// A long run is coded in pieces of this.
pub const PIECE_BYTES: usize = 8 << 20;
/// Bytes that are coded at once, at most: a part of a list of extents may be so much longer than a piece.
pub const RAW_BYTES_MAX: usize = PIECE_BYTES + (64 << 10);
/// Bytes of a base, at most.
pub const BASE_BYTES_MAX: usize = 16 << 20;
/// Bytes that runs of less than [`LARGE_RUN_BYTES`] are grouped to.
pub const GROUP_BYTES: usize = 1 << 20;
/// A run of this length is coded by itself: it gains nothing from its neighbours.
pub const LARGE_RUN_BYTES: usize = 256 << 10;
/// What a stream looks back: 16 MiB on either side, so that both stay below 96 MiB with all buffers.
pub const STREAM_WINDOW_LOG: u32 = 24;
/// The level of streams and small deltas.
const LEVEL: i32 = 3;
/// The level of deltas of more than a group: what such runs share with their base is long.
const LARGE_LEVEL: i32 = 1;
/// What a delta takes for a long match, and how many positions (a power of two) share a place in its table.
const LONG_MATCH_BYTES: u32 = 32;
const LONG_MATCH_RATE_LOG: u32 = 5;
/// Bytes of a sample that tells whether a group is worth a coding at all; three of them are taken.
const SAMPLE_BYTES: usize = 16 << 10;

/// How the bytes of a body are coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Coding {
    /// As they are.
    Raw = 0,
    /// A piece of one zstd frame that goes on from body to body, flushed behind each.
    Stream = 1,
    /// A zstd frame of its own, with the base as prefix.
    Delta = 2,
}

impl Coding {
    /// The coding that a peer names.
    pub fn from_byte(byte: u8) -> Result<Coding> {
        match byte {
            0 => Ok(Coding::Raw),
            1 => Ok(Coding::Stream),
            2 => Ok(Coding::Delta),
            _ => Err(Error::Invalid(format!("no coding has the number {byte}"))),
        }
    }
}

/// Codes what one side sends. The other side needs a [`Decoder`] that is given all of it, in order.
pub struct Encoder {
    /// Made when it is first needed: most transfers are deltas.
    stream: Option<CCtx<'static>>,
    window_log: u32,
}

/// Decodes what an [`Encoder`] gave.
pub struct Decoder {
    stream: Option<DCtx<'static>>,
    window_log: u32,
}

impl Encoder {
    /// At the beginning of a stream.
    pub fn new() -> Encoder {
        Encoder::with_window(STREAM_WINDOW_LOG)
    }

    /// At the beginning of a stream that looks back 2^`window_log` bytes; its decoder must be given the same.
    pub fn with_window(window_log: u32) -> Encoder {
        Encoder { stream: None, window_log }
    }

    /// Codes `raw`, which is not longer than [`RAW_BYTES_MAX`], appends that to `out` and says how it was done.
    ///
    /// `base` may be empty and is not longer than [`BASE_BYTES_MAX`]; only a delta needs it to be decoded. After an
    /// error the stream is of no use any more.
    pub fn encode(&mut self, raw: &[u8], base: &[u8], out: &mut Vec<u8>) -> Result<Coding> {
        let coding = self.encode_unless_raw(raw, base, out)?;
        if coding == Coding::Raw {
            out.extend_from_slice(raw);
        }
        Ok(coding)
    }

    /// As [`encode`](Encoder::encode), but appends nothing if the coded bytes are `raw` itself: a caller that can send
    /// it from where it lies need not copy it.
    pub fn encode_unless_raw(&mut self, raw: &[u8], base: &[u8], out: &mut Vec<u8>) -> Result<Coding> {
        check_lengths(raw.len(), base.len())?;
        let from = out.len();
        let is_tried = raw.len() < LARGE_RUN_BYTES || is_compressible(raw)? || may_have_in_common(raw, base);
        if !base.is_empty() && !raw.is_empty() && is_tried {
            delta(raw, base, out)?;
            // A sixteenth is beyond what a stream gives; else the same without the base tells whether the base helped.
            // Nothing is longer than `raw` by itself: where that decides, it is not coded again.
            let length = out.len() - from;
            let threshold = length + length / 8;
            if length < raw.len() / 16 || (threshold < raw.len() && threshold < alone(raw)?) {
                return Ok(Coding::Delta);
            }
            out.truncate(from);
        }
        if !is_compressible(raw)? {
            return Ok(Coding::Raw);
        }
        self.stream(raw, out)?;
        Ok(Coding::Stream)
    }

    fn stream(&mut self, raw: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let context = match &mut self.stream {
            Some(context) => context,
            none => {
                let mut context = compressor(LEVEL)?;
                context.set_parameter(CParameter::WindowLog(self.window_log)).map_err(failed)?;
                if self.window_log == STREAM_WINDOW_LOG {
                    context.set_parameter(CParameter::EnableLongDistanceMatching(true)).map_err(failed)?;
                }
                none.insert(context)
            }
        };
        let mut input = InBuffer::around(raw);
        loop {
            out.reserve(zstd_safe::compress_bound(raw.len() - input.pos()).min(1 << 20));
            let at = out.len();
            let mut output = OutBuffer::around_pos(out, at);
            let left =
                context.compress_stream2(&mut output, &mut input, ZSTD_EndDirective::ZSTD_e_flush).map_err(failed)?;
            if left == 0 && input.pos() == raw.len() {
                return Ok(());
            }
        }
    }
}

impl Default for Encoder {
    fn default() -> Self {
        Encoder::new()
    }
}

impl Decoder {
    /// At the beginning of a stream.
    pub fn new() -> Decoder {
        Decoder::with_window(STREAM_WINDOW_LOG)
    }

    /// At the beginning of a stream of [`Encoder::with_window`].
    pub fn with_window(window_log: u32) -> Decoder {
        Decoder { stream: None, window_log }
    }

    /// Appends to `out` the `raw_bytes` bytes that `coded` stands for, or fails: then `out` is as it was, and the
    /// stream is of no use any more. No more memory is taken than for `raw_bytes` and a window.
    pub fn decode(
        &mut self,
        coding: Coding,
        coded: &[u8],
        base: &[u8],
        raw_bytes: usize,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        check_lengths(raw_bytes, base.len())?;
        let from = out.len();
        let decoded = match coding {
            Coding::Raw if coded.len() == raw_bytes => {
                out.extend_from_slice(coded);
                Ok(raw_bytes)
            }
            Coding::Raw => Ok(coded.len()),
            Coding::Stream => {
                // One byte more than there should be: what a stream has in excess must show here, not in the next body.
                out.resize(from + raw_bytes + 1, 0);
                self.stream(coded, &mut out[from..])
            }
            Coding::Delta => {
                out.resize(from + raw_bytes, 0);
                undelta(coded, base, &mut out[from..])
            }
        };
        match decoded {
            Ok(length) if length == raw_bytes => {
                out.truncate(from + raw_bytes);
                Ok(())
            }
            Ok(length) => {
                out.truncate(from);
                Err(Error::Invalid(format!("{} coded bytes stand for {length}, not for {raw_bytes}", coded.len())))
            }
            Err(error) => {
                out.truncate(from);
                Err(error)
            }
        }
    }

    /// The `raw_bytes` bytes that `coded` stands for: `coded` itself where that is what it is, else decoded into
    /// `scratch`, whose content is dropped. Errors are those of [`decode`](Decoder::decode).
    pub fn decoded<'a>(
        &mut self,
        coding: Coding,
        coded: &'a [u8],
        base: &[u8],
        raw_bytes: usize,
        scratch: &'a mut Vec<u8>,
    ) -> Result<&'a [u8]> {
        if coding == Coding::Raw && coded.len() == raw_bytes {
            return Ok(coded);
        }
        scratch.clear();
        self.decode(coding, coded, base, raw_bytes, scratch)?;
        Ok(scratch)
    }

    fn stream(&mut self, coded: &[u8], out: &mut [u8]) -> Result<usize> {
        let context = match &mut self.stream {
            Some(context) => context,
            none => {
                let mut context = decompressor()?;
                context.set_parameter(DParameter::WindowLogMax(self.window_log)).map_err(failed)?;
                none.insert(context)
            }
        };
        let mut input = InBuffer::around(coded);
        let mut output = OutBuffer::around(out);
        loop {
            let before = (input.pos(), output.pos());
            context.decompress_stream(&mut output, &mut input).map_err(unsound)?;
            let is_full = output.pos() == output.capacity();
            if is_full || input.pos() == coded.len() {
                return match input.pos() == coded.len() {
                    true => Ok(output.pos()),
                    false => Err(Error::Invalid("coded bytes go on behind the end of what they stand for".into())),
                };
            }
            if before == (input.pos(), output.pos()) {
                return Err(Error::Invalid("coded bytes stand for nothing".into()));
            }
        }
    }
}

impl Default for Decoder {
    fn default() -> Self {
        Decoder::new()
    }
}

fn check_lengths(raw_bytes: usize, base_bytes: usize) -> Result<()> {
    if raw_bytes > RAW_BYTES_MAX || base_bytes > BASE_BYTES_MAX {
        return Err(Error::Invalid(format!(
            "{raw_bytes} bytes against a base of {base_bytes} are too many for one body"
        )));
    }
    Ok(())
}

/// A context that writes frames without anything that the other side knows: no magic number, size or checksum.
fn compressor<'a>(level: i32) -> Result<CCtx<'a>> {
    let mut context = CCtx::try_create().ok_or_else(no_memory)?;
    for parameter in [
        CParameter::Format(FrameFormat::Magicless),
        CParameter::ContentSizeFlag(false),
        CParameter::ChecksumFlag(false),
        CParameter::DictIdFlag(false),
        CParameter::CompressionLevel(level),
    ] {
        context.set_parameter(parameter).map_err(failed)?;
    }
    Ok(context)
}

fn decompressor<'a>() -> Result<DCtx<'a>> {
    let mut context = DCtx::try_create().ok_or_else(no_memory)?;
    context.set_parameter(DParameter::Format(FrameFormat::Magicless)).map_err(failed)?;
    Ok(context)
}

/// Bits that count to `bytes`.
fn log2(bytes: usize) -> u32 {
    usize::BITS - bytes.saturating_sub(1).leading_zeros()
}

/// Appends `raw`, coded against `base`.
///
/// Long matches are found by a table of their own. Without it, 90 files that use the same few words find each other
/// instead of their base: 110 KB instead of 3.
fn delta(raw: &[u8], base: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let from = out.len();
    delta_with(LARGE_LEVEL, true, raw, base, out)?;
    if raw.len() > GROUP_BYTES {
        return Ok(());
    }
    // What is nearly all in the base is told in a tenth less without that table, and by level 1: level 3 cuts blocks on
    // suspicion, which costs it 130 bytes of each 128 KiB. Where much is new, level 3 is the better one.
    let is_nearly_all = out.len() - from < raw.len() / 64;
    let mut other = Vec::new();
    match is_nearly_all {
        true => delta_with(LARGE_LEVEL, false, raw, base, &mut other)?,
        false => delta_with(LEVEL, true, raw, base, &mut other)?,
    }
    if other.len() < out.len() - from {
        out.truncate(from);
        out.append(&mut other);
    }
    Ok(())
}

fn delta_with(level: i32, long_matches: bool, raw: &[u8], base: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let total_log = log2(raw.len() + base.len());
    let mut context = compressor(level)?;
    // The default tables are made for the source alone: too small for a prefix of a mebibyte, they find nothing in it.
    let hash_log = total_log.clamp(14, 22);
    context.set_parameter(CParameter::WindowLog(total_log.clamp(10, 25))).map_err(failed)?;
    context.set_parameter(CParameter::HashLog(hash_log)).map_err(failed)?;
    if level == LEVEL {
        context.set_parameter(CParameter::ChainLog(hash_log - 1)).map_err(failed)?;
    }
    if long_matches {
        context.set_parameter(CParameter::EnableLongDistanceMatching(true)).map_err(failed)?;
        context.set_parameter(CParameter::LdmMinMatch(LONG_MATCH_BYTES)).map_err(failed)?;
        context.set_parameter(CParameter::LdmHashRateLog(LONG_MATCH_RATE_LOG)).map_err(failed)?;
        context
            .set_parameter(CParameter::LdmHashLog((hash_log + 1).saturating_sub(LONG_MATCH_RATE_LOG)))
            .map_err(failed)?;
    }
    context.ref_prefix(base).map_err(failed)?;
    let from = out.len();
    out.resize(from + zstd_safe::compress_bound(raw.len()), 0);
    let length = context.compress2(&mut out[from..], raw).map_err(failed)?;
    out.truncate(from + length);
    Ok(())
}

/// How long `raw` is when it is coded by itself, with the same effort.
fn alone(raw: &[u8]) -> Result<usize> {
    let mut scratch = Vec::new();
    delta(raw, &[], &mut scratch)?;
    Ok(scratch.len())
}

/// Fills `out` and says how far.
fn undelta(coded: &[u8], base: &[u8], out: &mut [u8]) -> Result<usize> {
    let mut context = decompressor()?;
    context.ref_prefix(base).map_err(failed)?;
    // In one go the frame is decoded where it is wanted: no window is allocated, whatever its header says.
    context.decompress(out, coded).map_err(unsound)
}

/// Whether three samples of `raw` say that coding it is worth the time. Short groups are always tried.
fn is_compressible(raw: &[u8]) -> Result<bool> {
    if raw.len() < 4 * SAMPLE_BYTES {
        return Ok(true);
    }
    let mut context = compressor(1)?;
    let mut scratch = vec![0; zstd_safe::compress_bound(SAMPLE_BYTES)];
    let (mut taken, mut coded) = (0, 0);
    for at in [0, (raw.len() - SAMPLE_BYTES) / 2, raw.len() - SAMPLE_BYTES] {
        taken += SAMPLE_BYTES;
        coded += context.compress2(&mut scratch[..], &raw[at..at + SAMPLE_BYTES]).map_err(failed)?;
    }
    Ok(coded < taken - taken / 50)
}

/// Whether `raw` and `base` share any run of some hundred bytes, as far as one position in 256 tells.
///
/// What holds noise in the place of other noise (encrypted and compressed files) would be coded for nothing, at a tenth
/// of the speed. A wrong answer costs time or bytes, and nothing else.
fn may_have_in_common(raw: &[u8], base: &[u8]) -> bool {
    let seen: HashSet<u64> = marks(raw).take(raw.len() / 64).collect();
    seen.len() < raw.len() / 1024 || marks(base).any(|mark| seen.contains(&mark))
}

/// The gear hash (Xia et al., "Ddelta", 2014) of the 64 bytes before each position where its first byte is 0.
fn marks(bytes: &[u8]) -> impl Iterator<Item = u64> + '_ {
    let mut hash = 0u64;
    bytes.iter().enumerate().filter_map(move |(at, &byte)| {
        hash = (hash << 1).wrapping_add(GEAR[usize::from(byte)]);
        (hash >> 56 == 0 && at >= 64).then_some(hash)
    })
}

/// A number for each byte, by SplitMix64 (Steele et al., 2014).
const GEAR: [u64; 256] = {
    let (mut table, mut at, mut state) = ([0; 256], 0, 0u64);
    while at < 256 {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        table[at] = mixed ^ (mixed >> 31);
        at += 1;
    }
    table
};

fn no_memory() -> Error {
    let source = std::io::Error::from(std::io::ErrorKind::OutOfMemory);
    Error::io("code", "literals", source)
}

/// An error on our side: a parameter or memory.
fn failed(code: zstd_safe::ErrorCode) -> Error {
    Error::io("code", "literals", std::io::Error::other(get_error_name(code)))
}

/// An error in what the peer sent.
fn unsound(code: zstd_safe::ErrorCode) -> Error {
    Error::Invalid(format!("coded bytes are unsound: {}", get_error_name(code)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn noise(seed: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }

    fn text(seed: u64, length: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in noise(seed, length) {
            bytes.extend_from_slice(
                ["the ", "chunk ", "of ", "a ", "segment ", "lies\n", "here ", "and "][word as usize % 8].as_bytes(),
            );
        }
        bytes.truncate(length);
        bytes
    }

    /// Groups as they come: compressible or not, long or short, with and without a base that resembles them.
    fn groups() -> impl Strategy<Value = Vec<(Vec<u8>, Vec<u8>)>> {
        let group = (0u64..50, 0usize..200_000, 0u8..4, any::<bool>()).prop_map(|(seed, length, base, is_text)| {
            let raw = if is_text { text(seed, length) } else { noise(seed, length) };
            let base = match base {
                0 => raw[raw.len() / 3..].to_vec(),
                1 => noise(seed + 100, 1000),
                _ => Vec::new(),
            };
            (raw, base)
        });
        vec(group, 1..6)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_decoded_is_what_was_coded(groups in groups()) {
            let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
            for (raw, base) in groups {
                let mut coded = b"before".to_vec();
                let coding = encoder.encode(&raw, &base, &mut coded).unwrap();
                let mut found = b"here".to_vec();

                let against = if coding == Coding::Delta { &base[..] } else { &[] };
                decoder.decode(coding, &coded[6..], against, raw.len(), &mut found).unwrap();

                prop_assert_eq!(&found[4..], &raw[..]);
                prop_assert!(coded.len() <= raw.len() + raw.len() / 300 + 40);
            }
        }

        #[test]
        fn any_bytes_are_decoded_within_the_length_agreed_on_or_refused(
            coding in 0u8..3, coded in vec(any::<u8>(), 0..300), base in vec(any::<u8>(), 0..50), length in 0usize..2000
        ) {
            let mut found = vec![7];

            let answer = Decoder::new().decode(Coding::from_byte(coding).unwrap(), &coded, &base, length, &mut found);

            prop_assert_eq!(found.len(), if answer.is_ok() { length + 1 } else { 1 });
        }

        #[test]
        fn a_flipped_bit_gives_bytes_of_the_same_length_or_an_error(
            seed in 0u64..20, at in any::<prop::sample::Index>(), bit in 0..8, is_delta: bool
        ) {
            let raw = text(seed, 5000);
            let base = if is_delta { text(seed, 4000) } else { Vec::new() };
            let mut coded = Vec::new();
            let coding = Encoder::new().encode(&raw, &base, &mut coded).unwrap();
            let at = at.index(coded.len());
            coded[at] ^= 1u8 << bit;
            let mut found = Vec::new();

            let answer = Decoder::new().decode(coding, &coded, &base, raw.len(), &mut found);

            prop_assert_eq!(found.len(), if answer.is_ok() { raw.len() } else { 0 });
        }
    }

    #[test]
    fn the_length_agreed_on_is_the_length_exactly() {
        for (raw, base) in
            [(text(1, 9000), Vec::new()), (text(1, 9000), text(1, 8000)), (noise(1, 200_000), Vec::new())]
        {
            let mut coded = Vec::new();
            let coding = Encoder::new().encode(&raw, &base, &mut coded).unwrap();
            for length in [0, raw.len() - 1, raw.len() + 1, RAW_BYTES_MAX] {
                let answer = Decoder::new().decode(coding, &coded, &base, length, &mut Vec::new());
                assert!(matches!(answer, Err(Error::Invalid(_))), "{coding:?} {length}");
            }
        }
    }

    #[test]
    fn a_bomb_is_refused_at_the_length_agreed_on() {
        let mut coded = Vec::new();
        let coding = Encoder::new().encode(&vec![0; RAW_BYTES_MAX], &[], &mut coded).unwrap();
        assert!(coded.len() < 2000);
        let mut found = Vec::new();

        assert!(Decoder::new().decode(coding, &coded, &[], 1000, &mut found).is_err());
        assert!(Decoder::new().decode(coding, &coded, &[], RAW_BYTES_MAX + 1, &mut found).is_err());
        assert!(Decoder::new().decode(Coding::Delta, &coded, &[], 1000, &mut found).is_err());
        assert!(found.capacity() < 4096);
    }

    #[test]
    fn a_stream_remembers_what_it_has_sent() {
        let mut encoder = Encoder::new();
        let (mut first, mut second) = (Vec::new(), Vec::new());
        encoder.encode(&text(3, 300_000), &[], &mut first).unwrap();

        encoder.encode(&text(3, 300_000), &[], &mut second).unwrap();

        assert!(second.len() < 200, "{} after {}", second.len(), first.len());
    }

    #[test]
    fn incompressible_bytes_stay_as_they_are() {
        let mut coded = Vec::new();

        let coding = Encoder::new().encode(&noise(1, 1 << 20), &[], &mut coded).unwrap();

        assert_eq!((coding, coded.len()), (Coding::Raw, 1 << 20));
    }

    #[test]
    fn a_base_that_resembles_leaves_little_whatever_the_size() {
        for length in [3000, 100_000, 1 << 20, PIECE_BYTES] {
            let base = noise(1, 2 * length);
            let mut raw = base[length / 2..length / 2 + length].to_vec();
            raw[length / 2] ^= 1;
            let mut coded = Vec::new();

            let coding = Encoder::new().encode(&raw, &base, &mut coded).unwrap();

            assert_eq!(coding, Coding::Delta);
            assert!(coded.len() < 40 + length / 8000, "{} of {length}", coded.len());
            let mut found = Vec::new();
            Decoder::new().decode(coding, &coded, &base, length, &mut found).unwrap();
            assert!(found == raw);
        }
    }

    #[test]
    fn files_that_are_much_alike_find_their_own_base() {
        let (mut base, mut raw) = (Vec::new(), Vec::new());
        for file in 0..90 {
            let old = text(file, 2000 + 29 * (file as usize * 7 % 331));
            base.extend_from_slice(&old);
            raw.extend_from_slice(&old);
            raw.extend(noise(1000 + file, 28));
        }
        let mut coded = Vec::new();

        let coding = Encoder::new().encode(&raw, &base, &mut coded).unwrap();

        assert_eq!(coding, Coding::Delta);
        assert!(coded.len() < 90 * 28 + 90 * 8, "{}", coded.len());
    }

    #[test]
    fn a_base_of_no_use_is_not_used() {
        let mut coded = Vec::new();

        let coding = Encoder::new().encode(&text(1, 50_000), &noise(9, 50_000), &mut coded).unwrap();

        assert_eq!(coding, Coding::Stream);
    }

    #[test]
    fn noise_is_coded_against_other_noise_where_they_share_a_little() {
        for length in [LARGE_RUN_BYTES, 1 << 20, PIECE_BYTES] {
            let (base, mut raw) = (noise(1, 2 * length), noise(2, length));
            assert!(!may_have_in_common(&raw, &base));
            for place in (0..length - 1000).step_by(length / 64) {
                raw[place..place + 1000].copy_from_slice(&base[length / 2 + place..length / 2 + place + 1000]);
            }
            assert!(may_have_in_common(&raw, &base));
        }
        assert!(may_have_in_common(&vec![0; PIECE_BYTES], &noise(1, PIECE_BYTES)), "what repeats itself says nothing");
    }

    #[test]
    fn too_much_at_once_is_refused_on_either_side() {
        let long = vec![0; BASE_BYTES_MAX + 1];
        assert!(Encoder::new().encode(&long[..RAW_BYTES_MAX + 1], &[], &mut Vec::new()).is_err());
        assert!(Encoder::new().encode(&[1], &long, &mut Vec::new()).is_err());
        assert!(Decoder::new().decode(Coding::Delta, &[1], &long, 1, &mut Vec::new()).is_err());
    }
}
