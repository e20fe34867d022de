//! Grids of images with labels.

use std::sync::Once;

use plotters::{
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};
use tweedie::data::{Image, Rgb};

/// Registers a built-in font as `sans-serif`.
pub fn font() {
    static FONT: Once = Once::new();
    FONT.call_once(|| {
        let _ = plotters::style::register_font("sans-serif", FontStyle::Normal, dejavu::sans::regular());
    });
}

/// An image and its caption.
#[derive(Clone, Debug)]
pub struct Cell {
    pub image: Image,
    pub caption: String,
}

/// Rows of cells, some of which may be empty. All images have the same size.
#[derive(Clone, Debug)]
pub struct Sheet {
    pub columns: Vec<String>,
    pub rows: Vec<(String, Vec<Option<Cell>>)>,
}

const GAP: usize = 8;
/// Margin above and below the header.
const MARGIN: usize = 6;
const LINE: usize = 18;
const CAPTION: usize = 22;
const LETTER: usize = 9;
const PAPER: Rgb = Rgb([255; 3]);

impl Sheet {
    /// Draws the grid.
    pub fn draw(&self) -> Result<Image, String> {
        let cells = || self.rows.iter().flat_map(|(_, cells)| cells.iter().flatten());
        let (mut wide, mut high) = (0, 0);
        for cell in cells() {
            wide = wide.max(cell.image.width).max(cell.caption.chars().count() * LETTER);
            high = high.max(cell.image.height);
        }
        let words = || self.columns.iter().flat_map(|name| name.split(' '));
        wide = words().map(|word| word.chars().count() * LETTER).fold(wide, usize::max);
        let headers: Vec<Vec<String>> =
            self.columns.iter().map(|name| wrapped(name, wide / LETTER)).collect();
        let header = 2 * MARGIN + LINE * headers.iter().map(Vec::len).max().unwrap_or(0);
        let left =
            self.rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0) * LETTER + 2 * GAP;
        let (across, down) = (wide + GAP, high + CAPTION + GAP);
        let (width, height) = (left + across * self.columns.len(), header + down * self.rows.len());
        let mut sheet = Image::filled(width, height, PAPER);
        let centre = |column: usize| (left + column * across + wide / 2) as i32;
        let mut texts = Vec::new();
        for (column, lines) in headers.iter().enumerate() {
            let first = (header + LINE - LINE * lines.len()) / 2;
            for (line, text) in lines.iter().enumerate() {
                let place = (centre(column), (first + LINE * line) as i32);
                texts.push((text.as_str(), place, HPos::Center));
            }
        }
        for (row, (name, cells)) in self.rows.iter().enumerate() {
            let top = header + row * down;
            texts.push((name.as_str(), (GAP as i32, (top + high / 2) as i32), HPos::Left));
            for (column, cell) in cells.iter().enumerate() {
                let Some(Cell { image, caption }) = cell else { continue };
                let place = (left + column * across + (wide - image.width) / 2, top);
                paste(&mut sheet, image, place);
                texts.push((caption, (centre(column), (top + high + CAPTION / 2) as i32), HPos::Center));
            }
        }
        write(&mut sheet, &texts).map_err(|e| e.to_string())?;
        Ok(sheet)
    }
}

/// Wraps `text` into lines of at most `letters`, or of one word.
fn wrapped(text: &str, letters: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= letters => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.into()),
        }
    }
    lines
}

fn paste(sheet: &mut Image, image: &Image, (x, y): (usize, usize)) {
    for (row, line) in image.pixels.chunks_exact((3 * image.width).max(1)).enumerate() {
        let start = 3 * ((y + row) * sheet.width + x);
        sheet.pixels[start..start + line.len()].copy_from_slice(line);
    }
}

type Text<'a> = (&'a str, (i32, i32), HPos);

fn write(sheet: &mut Image, texts: &[Text<'_>]) -> Result<(), Box<dyn std::error::Error + 'static>> {
    font();
    let size = (sheet.width as u32, sheet.height as u32);
    let area = BitMapBackend::with_buffer(&mut sheet.pixels, size).into_drawing_area();
    for (text, place, side) in texts {
        let style = ("sans-serif", 15).into_font().color(&BLACK).pos(Pos::new(*side, VPos::Center));
        area.draw(&plotters::element::Text::new(*text, *place, style))?;
    }
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_fit_their_columns() {
        assert_eq!(wrapped("converged (120 steps)", 11), ["converged", "(120 steps)"]);
        assert_eq!(wrapped("6 evaluations", 20), ["6 evaluations"]);
        assert_eq!(wrapped("6 evaluations", 3), ["6", "evaluations"]);
        let cell = Cell { image: Image::filled(8, 8, Rgb([0; 3])), caption: String::new() };
        let row = ("ddim".to_owned(), vec![Some(cell.clone()), Some(cell)]);
        let columns = vec!["5 evaluations".to_owned(), "converged (120 steps)".to_owned()];
        let sheet = Sheet { columns, rows: vec![row] }.draw().unwrap();
        // No letter may reach into the gap between the columns.
        let left = 4 * LETTER + 2 * GAP;
        let wide = "evaluations".len() * LETTER;
        let column = |x: usize| (0..sheet.height).map(move |y| 3 * (y * sheet.width + x));
        assert!((left + wide..left + wide + GAP).all(|x| column(x).all(|i| sheet.pixels[i] == 255)));
        assert!((left..left + wide).any(|x| column(x).any(|i| sheet.pixels[i] < 128)));
    }
}
