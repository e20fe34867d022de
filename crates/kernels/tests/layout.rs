//! Layout conversions.

mod common;

use common::{every_isa, numbers};
use tweedie_kernels::layout::transpose;

#[test]
fn transposes() {
    for (batch, rows, columns) in [
        (1, 1, 1),
        (2, 3, 77),
        (3, 16, 16),
        (2, 20, 100),
        (1, 100, 3),
        (2, 64, 1024),
        (1, 33, 130),
        (0, 4, 4),
    ] {
        let x = numbers(batch * rows * columns, 1);
        every_isa(|isa| {
            let mut out = vec![f32::NAN; x.len()];
            transpose(isa, &x, [batch, rows, columns], &mut out);
            for (i, value) in x.iter().enumerate() {
                let (b, r, c) = (i / (rows * columns), i / columns % rows, i % columns);
                assert_eq!(
                    out[(b * columns + c) * rows + r],
                    *value,
                    "{batch}x{rows}x{columns}, {}",
                    isa.name()
                );
            }
        });
    }
}
