//! The contrastive loss of CLIP (Radford et al. 2021, arXiv:2103.00020, figure 3).

use burn::tensor::{Int, Tensor, TensorData, activation::log_softmax};

/// Vectors `[B, width]` at length 1.
pub(crate) fn unit(x: Tensor<2>) -> Tensor<2> {
    let length = (x.clone() * x.clone()).sum_dim(1).sqrt();
    x / length
}

/// The mean of two cross-entropies for `B` pairs: which of the texts belongs to each image, and which of the images to each
/// text. The scores are `exp(scale)` times the cosines of the embeddings `[B, width]`.
pub(crate) fn contrastive(images: Tensor<2>, texts: Tensor<2>, scale: Tensor<1>) -> Tensor<1> {
    let rows = images.dims()[0];
    let scores = unit(images).matmul(unit(texts).swap_dims(0, 1)) * scale.exp().reshape([1, 1]);
    let pairs: Vec<i64> = (0..rows).map(|row| (row * (rows + 1)) as i64).collect();
    let pairs = Tensor::<1, Int>::from_data(TensorData::new(pairs, [rows]), &scores.device());
    let right =
        |scores: Tensor<2>| log_softmax(scores, 1).reshape([rows * rows]).select(0, pairs.clone()).sum();
    let sum = right(scores.clone()) + right(scores.swap_dims(0, 1));
    sum.mul_scalar(-0.5 / rows as f32)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use tweedie_ops::{Device, from_host, to_host};

    use super::*;

    /// The loss and its gradients are those of PyTorch: see tests/goldens/contrastive.py.
    #[test]
    fn the_loss_is_that_of_pytorch() {
        let golden: Value =
            serde_json::from_str(include_str!("../../tests/goldens/contrastive.json")).unwrap();
        let device = Device::flex().autodiff();
        for case in golden["cases"].as_array().unwrap() {
            let numbers = |key: &str| -> Vec<f32> {
                let values = case[key].as_array().unwrap();
                values.iter().map(|v| v.as_f64().unwrap() as f32).collect()
            };
            let [rows, width] = ["rows", "width"].map(|key| case[key].as_u64().unwrap() as usize);
            let leaf = |key: &str| {
                from_host::<2>(numbers(key), [rows, width], &device.clone().inner()).autodiff().require_grad()
            };
            let (images, texts) = (leaf("images"), leaf("texts"));
            let scale =
                from_host::<1>(numbers("scale"), [1], &device.clone().inner()).autodiff().require_grad();
            let loss = contrastive(images.clone(), texts.clone(), scale.clone());
            let expected = case["loss"].as_f64().unwrap();
            let found = f64::from(loss.clone().into_scalar::<f32>());
            assert!((found - expected).abs() < 1e-5 * expected.abs().max(1.0), "{found} {expected}");
            let gradients = loss.backward();
            let near = |key: &str, found: Vec<f32>| {
                let expected = numbers(key);
                let largest = expected.iter().fold(0.0f32, |most, v| most.max(v.abs()));
                for (a, b) in expected.iter().zip(&found) {
                    assert!((a - b).abs() < 2e-5 * largest.max(1e-3), "{key}: {a} {b}");
                }
            };
            near("images_grad", to_host(images.grad(&gradients).unwrap()));
            near("texts_grad", to_host(texts.grad(&gradients).unwrap()));
            near("scale_grad", to_host(scale.grad(&gradients).unwrap()));
        }
    }
}
