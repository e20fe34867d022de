//! The part of an image that is worked on, at the image's own resolution.

/// A rectangle of pixels that may reach beyond the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    /// The first row; negative above the image.
    pub top: isize,
    /// The first column.
    pub left: isize,
    pub height: usize,
    pub width: usize,
}

/// What sizes a network supports.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// Height and width that it was made for.
    pub native: [usize; 2],
    /// Whether it supports no others.
    pub fixed: bool,
    /// Both sides are multiples of this.
    pub unit: usize,
}

impl Window {
    /// A window around the rows `rows.0..rows.1` and such columns, for an image of `height × width` pixels: of the native
    /// size, or as much larger as the marked part with an eighth more on each side needs.
    ///
    /// # Errors
    /// If the network only supports a size that is too small.
    pub fn around(
        [rows, columns]: [(usize, usize); 2],
        [height, width]: [usize; 2],
        sizes: Sizes,
    ) -> Result<Self, String> {
        let side = |(from, to): (usize, usize), whole: usize, native: usize| {
            let marked = to - from;
            // Nothing is gained by context beyond the image.
            let context = (marked + 2 * marked.div_ceil(8)).min(whole.max(marked));
            let needed = if marked <= native && context > native { marked + 2 * CONTEXT } else { context };
            match sizes.fixed {
                true if marked > native => Err(format!(
                    "the part to change has {} × {} pixels (width × height), but this model only supports images of {} × {}",
                    columns.1 - columns.0,
                    rows.1 - rows.0,
                    sizes.native[1],
                    sizes.native[0]
                )),
                true => Ok(native),
                false => Ok(needed.max(native).next_multiple_of(sizes.unit)),
            }
        };
        let (tall, wide) = (side(rows, height, sizes.native[0])?, side(columns, width, sizes.native[1])?);
        Ok(Self {
            top: start(rows, tall, height),
            left: start(columns, wide, width),
            height: tall,
            width: wide,
        })
    }

    /// Number of pixels.
    pub fn area(&self) -> usize {
        self.height * self.width
    }

    /// The pixel of an image of `[height, width]` pixels that is seen at pixel `i` of the window: beyond the border the image
    /// is reflected. And whether pixel `i` lies within the image.
    pub fn pixel(&self, i: usize, [height, width]: [usize; 2]) -> (usize, bool) {
        let y = self.top + (i / self.width) as isize;
        let x = self.left + (i % self.width) as isize;
        let inside = (0..height as isize).contains(&y) && (0..width as isize).contains(&x);
        (reflected(y, height) * width + reflected(x, width), inside)
    }
}

/// The least context beside a part that alone fits the native size, in pixels.
const CONTEXT: usize = 4;

/// Where a window of `side` begins: centred about the part, moved into the image if it fits there, else about the image.
pub(super) fn start((from, to): (usize, usize), side: usize, whole: usize) -> isize {
    if side >= whole {
        return -(((side - whole) / 2) as isize);
    }
    ((from + to) as isize / 2 - side as isize / 2).clamp(0, (whole - side) as isize)
}

/// Reflection about the first and the last of `n` pixels.
pub(super) fn reflected(i: isize, n: usize) -> usize {
    if n == 1 {
        return 0;
    }
    let period = 2 * (n as isize - 1);
    let i = i.rem_euclid(period);
    i.min(period - i) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: Sizes = Sizes { native: [32, 32], fixed: false, unit: 8 };

    #[test]
    fn a_window_holds_the_marked_part_with_context() {
        let around = |rows, columns| Window::around([rows, columns], [100, 200], SIZES).unwrap();
        let small = around((50, 60), (190, 200));
        assert_eq!((small.height, small.width, small.left), (32, 32, 168));
        assert_eq!(small.top, 55 - 16);
        // 80 pixels and an eighth on each side are the image's 100, so 104 with reflected rows.
        let large = around((10, 90), (0, 16));
        assert_eq!((large.height, large.top, large.width, large.left), (104, -2, 32, 0));
        // Alone it would fill the native size without context.
        assert_eq!(around((40, 72), (40, 56)).height, 40);
        let fixed = Sizes { fixed: true, ..SIZES };
        let error = Window::around([(0, 40), (0, 8)], [100, 100], fixed).unwrap_err();
        assert!(error.contains("8 × 40") && error.contains("32 × 32"), "{error}");
    }

    #[test]
    fn images_are_reflected_beyond_their_border() {
        let all: Vec<usize> = (-4..8).map(|i| reflected(i, 4)).collect();
        assert_eq!(all, [2, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0, 1]);
        assert_eq!(reflected(-7, 1), 0);
    }
}
