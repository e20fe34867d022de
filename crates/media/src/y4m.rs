//! YUV4MPEG2: uncompressed frames behind a line of text, which every video program reads. 8 bits per value, BT.601.

use std::io::{BufRead, Read};

use crate::Image;

/// Longest header, and largest width and height.
const LINE: u64 = 4096;
const MOST: usize = 1 << 14;

/// How the frames store colours: 4:2:0, 4:2:2, 4:4:4 or grey.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chroma {
    /// Colours of `1 << x` columns and `1 << y` rows are one.
    Shared([usize; 2]),
    None,
}

/// Reads frames one after another, so that memory does not grow with their number.
pub struct Y4mReader<R> {
    from: R,
    width: usize,
    height: usize,
    chroma: Chroma,
    /// Whether values use 0 to 255 instead of 16 to 235.
    full: bool,
    fps: [u32; 2],
}

impl<R: BufRead> Y4mReader<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// If it is not that of a file with 8 bits per value; says what is wrong.
    pub fn new(mut from: R) -> Result<Self, String> {
        let line = line(&mut from)?.ok_or("the file is empty")?;
        let mut words = line.split(' ');
        if words.next() != Some("YUV4MPEG2") {
            return Err("not a YUV4MPEG2 file".into());
        }
        let (mut width, mut height, mut fps) = (0, 0, [25, 1]);
        let (mut chroma, mut full) = (Chroma::Shared([1, 1]), false);
        for word in words.filter(|word| !word.is_empty()) {
            let (key, value) = word.split_at_checked(1).unwrap_or((word, ""));
            match key {
                "W" => width = value.parse().unwrap_or(0),
                "H" => height = value.parse().unwrap_or(0),
                "F" => {
                    let (a, b) = value.split_once(':').unwrap_or((value, "1"));
                    fps = [a.parse().unwrap_or(0), b.parse().unwrap_or(0)];
                }
                "C" => chroma = chroma_of(value)?,
                "I" if !matches!(value, "p" | "?") => {
                    return Err("interlaced frames are not supported".into());
                }
                "X" if value == "COLORRANGE=FULL" => full = true,
                _ => {}
            }
        }
        if !(1..=MOST).contains(&width) || !(1..=MOST).contains(&height) {
            return Err(format!("frames of {width}×{height} pixels: expected sides from 1 to {MOST}"));
        }
        if fps[0] == 0 || fps[1] == 0 {
            return Err("the frame rate is not a positive fraction".into());
        }
        Ok(Self { from, width, height, chroma, full, fps })
    }

    /// Width and height of the frames.
    pub fn size(&self) -> [usize; 2] {
        [self.width, self.height]
    }

    /// Milliseconds per frame.
    pub fn delay(&self) -> f64 {
        1000.0 * f64::from(self.fps[1]) / f64::from(self.fps[0])
    }

    /// The next frame; `None` at the end.
    ///
    /// # Errors
    /// If the file ends within a frame, or cannot be read.
    pub fn frame(&mut self) -> Result<Option<Image>, String> {
        let Some(line) = line(&mut self.from)? else { return Ok(None) };
        if !line.starts_with("FRAME") {
            return Err("a frame does not begin with `FRAME`: the file is damaged".into());
        }
        let (w, h) = (self.width, self.height);
        let [cw, ch] = match self.chroma {
            Chroma::Shared([x, y]) => [w.div_ceil(1 << x), h.div_ceil(1 << y)],
            Chroma::None => [0, 0],
        };
        let mut values = vec![0; w * h + 2 * cw * ch];
        self.from.read_exact(&mut values).map_err(|_| "the file ends within a frame".to_owned())?;
        let (luma, colours) = values.split_at(w * h);
        let (blue, red) = colours.split_at(cw * ch);
        let pixel = |i: usize| {
            let (x, y) = (i % w, i / w);
            let at = |plane: &[u8]| match self.chroma {
                Chroma::Shared([sx, sy]) => plane[(y >> sy) * cw + (x >> sx)],
                Chroma::None => 128,
            };
            to_rgb([luma[i], at(blue), at(red)], self.full)
        };
        Ok(Some(Image { width: w, height: h, pixels: (0..w * h).flat_map(pixel).collect() }))
    }
}

fn chroma_of(name: &str) -> Result<Chroma, String> {
    match name {
        "420" | "420jpeg" | "420mpeg2" | "420paldv" => Ok(Chroma::Shared([1, 1])),
        "422" => Ok(Chroma::Shared([1, 0])),
        "444" => Ok(Chroma::Shared([0, 0])),
        "mono" => Ok(Chroma::None),
        other => Err(format!(
            "the colours are stored as `{other}`: expected 8 bits per value in 420, 422, 444 or mono"
        )),
    }
}

/// A line without its end; `None` at the end of the file.
fn line(from: &mut impl BufRead) -> Result<Option<String>, String> {
    let mut bytes = Vec::new();
    from.take(LINE).read_until(b'\n', &mut bytes).map_err(|e| e.to_string())?;
    if bytes.is_empty() {
        return Ok(None);
    }
    if bytes.pop() != Some(b'\n') {
        return Err("a header without an end".into());
    }
    String::from_utf8(bytes).map(Some).map_err(|_| "a header that is not text".into())
}

