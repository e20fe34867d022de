//! `tweedie debug run`: one component on given tensors.

use crate::{
    common::{Scratch, model},
    tensors::{self, Tensor},
};

/// The network's answer to `inputs`.
fn answer(scratch: &Scratch, component: &str, inputs: &[(&str, Tensor)]) -> (Vec<usize>, Vec<u8>) {
    scratch.write("in.safetensors", tensors::file(inputs));
    scratch.ok(&["debug", "run", component, "--inputs", "in.safetensors", "--outputs", "out.safetensors"]);
    tensors::only(&scratch.path("out.safetensors"), "sample")
}

const TIMES: [f32; 4] = [0.0, 10.0, 500.0, 999.0];
const CLASSES: [f32; 4] = [0.0, 1.0, 2.0, 1.0];

#[test]
fn rows_are_answered_alike_in_every_batch() {
    let scratch = Scratch::new();
    let (shape, values) = tensors::ramp(&[4, 3, 8, 8]);
    let all = [
        ("sample", (shape.clone(), values.clone())),
        ("timestep", (vec![4], TIMES.to_vec())),
        ("class_labels", (vec![4], CLASSES.to_vec())),
    ];
    let (found, rows) = answer(&scratch, model(), &all);
    assert_eq!(found, shape);
    assert!(tensors::values(&rows).iter().all(|v| v.is_finite()));
    // The pipeline's folder and its component are one model.
    assert_eq!(answer(&scratch, &format!("{}/unet", model()), &all).1, rows);
    for (i, expected) in rows.chunks(rows.len() / 4).enumerate() {
        let one = [
            ("sample", (vec![1, 3, 8, 8], values[192 * i..192 * (i + 1)].to_vec())),
            ("timestep", (vec![], vec![TIMES[i]])),
            ("class_labels", (vec![1], vec![CLASSES[i]])),
        ];
        assert_eq!(answer(&scratch, model(), &one), (vec![1, 3, 8, 8], expected.to_vec()), "row {i}");
    }
}

#[test]
fn inputs_that_do_not_fit_are_named() {
    let scratch = Scratch::new();
    let sample = || ("sample", tensors::ramp(&[2, 3, 8, 8]));
    let time = || ("timestep", (vec![], vec![5.0]));
    let labels = |values: &[f32]| ("class_labels", (vec![values.len()], values.to_vec()));
    for (inputs, words) in [
        (vec![time()], &["`sample`", "timestep"][..]),
        (vec![sample(), labels(&[0.0, 1.0])], &["`timestep`"]),
        (vec![sample(), time()], &["class"]),
        (vec![sample(), time(), labels(&[0.0, 9.0])], &["9"]),
        (vec![sample(), time(), labels(&[0.5, 1.0])], &["class_labels", "0.5"]),
        (vec![sample(), time(), labels(&[0.0; 3])], &["class_labels", "3", "2"]),
        (vec![sample(), ("time", (vec![], vec![5.0]))], &["`time`", "timestep"]),
        (vec![("sample", tensors::ramp(&[2, 4, 8, 8])), time(), labels(&[0.0, 1.0])], &["4", "3"]),
        (vec![("sample", tensors::ramp(&[3, 8, 8])), time()], &["sample", "8×8", "channels×height×width"]),
    ] {
        scratch.write("in.safetensors", tensors::file(&inputs));
        let run = ["debug", "run", model(), "--inputs", "in.safetensors", "--outputs", "out.safetensors"];
        scratch.fails(&run, words);
    }
    let run = ["debug", "run", model(), "--inputs", "none.safetensors", "--outputs", "out.safetensors"];
    scratch.fails(&run, &["none.safetensors"]);
}
