//! Reads a model folder, runs its network on given inputs, and writes the model to another folder.
//!
//! ```text
//! cargo run --release -p tweedie-hub --example copy_model -- MODEL INPUTS OUTPUTS COPY
//! ```
//!
//! `INPUTS` is a safetensors file with `sample` `[B, C, H, W]`, `timestep` `[B]` and, for networks with classes,
//! `class_labels` `[B]`; `OUTPUTS` receives `sample`. `COPY` is written in diffusers' layout.

use std::{collections::BTreeMap, error::Error, path::PathBuf};

use burn::tensor::{DType, Tensor, TensorData};
use tweedie_hub::{Extras, ModelDir, Precision, SafetensorsFile, SchedulerConfig, model_dir, weights};
use tweedie_models::{Conditions, HostTensor, InputError, Mode, TensorSource};

fn main() -> Result<(), Box<dyn Error>> {
    let paths: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [model, inputs, outputs, copy] = &paths[..] else {
        return Err("expected four paths: MODEL INPUTS OUTPUTS COPY".into());
    };
    let device = tweedie_ops::device("cpu")?;
    let folder = ModelDir::open(model)?;
    let unet = folder.load_unet(&device)?;

    let inputs = SafetensorsFile::open(inputs)?;
    let x = inputs.read("sample")?;
    let shape: [usize; 4] = x.shape.try_into().map_err(|_| "`sample` must have the shape [B, C, H, W]")?;
    let times = inputs.read("timestep")?.values;
    let mut condition = Conditions::none();
    if inputs.shape("class_labels").is_some() {
        let labels = inputs.read("class_labels")?.values;
        condition = Conditions::of_classes(labels.into_iter().map(|c| c as usize).collect());
    }
    unet.config().check_input(shape, &times, &condition).map_err(|InputError(reason)| reason)?;
    let x = Tensor::from_data(TensorData::new(x.values, shape), (&device, DType::F32));
    let answer = unet.forward(x, &times, &condition, Mode::Eval);
    let shape = answer.dims().to_vec();
    let answer = HostTensor { shape, values: answer.into_data().iter::<f32>().collect() };
    let answer = BTreeMap::from([("sample".to_string(), answer)]);
    weights::write(outputs, &answer, Precision::F32, &BTreeMap::new())?;

    let scheduler = match folder.scheduler {
        Some(scheduler) => scheduler,
        None => SchedulerConfig::flow(1000, 1.0)?,
    };
    model_dir::save(copy, &unet, &scheduler, &Extras::default(), Precision::F32)?;
    Ok(())
}
