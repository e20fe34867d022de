//! Edges: Canny 1986, as OpenCV's `cv2.Canny(image, low, high)` finds them, bit for bit.

use crate::Image;

/// `tan 22.5°` in units of 2⁻¹⁵.
const TANGENT: i64 = 13573;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    None,
    Weak,
    Edge,
}

impl Image {
    /// White edges on black. Gradients (the sum of the magnitudes of both Sobel filters, of the channel in which it is the
    /// largest, up to 2040) above `high` are edges, and those above `low` that are connected to edges.
    #[must_use]
    pub fn edges(&self, low: f64, high: f64) -> Self {
        let (low, high) = (low.min(high).floor(), low.max(high).floor());
        let gradients = gradients(self);
        let at = |x: i64, y: i64| match self.index(x, y) {
            Some(i) => f64::from(gradients[i][0].abs() + gradients[i][1].abs()),
            None => 0.0,
        };
        let mut marks = vec![Mark::None; gradients.len()];
        let mut open = Vec::new();
        for (i, &[dx, dy]) in gradients.iter().enumerate() {
            let [x, y] = [i % self.width, i / self.width].map(|n| n as i64);
            let own = at(x, y);
            if own <= low {
                continue;
            }
            let (across, down) = (i64::from(dx.abs()), i64::from(dy.abs()) << 15);
            let (flat, steep) = (across * TANGENT, across * TANGENT + (across << 16));
            let largest = if down < flat {
                own > at(x - 1, y) && own >= at(x + 1, y)
            } else if down > steep {
                own > at(x, y - 1) && own >= at(x, y + 1)
            } else {
                let side = if (dx ^ dy) < 0 { -1 } else { 1 };
                own > at(x - side, y - 1) && own > at(x + side, y + 1)
            };
            if largest {
                marks[i] = if own > high { Mark::Edge } else { Mark::Weak };
                open.extend((own > high).then_some([x, y]));
            }
        }
        while let Some([x, y]) = open.pop() {
            for (dx, dy) in (-1..=1).flat_map(|dy| (-1..=1).map(move |dx| (dx, dy))) {
                if let Some(i) = self.index(x + dx, y + dy).filter(|i| marks[*i] == Mark::Weak) {
                    marks[i] = Mark::Edge;
                    open.push([x + dx, y + dy]);
                }
            }
        }
        let pixels = marks.iter().flat_map(|mark| [if *mark == Mark::Edge { 255 } else { 0 }; 3]);
        Self { pixels: pixels.collect(), ..*self }
    }

    fn index(&self, x: i64, y: i64) -> Option<usize> {
        let inside = |n: i64, size: usize| usize::try_from(n).ok().filter(|n| *n < size);
        Some(inside(y, self.height)? * self.width + inside(x, self.width)?)
    }
}

/// Sobel's filters at each pixel, of the channel with the largest sum of magnitudes. Pixels beyond the border are as at the
/// border.
fn gradients(image: &Image) -> Vec<[i32; 2]> {
    let (width, height) = (image.width, image.height);
    let of = |x: usize, y: usize| {
        let column = |dx: i32| (x as i64 + i64::from(dx)).clamp(0, width as i64 - 1) as usize;
        let row = |dy: i32| (y as i64 + i64::from(dy)).clamp(0, height as i64 - 1) as usize;
        let one = |c: usize| {
            let v = |dx: i32, dy: i32| i32::from(image.pixels[3 * (row(dy) * width + column(dx)) + c]);
            let side = |d: i32| [v(d, -1) + 2 * v(d, 0) + v(d, 1), v(-1, d) + 2 * v(0, d) + v(1, d)];
            let ([right, below], [left, above]) = (side(1), side(-1));
            [right - left, below - above]
        };
        let size = |g: &[i32; 2]| g[0].abs() + g[1].abs();
        // Of equal ones the first.
        (1..3).map(one).fold(one(0), |most, next| if size(&next) > size(&most) { next } else { most })
    };
    (0..width * height).map(|i| of(i % width, i / width)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// `tests/goldens/canny.py` made the edges.
    #[test]
    fn edges_are_those_of_opencv() {
        let golden: Value = serde_json::from_str(include_str!("../tests/goldens/canny.json")).unwrap();
        let mut seen = 0;
        for case in golden["cases"].as_array().unwrap() {
            let number = |key: &str| case[key].as_u64().unwrap() as usize;
            let (width, height) = (number("width"), number("height"));
            let pixel = |i: usize| {
                let (x, y) = (i % width, i / width);
                [0, 1, 2]
                    .map(|c| ((x * x * (c + 1) + 3 * y * y + x * y * c + 40 * (x / 5 + y / 7)) % 256) as u8)
            };
            let image = Image { width, height, pixels: (0..width * height).flat_map(pixel).collect() };
            let rows: Vec<&str> =
                case["edges"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
            let edges = image.edges(case["low"].as_f64().unwrap(), case["high"].as_f64().unwrap());
            let found: Vec<String> = (edges.pixels.chunks(3 * width))
                .map(|row| row.chunks(3).map(|p| if p == [255; 3] { '#' } else { '.' }).collect())
                .collect();
            assert_eq!(found, rows, "{width}×{height}");
            seen += 1;
        }
        assert!(seen >= 5);
    }
}
