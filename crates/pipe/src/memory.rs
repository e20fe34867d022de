//! An estimate of the memory that a request needs, compared with what is available before anything is computed.

use tweedie_system::memory;

use crate::PipelineError;

/// The memory that a request needs.
pub(crate) struct Needed {
    /// Number of images.
    pub count: usize,
    /// Batch size of one call of the network.
    pub rows: usize,
    /// Height and width of the images.
    pub size: [usize; 2],
    /// Bytes per row of the network.
    pub row: u64,
    /// Bytes to decode one image.
    pub decoding: u64,
}

impl Needed {
    /// Checks that the memory is available.
    ///
    /// # Errors
    /// [`PipelineError::Memory`] naming the fields that lower it.
    pub fn check(&self) -> Result<(), PipelineError> {
        let [height, width] = self.size.map(|n| n as u64);
        let area = height.saturating_mul(width);
        // As floats and as bytes.
        let images = area.saturating_mul(3 * (4 + 1)).saturating_mul(self.count as u64);
        let network = self.row.saturating_mul(self.rows as u64);
        let all = images.saturating_add(network.max(self.decoding));
        memory::check(all).map_err(|source| {
            let (count, rows, [height, width]) = (self.count, self.rows, self.size);
            let (what, lower) = if network.max(self.decoding) < images {
                (format!("`count` {count}, `size` {width}x{height}"), "count or size")
            } else if self.decoding > network {
                (format!("`size` {width}x{height}"), "size, or vae_tile")
            } else {
                (format!("`size` {width}x{height}, {rows} rows at once (`chunk`)"), "size or chunk")
            };
            PipelineError::Memory { what, source, lower }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_much_is_an_error() {
        let needed = |rows, side: usize| {
            let row = (side * side * 64 * 32) as u64;
            Needed { count: 1, rows, size: [side; 2], row, decoding: 0 }
        };
        needed(1, 32).check().unwrap();
        if memory::available().is_some() {
            let error = needed(65536, 16384).check().unwrap_err().to_string();
            assert!(error.contains("16384x16384, 65536 rows at once (`chunk`)"), "{error}");
            assert!(error.contains("GB are available; lower size or chunk"), "{error}");
        }
    }
}
