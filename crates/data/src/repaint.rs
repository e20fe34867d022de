//! Emoji in other colours. Unicode has a blue heart but no blue cat: a model that should put any colour on any thing has
//! to see some of these pairs.

use crate::resize::Raster;

/// A colour that an emoji can be repainted in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Paint {
    /// Its name in captions.
    pub name: &'static str,
    /// sRGB: the colour of the artwork's heart or circle of this name.
    pub color: [u8; 3],
}

const fn paint(name: &'static str, color: [u8; 3]) -> Paint {
    Paint { name, color }
}

/// All colours.
pub(crate) const PAINTS: [Paint; 8] = [
    paint("red", [0xdd, 0x2e, 0x44]),
    paint("orange", [0xf4, 0x90, 0x0c]),
    paint("yellow", [0xfd, 0xcb, 0x58]),
    paint("green", [0x78, 0xb1, 0x59]),
    paint("blue", [0x55, 0xac, 0xee]),
    paint("purple", [0xaa, 0x8e, 0xd6]),
    paint("pink", [0xf4, 0xab, 0xba]),
    paint("black", [0x31, 0x37, 0x3d]),
];

/// Words in names that say a colour. They are dropped from the name of what is repainted.
const COLORS: [&str; 12] = [
    "red", "orange", "yellow", "green", "blue", "purple", "pink", "black", "white", "brown", "grey", "light",
];

/// The name without its colours: `heart` of `light blue heart`. None if nothing but colours remains, as of the fruit `orange`.
pub(crate) fn plain_name(name: &str) -> Option<String> {
    let words: Vec<&str> = name.split(' ').filter(|word| !COLORS.contains(word)).collect();
    (!words.is_empty()).then(|| words.join(" "))
}

/// Gives an image the hue and the saturation of `color`. The lightness of its median pixel becomes that of the colour, and
/// differences in lightness are kept, so that white eyes stay light and outlines dark.
pub(crate) fn repaint(raster: &mut Raster, color: [u8; 3]) {
    let lightness = |p: &[u8]| {
        let (low, high) = (p[..3].iter().min(), p[..3].iter().max());
        f32::from(u16::from(*low.unwrap_or(&0)) + u16::from(*high.unwrap_or(&0))) / 510.0
    };
    let mut seen: Vec<f32> = raster.rgba.chunks_exact(4).filter(|p| p[3] > 127).map(lightness).collect();
    seen.sort_unstable_by(f32::total_cmp);
    let Some(&median) = seen.get(seen.len() / 2) else { return };
    let target = lightness(&color);
    // The colour is its lightness plus chroma times a direction; chroma is largest at lightness 1/2 (HSL).
    let room = |l: f32| 1.0 - (2.0 * l - 1.0).abs();
    let direction = color.map(|c| (f32::from(c) / 255.0 - target) / room(target).max(1e-3));
    for pixel in raster.rgba.chunks_exact_mut(4) {
        let l = (target + lightness(pixel) - median).clamp(0.0, 1.0);
        for (value, along) in pixel.iter_mut().zip(direction) {
            *value = ((l + room(l) * along) * 255.0).round().clamp(0.0, 255.0) as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raster(pixels: &[[u8; 4]]) -> Raster {
        Raster { width: pixels.len(), height: 1, rgba: pixels.concat(), _lent: None }
    }

    #[test]
    fn the_body_takes_the_colour_and_the_rest_its_lightness() {
        let (body, white, dark, clear) =
            ([255, 204, 77, 255], [255, 255, 255, 255], [60, 40, 10, 255], [1, 2, 3, 0]);
        let mut image = raster(&[body, body, body, white, dark, clear]);
        for paint in PAINTS {
            let mut image = raster(image.rgba.as_chunks::<4>().0);
            repaint(&mut image, paint.color);
            let near = image.rgba[..3].iter().zip(paint.color).all(|(a, b)| a.abs_diff(b) <= 1);
            assert!(near, "{}: {:?}", paint.name, &image.rgba[..3]);
            assert_eq!(image.rgba[23], 0, "transparent pixels stay transparent");
            let sum = |at: usize| image.rgba[4 * at..4 * at + 3].iter().map(|&v| u32::from(v)).sum::<u32>();
            assert!(sum(3) > sum(0) && sum(4) < sum(0), "{}", paint.name);
        }
        // A colour without chroma.
        repaint(&mut image, [0, 0, 0]);
        assert_eq!(image.rgba[..3], [0, 0, 0]);
    }

    #[test]
    fn names_without_their_colours() {
        assert_eq!(plain_name("light blue heart").as_deref(), Some("heart"));
        assert_eq!(plain_name("cat face").as_deref(), Some("cat face"));
        assert_eq!(plain_name("orange"), None);
    }
}
