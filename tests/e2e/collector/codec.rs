//! The formats as docs/PROTOCOL.md has them, read a second time: by offsets, and without the product.
//!
//! Whatever the page forbids is an error here, in words.

use super::crc32c::crc32c;
use std::ops::RangeInclusive;

/// A stream's 16 bytes. All zeros ask who is there.
pub type Stream = [u8; 16];

/// A place between two records, and the checksum of the block that ends there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Position {
    pub next: u64,
    pub previous: u32,
}

/// Anything that a publisher says on a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    Block(Block),
    Head(Head),
    Gap(Gap),
    Fork { stream: Stream, at: Position },
    Busy { stream: Stream },
    End { stream: Stream, at: Position },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    pub stream: Stream,
    pub oldest: Position,
    pub next: Position,
    pub name: String,
    pub replay: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    Retention,
    Damage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    pub stream: Stream,
    pub from: u64,
    pub to: Position,
    pub reason: Reason,
}

/// A block that is as it must be. It keeps its bytes; records are read from them when asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    pub bytes: Vec<u8>,
    pub stream: Stream,
    pub first: u64,
    pub count: u32,
    pub base_time_ns: i64,
    pub last_time_ns: i64,
    pub previous: u32,
    pub crc: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    pub stream: Stream,
    pub sequence: u64,
    pub time_ns: i64,
    pub topic: &'a str,
    pub body: &'a [u8],
}

impl Block {
    pub fn start(&self) -> Position {
        Position { next: self.first, previous: self.previous }
    }

    pub fn end(&self) -> Position {
        Position { next: self.first + u64::from(self.count), previous: self.crc }
    }

    pub fn records(&self) -> impl Iterator<Item = Record<'_>> {
        let mut payload = Payload { bytes: &self.bytes[56..], time_ns: self.base_time_ns };
        (0..u64::from(self.count)).map(move |index| {
            let (time_ns, topic, body) = payload.record().expect("read when the block came");
            Record { stream: self.stream, sequence: self.first + index, time_ns, topic, body }
        })
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let first = u64_at(bytes, 24)?;
        let (count, payload_bytes) = (u32_at(bytes, 32)?, u32_at(bytes, 36)? as usize);
        let base_time_ns = i64::from_le_bytes(at(bytes, 40)?);
        let flags = u32_at(bytes, 52)?;
        if !(1..=16_384).contains(&count) || payload_bytes > 1 << 20 || bytes.len() != 56 + payload_bytes || flags != 0
        {
            return Err(format!("{} bytes with {count} records, {payload_bytes} + 56, flags {flags}", bytes.len()));
        }
        first.checked_add(count.into()).ok_or("numbers beyond the last")?;
        let mut payload = Payload { bytes: &bytes[56..], time_ns: base_time_ns };
        for index in 0..count {
            let (time_ns, ..) = payload.record()?;
            if index == 0 && time_ns != base_time_ns {
                return Err(format!("the first record is not of the base time, {base_time_ns}, but of {time_ns}"));
            }
        }
        if !payload.bytes.is_empty() {
            return Err(format!("{} bytes behind the last record", payload.bytes.len()));
        }
        Ok(Self {
            bytes: bytes.to_vec(),
            stream: at(bytes, 8)?,
            first,
            count,
            base_time_ns,
            last_time_ns: payload.time_ns,
            previous: u32_at(bytes, 48)?,
            crc: u32_at(bytes, 4)?,
        })
    }
}

/// What is left of a payload, and the time of the record before.
struct Payload<'a> {
    bytes: &'a [u8],
    time_ns: i64,
}

impl<'a> Payload<'a> {
    fn record(&mut self) -> Result<(i64, &'a str, &'a [u8]), String> {
        let since = self.varint()?;
        if since % 2 == 1 {
            return Err("a record goes back in time".to_owned());
        }
        self.time_ns = self.time_ns.checked_add((since / 2) as i64).ok_or("a time beyond the last")?;
        let topic = self.text(1..=255)?;
        let topic = std::str::from_utf8(topic).map_err(|error| format!("topic {topic:02x?}: {error}"))?;
        Ok((self.time_ns, topic, self.text(0..=256 * 1024)?))
    }

    fn text(&mut self, lengths: RangeInclusive<u64>) -> Result<&'a [u8], String> {
        let length = self.varint()?;
        if !lengths.contains(&length) {
            return Err(format!("a text of {length} bytes, not {lengths:?}"));
        }
        let (text, rest) = self.bytes.split_at_checked(length as usize).ok_or("a text beyond the payload")?;
        self.bytes = rest;
        Ok(text)
    }

    fn varint(&mut self) -> Result<u64, String> {
        let end = self.bytes.iter().position(|byte| *byte < 0x80).ok_or("a varint beyond the payload")?;
        let (septets, rest) = self.bytes.split_at(end + 1);
        self.bytes = rest;
        let value = septets.iter().rev().fold(0_u128, |value, byte| value.wrapping_shl(7) | u128::from(byte & 0x7f));
        let is_shortest = end == 0 || septets[end] != 0;
        let value = u64::try_from(value).ok().filter(|_| end < 10 && is_shortest);
        value.ok_or_else(|| format!("varint {septets:02x?}"))
    }
}