fn to_rgb([y, b, r]: [u8; 3], full: bool) -> [u8; 3] {
    let (y, b, r) = (f64::from(y), f64::from(b) - 128.0, f64::from(r) - 128.0);
    let (y, c) = if full { (y, 1.0) } else { ((y - 16.0) * 255.0 / 219.0, 255.0 / 224.0) };
    let byte = |v: f64| v.round().clamp(0.0, 255.0) as u8;
    [
        byte(y + 1.402 * c * r),
        byte(y - 0.344_136_286 * c * b - 0.714_136_286 * c * r),
        byte(y + 1.772 * c * b),
    ]
}

fn to_yuv(pixel: &[u8]) -> [u8; 3] {
    let [r, g, b] = [0, 1, 2].map(|c| f64::from(pixel[c]));
    let y = 0.299 * r + 0.587 * g + 0.114 * b;
    let byte = |v: f64| v.round().clamp(0.0, 255.0) as u8;
    [
        byte(16.0 + y * 219.0 / 255.0),
        byte(128.0 + (b - y) / 1.772 * 224.0 / 255.0),
        byte(128.0 + (r - y) / 1.402 * 224.0 / 255.0),
    ]
}

/// Encodes frames of one size as 4:4:4; they last `delay` milliseconds each.
pub(crate) fn encode(frames: &[Image], (width, height): (u32, u32), delay: u16) -> Vec<u8> {
    let rate = match 1000 % delay.max(1) {
        0 => format!("{}:1", 1000 / delay.max(1)),
        _ => format!("1000:{}", delay.max(1)),
    };
    let mut out = format!("YUV4MPEG2 W{width} H{height} F{rate} Ip A1:1 C444\n").into_bytes();
    for frame in frames {
        out.extend(b"FRAME\n");
        let values: Vec<[u8; 3]> = frame.pixels.chunks_exact(3).map(to_yuv).collect();
        (0..3).for_each(|c| out.extend(values.iter().map(|v| v[c])));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames() -> Vec<Image> {
        let pixel = |f: usize, i: usize| [(70 * i) as u8, (90 * f) as u8, (255 - 40 * i) as u8];
        let image = |f: usize| (0..15).flat_map(|i| pixel(f, i % 4)).collect();
        (0..3).map(|f| Image { width: 5, height: 3, pixels: image(f) }).collect()
    }

    #[test]
    fn frames_come_back_nearly_exactly() {
        let bytes = encode(&frames(), (5, 3), 40);
        let mut reader = Y4mReader::new(&bytes[..]).unwrap();
        assert_eq!((reader.size(), reader.delay()), ([5, 3], 40.0));
        for expected in frames() {
            let found = reader.frame().unwrap().unwrap();
            let off = found.pixels.iter().zip(&expected.pixels).map(|(a, b)| a.abs_diff(*b)).max();
            assert!(off <= Some(2), "{off:?}");
        }
        assert_eq!(reader.frame().unwrap(), None);
        assert!(bytes.starts_with(b"YUV4MPEG2 W5 H3 F25:1 "));
        assert!(encode(&frames(), (5, 3), 33).starts_with(b"YUV4MPEG2 W5 H3 F1000:33 "));
    }

    #[test]
    fn other_colours_are_read() {
        // White, black, and a colour shared by all four pixels of 4:2:0; an odd side has a column of its own.
        let file =
            [&b"YUV4MPEG2 W3 H1 F30000:1001 C420jpeg\nFRAME Ip\n"[..], &[235, 16, 81, 128, 90, 128, 240]]
                .concat();
        let mut reader = Y4mReader::new(&file[..]).unwrap();
        let frame = reader.frame().unwrap().unwrap();
        assert_eq!(frame.pixels, [255, 255, 255, 0, 0, 0, 254, 0, 0]);
        assert!((reader.delay() - 33.3667).abs() < 1e-3);
        let file = b"YUV4MPEG2 W2 H1 F1:1 Cmono XCOLORRANGE=FULL\nFRAME\n\x07\xff";
        assert_eq!(
            Y4mReader::new(&file[..]).unwrap().frame().unwrap().unwrap().pixels,
            [7, 7, 7, 255, 255, 255]
        );
    }

    #[test]
    fn damage_is_named() {
        let error = |bytes: &[u8]| match Y4mReader::new(bytes) {
            Err(e) => e,
            Ok(mut reader) => reader.frame().unwrap_err(),
        };
        assert!(error(b"").contains("empty"));
        assert!(error(b"text\n").contains("not a YUV4MPEG2 file"));
        assert!(error(b"YUV4MPEG2 W0 H4\n").contains("0×4"));
        assert!(error(b"YUV4MPEG2 W99999 H4\n").contains("99999×4"));
        assert!(error(b"YUV4MPEG2 W2 H2 F0:1\n").contains("frame rate"));
        assert!(error(b"YUV4MPEG2 W2 H2 C420p10\n").contains("`420p10`"));
        assert!(error(b"YUV4MPEG2 W2 H2 It\n").contains("interlaced"));
        assert!(error(b"YUV4MPEG2 W2 H2 Cmono\nFRAME\nabc").contains("ends within a frame"));
        assert!(error(b"YUV4MPEG2 W2 H2 Cmono\nfoo\n").contains("damaged"));
        assert!(error(&[b'a'; 9000]).contains("without an end"));
    }
}
