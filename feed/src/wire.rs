//! What all formats share: the envelope of magic and checksum, little-endian integers, varints.

use crate::StreamId;

/// Bytes before those that only the kind knows: magic, crc32c, stream.
pub(crate) const ENVELOPE_BYTES: usize = 24;
/// A varint of 64 bits takes at most this many bytes.
const VARINT_BYTES_MAX: usize = 10;

/// Why bytes are not what they were taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end before the format does.
    #[error("cut short: {0} bytes")]
    Short(usize),
    /// The bytes go on after the format has ended.
    #[error("{0} bytes too many")]
    Long(usize),
    /// Another kind of thing, or none of ours.
    #[error("not a {kind}: begins with {found:02x?}")]
    Kind {
        /// What was expected.
        kind: &'static str,
        /// The first bytes.
        found: [u8; 4],
    },
    /// The right kind in a version that this program does not know.
    #[error("a {kind} of version {:?}: upgrade to read it", char::from(*version))]
    Version {
        /// What it is.
        kind: &'static str,
        /// The letter of its version.
        version: u8,
    },
    /// The checksum is another one.
    #[error("checksum {found:08x}, but the bytes have {computed:08x}")]
    Checksum {
        /// The field.
        found: u32,
        /// What it should be.
        computed: u32,
    },
    /// A field has a value that the format does not allow.
    #[error("{field} is {value}, which is out of bounds")]
    Bounds {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// A field that holds text does not hold UTF-8, or not as it must be written.
    #[error("{0} is not text as it must be written")]
    Text(&'static str),
    /// A number is written in more bytes than it needs, or in more than there can be.
    #[error("a varint is not written as it must be")]
    Varint,
    /// A record was published before the one in front of it.
    #[error("record {0} of a block goes back in time")]
    Time(u32),
}

/// A kind of format: its name for people, and the magic of its current version.
#[derive(Clone, Copy)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) magic: [u8; 4],
}

impl Kind {
    /// Begins an encoding: the envelope, its checksum still open.
    pub(crate) fn begin(self, stream: StreamId, capacity: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(capacity);
        bytes.extend(self.magic);
        bytes.extend([0; 4]);
        bytes.extend(stream.0);
        bytes
    }

    /// Checks magic and version of what may be of this kind.
    pub(crate) fn check_magic(self, bytes: &[u8]) -> Result<(), DecodeError> {
        let found: [u8; 4] = *bytes.first_chunk().ok_or(DecodeError::Short(bytes.len()))?;
        if found == self.magic {
            Ok(())
        } else if found[..3] == self.magic[..3] {
            Err(DecodeError::Version { kind: self.name, version: found[3] })
        } else {
            Err(DecodeError::Kind { kind: self.name, found })
        }
    }

    /// Opens an encoding of this kind: checks its envelope, and reads on behind it.
    pub(crate) fn open(self, bytes: &[u8]) -> Result<(StreamId, Reader<'_>), DecodeError> {
        let known = self.check_magic(bytes);
        if matches!(known, Err(DecodeError::Kind { .. })) {
            known?;
        }
        if bytes.len() < ENVELOPE_BYTES {
            return Err(DecodeError::Short(bytes.len()));
        }
        // Only what is whole is of another version; else it is damaged.
        check(bytes)?;
        known?;
        let mut reader = Reader(&bytes[8..]);
        Ok((StreamId(reader.array()?), reader))
    }
}

/// Writes the checksum of a whole encoding into its field, and returns it.
pub(crate) fn seal(bytes: &mut [u8]) -> u32 {
    let checksum = checksum(bytes);
    bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
    checksum
}

/// Compares the checksum of a whole encoding, at least 8 bytes, with its field, and returns it.
pub(crate) fn check(bytes: &[u8]) -> Result<u32, DecodeError> {
    let found = u32_at(bytes, 4);
    let computed = checksum(bytes);
    if found == computed { Ok(found) } else { Err(DecodeError::Checksum { found, computed }) }
}

/// The checksum of a whole encoding, at least 8 bytes.
pub(crate) fn checksum(bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..4]), &bytes[8..])
}

/// The integer at an offset that the caller has seen to be inside.
pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[offset..offset + 4]);
    u32::from_le_bytes(field)
}

/// Takes fields off the front of bytes.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(DecodeError::Short(self.0.len()))?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(DecodeError::Short(self.0.len()))?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn i64(&mut self) -> Result<i64, DecodeError> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    /// LEB128, in as few bytes as the number takes.
    #[inline]
    pub(crate) fn varint(&mut self) -> Result<u64, DecodeError> {
        // Most numbers are short.
        match *self.0 {
            [byte, ref rest @ ..] if byte < 0x80 => {
                self.0 = rest;
                Ok(byte.into())
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0_u64;
        for index in 0..VARINT_BYTES_MAX {
            let [byte] = self.array()?;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit, and a last byte of zero says nothing.
            if (index == VARINT_BYTES_MAX - 1 && byte > 1) || (index > 0 && byte == 0) {
                return Err(DecodeError::Varint);
            }
            value |= bits << (7 * index);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::Varint)
    }

    /// A signed number in a varint, small ones of either sign short (zigzag).
    pub(crate) fn zigzag(&mut self) -> Result<i64, DecodeError> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// That nothing is left.
    pub(crate) fn end(self) -> Result<(), DecodeError> {
        if self.0.is_empty() { Ok(()) } else { Err(DecodeError::Long(self.0.len())) }
    }
}

pub(crate) fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(crate) fn put_zigzag(value: i64, out: &mut Vec<u8>) {
    put_varint((value << 1 ^ value >> 63) as u64, out);
}

/// How many bytes [`put_varint`] appends.
pub(crate) fn varint_bytes(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn varint(bytes: &[u8]) -> Result<(u64, usize), DecodeError> {
        let mut reader = Reader(bytes);
        Ok((reader.varint()?, reader.0.len()))
    }

    #[test]
    fn varints_are_as_protocol_buffers_write_them() {
        let encoded = |value| {
            let mut out = Vec::new();
            put_varint(value, &mut out);
            out
        };
        assert_eq!(encoded(0), [0]);
        assert_eq!(encoded(127), [0x7f]);
        assert_eq!(encoded(300), [0xac, 0x02]);
        assert_eq!(encoded(u64::MAX), [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]);
        let zigzag = |value| {
            let mut out = Vec::new();
            put_zigzag(value, &mut out);
            out
        };
        assert_eq!([zigzag(0), zigzag(-1), zigzag(1), zigzag(-2)].concat(), [0, 1, 2, 3]);
    }

    #[test]
    fn a_varint_has_one_form() {
        assert_eq!(varint(&[0x80, 0x00]), Err(DecodeError::Varint));
        assert_eq!(varint(&[0xff; 10]), Err(DecodeError::Varint));
        assert_eq!(varint(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x02]), Err(DecodeError::Varint));
        assert_eq!(varint(&[0x80]), Err(DecodeError::Short(0)));
        assert_eq!(varint(&[]), Err(DecodeError::Short(0)));
    }

    proptest! {
        #[test]
        fn numbers_read_back(value in any::<u64>(), shift in 0..64_u32, signed in any::<i64>()) {
            let value = value >> shift;
            let mut out = Vec::new();
            put_varint(value, &mut out);
            prop_assert_eq!(out.len(), varint_bytes(value));
            prop_assert_eq!(varint(&out), Ok((value, 0)));
            out.clear();
            put_zigzag(signed, &mut out);
            let mut reader = Reader(&out);
            prop_assert_eq!(reader.zigzag(), Ok(signed));
        }
    }
}
