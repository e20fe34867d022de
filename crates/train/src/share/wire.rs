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

/// Takes floats from the front of `rest`; fewer if there are no more.
pub(super) fn take<'a>(rest: &mut &'a [f32], count: usize) -> &'a [f32] {
    let (front, back) = rest.split_at(count.min(rest.len()));
    *rest = back;
    front
}
