//! Where an image is changed, and how much.

use std::path::Path;

use tweedie_data::open_picture;
use tweedie_media::Picture;

use super::MaskSpec;
use crate::PipelineError;

/// The part to change, pixel by pixel of the extended image: 0 is kept, 1 is made from noise, and values between are changed
/// as if by this strength.
///
/// # Errors
/// If a file cannot be read or has another size, a shape lies outside, or nothing or everything is marked.
pub(super) fn change(mask: &MaskSpec, picture: &Picture) -> Result<Vec<f32>, PipelineError> {
    let fail = |reason: String| PipelineError::request("mask", reason);
    if mask.feather > MOST_FEATHER {
        return Err(fail(format!("`feather` {}: expected at most {MOST_FEATHER} pixels", mask.feather)));
    }
    if !mask.gaps.is_empty() {
        return Err(fail("gaps in time are parts of sounds and clips, but this model makes images".into()));
    }
    if mask.between > 0 || mask.close > 0 {
        return Err(fail("new frames are parts of clips, but this model makes images".into()));
    }
    let (width, height) = (picture.width(), picture.height());
    let mut own = vec![0.0f32; width * height];
    for file in &mask.files {
        file.check()?;
        let marks = of_file(&file.path, [width, height])?;
        own.iter_mut().zip(marks).for_each(|(m, v)| *m = m.max(v));
    }
    if mask.transparent {
        if !picture.is_transparent() {
            return Err(fail("the image has no transparent pixels to fill".into()));
        }
        own.iter_mut().enumerate().for_each(|(i, m)| *m = m.max(1.0 - picture.opacity(i)));
    }
    for (shapes, round) in [(&mask.rectangles, false), (&mask.ellipses, true)] {
        for shape in shapes {
            mark(&mut own, [width, height], *shape, round).map_err(fail)?;
        }
    }
    let [left, top, right, bottom] = mask.extend;
    let all = [left, right, top, bottom].into_iter().try_fold(0usize, usize::checked_add);
    if all.is_none_or(|all| all > MOST_EXTENSION) {
        return Err(fail(format!("`extend` {:?}: expected at most {MOST_EXTENSION} pixels", mask.extend)));
    }
    let (wide, high) = (left + width + right, top + height + bottom);
    let mut change = vec![1.0; wide * high];
    for (y, row) in own.chunks_exact(width).enumerate() {
        let start = (top + y) * wide + left;
        change[start..start + width].copy_from_slice(row);
    }
    if change.iter().all(|m| *m == 0.0) {
        return Err(fail("it marks no pixel; white or transparent pixels of a mask are changed".into()));
    }
    Ok(change)
}

/// Maximum width of the feather.
const MOST_FEATHER: usize = 256;
/// Maximum sum of all sides of an extension.
const MOST_EXTENSION: usize = 1 << 14;

fn of_file(path: &Path, [width, height]: [usize; 2]) -> Result<Vec<f32>, PipelineError> {
    let fail = |reason: String| PipelineError::request("mask", format!("{}: {reason}", path.display()));
    let mask = open_picture(path).map_err(|e| PipelineError::request("mask", e.to_string()))?;
    if (mask.width(), mask.height()) != (width, height) {
        let found = format!("{}×{}", mask.width(), mask.height());
        return Err(fail(format!(
            "{found} pixels, but the image has {width}×{height}; expected the same size"
        )));
    }
    let area = width * height;
    let grey = |i: usize| {
        let pixel = &mask.pixel(i)[..mask.colors()];
        pixel.iter().all(|v| *v == pixel[0]).then_some(pixel[0])
    };
    if mask.is_transparent() {
        let varies = |i: usize| {
            mask.opacity(i) > 0.0
                && mask.pixel(i)[..mask.colors()] != mask.pixel(seen(&mask))[..mask.colors()]
        };
        let picture_of_something = (0..area).any(|i| grey(i).is_none());
        if !picture_of_something && (0..area).any(varies) {
            return Err(fail(
                "both its grey values and its transparency mark pixels; expected a grey image without transparency, or \
                 one in which only the transparency matters"
                    .into(),
            ));
        }
        return Ok((0..area).map(|i| 1.0 - mask.opacity(i)).collect());
    }
    let most = f32::from(mask.depth().most());
    let level = |i| grey(i).map(|v| f32::from(v) / most);
    (0..area).map(level).collect::<Option<_>>().ok_or_else(|| {
        fail(
            "it has colours; expected a grey image, white where the image is changed, or transparent pixels"
                .into(),
        )
    })
}

/// The first pixel of a mask that can be seen.
fn seen(mask: &Picture) -> usize {
    (0..mask.width() * mask.height()).find(|i| mask.opacity(*i) > 0.0).unwrap_or(0)
}

/// Marks a rectangle, or the ellipse that fills it.
fn mark(
    change: &mut [f32],
    [width, height]: [usize; 2],
    shape: [usize; 4],
    round: bool,
) -> Result<(), String> {
    let [left, top, wide, high] = shape;
    let name = if round { "ellipse" } else { "rectangle" };
    let ends = (
        left.checked_add(wide).filter(|end| *end <= width),
        top.checked_add(high).filter(|end| *end <= height),
    );
    let (Some(right), Some(bottom), true) = (ends.0, ends.1, wide > 0 && high > 0) else {
        return Err(format!(
            "{name} {left},{top},{wide},{high}: expected left, top, width and height within the image of \
             {width}×{height} pixels"
        ));
    };
    let inside = |x: usize, y: usize| {
        let from_centre =
            |i: usize, start: usize, n: usize| ((i - start) as f64 + 0.5) / (n as f64 / 2.0) - 1.0;
        !round || from_centre(x, left, wide).hypot(from_centre(y, top, high)) <= 1.0
    };
    for y in top..bottom {
        for x in (left..right).filter(|x| inside(*x, y)) {
            change[y * width + x] = 1.0;
        }
    }
    Ok(())
}
