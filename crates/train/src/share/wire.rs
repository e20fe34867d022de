//! Floats as bytes, copied by all threads.

use rayon::prelude::*;

/// Values that one thread copies or sums at a time: they stay in its cache.
pub(super) const BLOCK: usize = 4096;

/// The bytes of floats, in the order of this machine.
pub(super) fn bytes(values: &[f32]) -> &[u8] {
    bytemuck::cast_slice(values)
}

/// The same for floats that are written.
pub(super) fn bytes_mut(values: &mut [f32]) -> &mut [u8] {
    bytemuck::cast_slice_mut(values)
}

/// The floats in bytes; a rest of less than a float is dropped.
pub(super) fn floats(bytes: &[u8]) -> Vec<f32> {
    let mut values = vec![0.0; bytes.len() / 4];
    bytes_mut(&mut values).copy_from_slice(&bytes[..4 * (bytes.len() / 4)]);
    values
}

/// Copies from places of equal size to others, on all threads.
pub(super) fn copy(tasks: Vec<(&mut [u8], &[u8])>) {
    /// Bytes that one thread copies at a time.
    const PART: usize = 1 << 18;
    let parts = tasks.into_iter().flat_map(|(to, from)| to.chunks_mut(PART).zip(from.chunks(PART)));
    parts.collect::<Vec<_>>().into_par_iter().for_each(|(to, from)| {
        // Equal, because both are cut alike; a shorter source, which is an error told elsewhere, fills the beginning.
        let common = to.len().min(from.len());
        to[..common].copy_from_slice(&from[..common]);
    });
}

/// Floats in bytes, taken from the front.
pub(super) struct Floats<'a>(pub &'a [u8]);

impl<'a> Floats<'a> {
    /// Number of floats left.
    pub fn len(&self) -> usize {
        self.0.len() / 4
    }

    /// The bytes of the next `count` floats; fewer if there are no more.
    pub fn take(&mut self, count: usize) -> &'a [u8] {
        let (front, rest) = self.0.split_at((4 * count).min(self.0.len()));
        self.0 = rest;
        front
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
        assert!(same(&floats(rest.take(2)), &values[..2]) && rest.len() == 3);
        assert!(same(&floats(rest.take(9)), &values[2..]) && rest.len() == 0);
    }

    #[test]
    fn every_byte_is_copied() {
        let from: Vec<u8> = (0..900_000u32).map(|i| (i % 251) as u8).collect();
        let mut to = vec![0; from.len()];
        let (a, b) = to.split_at_mut(17);
        copy(vec![(a, &from[..17]), (b, &from[17..])]);
        assert_eq!(to, from);
    }
}
