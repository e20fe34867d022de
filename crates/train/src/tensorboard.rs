//! TensorBoard's event files: records framed as `length, crc(length), data, crc(data)`, each with one protocol-buffer message
//! `Event`. Only the fields in use are encoded, by hand.

/// One value of a summary.
pub(crate) enum Summary<'a> {
    Scalar { tag: &'a str, value: f64 },
    Image { tag: &'a str, width: usize, height: usize, png: &'a [u8] },
}

/// The first record of a file.
pub(crate) fn header(wall_time: f64) -> Vec<u8> {
    let mut event = Message::default();
    event.double(1, wall_time).bytes(3, b"brain.Event:2");
    record(&event.0)
}

/// A record of summaries at `step`.
pub(crate) fn event(wall_time: f64, step: u64, summaries: &[Summary<'_>]) -> Vec<u8> {
    let mut list = Message::default();
    for summary in summaries {
        let mut value = Message::default();
        match summary {
            Summary::Scalar { tag, value: v } => {
                value.bytes(1, tag.as_bytes()).float(2, *v as f32);
            }
            Summary::Image { tag, width, height, png } => {
                let mut image = Message::default();
                image.varint(1, *height as u64).varint(2, *width as u64).varint(3, 3).bytes(4, png);
                value.bytes(1, tag.as_bytes()).bytes(4, &image.0);
            }
        }
        list.bytes(1, &value.0);
    }
    let mut event = Message::default();
    event.double(1, wall_time).varint(2, step).bytes(5, &list.0);
    record(&event.0)
}

fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut out = Vec::with_capacity(data.len() + 16);
    out.extend(length);
    out.extend(masked_crc(&length).to_le_bytes());
    out.extend(data);
    out.extend(masked_crc(data).to_le_bytes());
    out
}

/// TFRecord's mask, which keeps checksums of data with embedded checksums effective.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// A protocol-buffer message under construction.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn raw(&mut self, mut v: u64) -> &mut Self {
        while v >= 0x80 {
            self.0.push(v as u8 | 0x80);
            v >>= 7;
        }
        self.0.push(v as u8);
        self
    }

    fn varint(&mut self, field: u64, v: u64) -> &mut Self {
        self.raw(field << 3).raw(v)
    }

    fn double(&mut self, field: u64, v: f64) -> &mut Self {
        self.raw(field << 3 | 1).0.extend(v.to_le_bytes());
        self
    }

    fn bytes(&mut self, field: u64, v: &[u8]) -> &mut Self {
        self.raw(field << 3 | 2).raw(v.len() as u64).0.extend(v);
        self
    }

    fn float(&mut self, field: u64, v: f32) -> &mut Self {
        self.raw(field << 3 | 5).0.extend(v.to_le_bytes());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_framed_and_encoded() {
        // CRC-32C of "123456789" is e3069283 (RFC 3720, appendix B.4 lists its kin).
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        let bytes = event(1.5, 300, &[Summary::Scalar { tag: "a", value: 0.5 }]);
        let data = [
            &[0x09][..],
            &1.5f64.to_le_bytes(),
            &[0x10, 0xac, 0x02],
            &[0x2a, 10, 0x0a, 8, 0x0a, 1, b'a', 0x15],
            &0.5f32.to_le_bytes(),
        ]
        .concat();
        assert_eq!(bytes[..8], (data.len() as u64).to_le_bytes());
        assert_eq!(bytes[12..12 + data.len()], data);
        assert_eq!(bytes.len(), data.len() + 16);
        assert_eq!(bytes[12 + data.len()..], masked_crc(&data).to_le_bytes());
    }
}
