//! Floats as bytes.

/// The bytes of floats, in the order of this machine.
pub(super) fn bytes(values: &[f32]) -> &[u8] {
    bytemuck::cast_slice(values)
}

/// The floats in bytes; a rest of less than a float is dropped.
pub(super) fn floats(bytes: &[u8]) -> Vec<f32> {
    let mut values = vec![0.0; bytes.len() / 4];
    bytemuck::cast_slice_mut(&mut values).copy_from_slice(&bytes[..4 * (bytes.len() / 4)]);
    values
}

/// Floats in bytes, taken from the front.
pub(super) struct Floats<'a>(pub &'a [u8]);

impl Floats<'_> {
    /// Number of floats left.
    pub fn len(&self) -> usize {
        self.0.len() / 4
    }

    /// The next `count` floats; fewer if there are no more.
    pub fn take(&mut self, count: usize) -> Vec<f32> {
        let (front, rest) = self.0.split_at((4 * count).min(self.0.len()));
        self.0 = rest;
        floats(front)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_survive_bit_for_bit() {
        let values = [1.5, -0.0, f32::NAN, f32::MIN_POSITIVE / 2.0, 7.0];
        let same = |a: &[f32], b: &[f32]| a.iter().map(|v| v.to_bits()).eq(b.iter().map(|v| v.to_bits()));
        assert!(same(&floats(bytes(&values)), &values));
        let mut rest = Floats(bytes(&values));
        assert!(same(&rest.take(2), &values[..2]) && rest.len() == 3);
        assert!(same(&rest.take(9), &values[2..]) && rest.len() == 0);
    }
}