impl Message {
    pub fn decode(frame: &[u8]) -> Result<Self, String> {
        let decoded = Self::decode_kind(frame);
        decoded.map_err(|error| {
            let begin = &frame[..frame.len().min(64)];
            format!("{error}, in {} bytes that begin with {begin:02x?}", frame.len())
        })
    }

    fn decode_kind(frame: &[u8]) -> Result<Self, String> {
        let stream = envelope(frame)?;
        let of_length = |length| if frame.len() == length { Ok(()) } else { Err(format!("not {length} bytes")) };
        match &frame[..4] {
            b"DPB1" => Block::decode(frame).map(Self::Block),
            b"DPH1" => head(stream, frame).map(Self::Head),
            b"DPG1" => {
                of_length(48)?;
                gap(stream, frame).map(Self::Gap)
            }
            b"DPX1" => of_length(36).and_then(|()| Ok(Self::Fork { stream, at: position(frame, 24)? })),
            b"DPW1" => of_length(24).map(|()| Self::Busy { stream }),
            b"DPE1" => of_length(36).and_then(|()| Ok(Self::End { stream, at: position(frame, 24)? })),
            _ => Err("no kind that a publisher sends".to_owned()),
        }
    }

    pub fn stream(&self) -> Stream {
        match self {
            Self::Block(block) => block.stream,
            Self::Head(head) => head.stream,
            Self::Gap(gap) => gap.stream,
            Self::Fork { stream, .. } | Self::Busy { stream } | Self::End { stream, .. } => *stream,
        }
    }
}

fn head(stream: Stream, frame: &[u8]) -> Result<Head, String> {
    let oldest = Position { next: u64_at(frame, 24)?, previous: u32_at(frame, 40)? };
    let next = Position { next: u64_at(frame, 32)?, previous: u32_at(frame, 44)? };
    if oldest.next > next.next {
        return Err(format!("oldest {} is beyond next {}", oldest.next, next.next));
    }
    let padded: [u8; 64] = at(frame, 48)?;
    let name = std::str::from_utf8(&padded).map_err(|error| error.to_string())?.trim_end_matches('\0');
    let address = &frame[114.min(frame.len())..];
    if name.is_empty() || name.contains('\0') {
        return Err(format!("name {padded:02x?}"));
    }
    if !(1..=255).contains(&address.len()) || usize::from(u16::from_le_bytes(at(frame, 112)?)) != address.len() {
        return Err(format!("a replay address of {} bytes", address.len()));
    }
    let replay = String::from_utf8(address.to_vec()).map_err(|error| error.to_string())?;
    Ok(Head { stream, oldest, next, name: name.to_owned(), replay })
}

fn gap(stream: Stream, frame: &[u8]) -> Result<Gap, String> {
    let (from, to) = (u64_at(frame, 24)?, position(frame, 32)?);
    if from >= to.next {
        return Err(format!("a gap from {from} to {}", to.next));
    }
    let reason = match u32_at(frame, 44)? {
        1 => Reason::Retention,
        2 => Reason::Damage,
        other => return Err(format!("reason {other}")),
    };
    Ok(Gap { stream, from, to, reason })
}

/// Asks for blocks.
pub fn fetch(stream: Stream, from: Position, credit_bytes: u32) -> Vec<u8> {
    let mut bytes = [&b"DPF1\0\0\0\0"[..], &stream, &from.next.to_le_bytes(), &from.previous.to_le_bytes()].concat();
    bytes.extend(credit_bytes.to_le_bytes());
    bytes.extend(1_u32.to_le_bytes());
    seal(&mut bytes);
    bytes
}

/// Puts the checksum where it belongs.
pub fn seal(bytes: &mut [u8]) {
    let crc = crc32c(&[&bytes[..4], &bytes[8..]]);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
}

/// Checks what all formats begin with, and returns the stream.
pub(super) fn envelope(bytes: &[u8]) -> Result<Stream, String> {
    let stream = at(bytes, 8)?;
    let (found, computed) = (u32_at(bytes, 4)?, crc32c(&[&bytes[..4], &bytes[8..]]));
    if found == computed { Ok(stream) } else { Err(format!("checksum {found:08x}, not {computed:08x}")) }
}

pub(super) fn at<const N: usize>(bytes: &[u8], offset: usize) -> Result<[u8; N], String> {
    let field = bytes.get(offset..offset + N).ok_or_else(|| format!("ends before {}", offset + N))?;
    Ok(field.try_into().expect("that many bytes"))
}

pub(super) fn u32_at(bytes: &[u8], offset: usize) -> Result<u32, String> {
    Ok(u32::from_le_bytes(at(bytes, offset)?))
}

fn u64_at(bytes: &[u8], offset: usize) -> Result<u64, String> {
    Ok(u64::from_le_bytes(at(bytes, offset)?))
}

pub(super) fn position(bytes: &[u8], offset: usize) -> Result<Position, String> {
    Ok(Position { next: u64_at(bytes, offset)?, previous: u32_at(bytes, offset + 8)? })
}
