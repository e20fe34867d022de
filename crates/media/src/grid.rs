//! Grids of images.

use crate::{Image, Rgb};

/// Arranges images in rows of `columns`, each centred in a cell of the largest width and height, with `gap` pixels of
/// background between and around the cells. Without images the result is empty.
pub fn grid(images: &[Image], columns: usize, gap: usize, background: Rgb) -> Image {
    let columns = columns.clamp(1, images.len().max(1));
    let rows = images.len().div_ceil(columns);
    let cell_width = images.iter().map(|i| i.width).max().unwrap_or(0);
    let cell_height = images.iter().map(|i| i.height).max().unwrap_or(0);
    if rows == 0 {
        return Image { width: 0, height: 0, pixels: Vec::new() };
    }
    let width = columns * (cell_width + gap) + gap;
    let height = rows * (cell_height + gap) + gap;
    let mut sheet = Image::filled(width, height, background);
    for (index, image) in images.iter().enumerate() {
        let left = gap + (index % columns) * (cell_width + gap) + (cell_width - image.width) / 2;
        let top = gap + (index / columns) * (cell_height + gap) + (cell_height - image.height) / 2;
        for (y, row) in image.pixels.chunks_exact(3 * image.width.max(1)).enumerate() {
            let start = 3 * ((top + y) * width + left);
            sheet.pixels[start..start + row.len()].copy_from_slice(row);
        }
    }
    sheet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_placed_and_centred() {
        let (red, green, black) = (Rgb([255, 0, 0]), Rgb([0, 255, 0]), Rgb([0; 3]));
        let images = [Image::filled(2, 2, red), Image::filled(4, 2, green), Image::filled(2, 2, red)];
        let sheet = grid(&images, 2, 1, black);
        assert_eq!((sheet.width, sheet.height), (11, 7));
        assert_eq!(sheet.pixel(1, 1), black.0);
        assert_eq!(sheet.pixel(2, 1), red.0);
        assert_eq!(sheet.pixel(6, 2), green.0);
        assert_eq!(sheet.pixel(3, 5), red.0);
        assert_eq!(sheet.pixel(10, 6), black.0);
        assert_eq!(grid(&[], 4, 1, black).pixels.len(), 0);
        assert_eq!(grid(&images[..1], 0, 0, black), images[0]);
    }
}
