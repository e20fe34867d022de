//! Checks before the computation that there is memory for its output.

use anyhow::{Result, anyhow};
use tweedie_system::memory;

/// Checks that there is memory for `copies` grids of `count` images of `size` (height first), enlarged `zoom` times;
/// `lower` names the flags that lower it.
pub fn check_sheets(
    count: usize,
    [height, width]: [usize; 2],
    zoom: usize,
    copies: usize,
    lower: &str,
) -> Result<()> {
    /// A pixel of the grid, and of the encoded file.
    const BYTES: u64 = 2 * 3;
    /// Between images.
    const GAP: u64 = 4;
    let area = (height as u64 + GAP).saturating_mul(width as u64 + GAP).saturating_mul(zoom.pow(2) as u64);
    let pixels = area.saturating_mul(count as u64).saturating_mul(copies as u64);
    memory::check(pixels.saturating_mul(BYTES)).map_err(|e| {
        anyhow!("{count} images of {width}x{height} pixels, enlarged {zoom} times: {e}; lower {lower}")
    })
}
