//! AdamW and the parameters' average over several steps, compared with PyTorch's formulas in `f64`.

mod common;

use common::{bits, close, every_isa, numbers, same_on_any_threads};
use tweedie_kernels::adamw::{Coefficients, adamw, adamw_averaged};

const LR: f64 = 1e-2;
const DECAY: f64 = 0.1;
const BETAS: [f64; 2] = [0.9, 0.999];
const EPS: f64 = 1e-8;

fn coefficients(step: i32) -> Coefficients {
    let [beta1, beta2] = BETAS;
    Coefficients {
        keep: (1.0 - LR * DECAY) as f32,
        rate: (LR / (1.0 - beta1.powi(step))) as f32,
        beta1: beta1 as f32,
        one_minus_beta1: (1.0 - beta1) as f32,
        beta2: beta2 as f32,
        one_minus_beta2: (1.0 - beta2) as f32,
        root_correction: (1.0 / (1.0 - beta2.powi(step)).sqrt()) as f32,
        eps: EPS as f32,
    }
}

#[test]
fn steps_match() {
    for len in [1, 3, 16, 64, 100, 40_003] {
        let start = numbers(len, 1);
        let grad = |step: i32| numbers(len, 10 + step as u64);
        let mut want =
            [start.iter().map(|&x| f64::from(x)).collect::<Vec<_>>(), vec![0.0; len], vec![0.0; len]];
        let mut want_average = want[0].clone();
        for step in 1..=3 {
            let [p, m, v] = &mut want;
            for (i, g) in grad(step).into_iter().map(f64::from).enumerate() {
                p[i] *= 1.0 - LR * DECAY;
                m[i] += (g - m[i]) * (1.0 - BETAS[0]);
                v[i] = v[i] * BETAS[1] + (1.0 - BETAS[1]) * g * g;
                let denominator = v[i].sqrt() / (1.0 - BETAS[1].powi(step)).sqrt() + EPS;
                p[i] -= LR / (1.0 - BETAS[0].powi(step)) * m[i] / denominator;
                want_average[i] += (p[i] - want_average[i]) * 0.25;
            }
        }
        every_isa(|isa| {
            let run = |averaged: bool| {
                let (mut p, mut average) = (start.clone(), start.clone());
                let (mut m, mut v) = (vec![0.0; len], vec![0.0; len]);
                for step in 1..=3 {
                    let (g, h) = (grad(step), coefficients(step));
                    if averaged {
                        adamw_averaged(isa, &mut p, &g, &mut m, &mut v, &h, &mut average, 0.25);
                    } else {
                        adamw(isa, &mut p, &g, &mut m, &mut v, &h);
                    }
                }
                [p, m, v, average]
            };
            let [p, m, v, average] = run(true);
            for (got, want, name) in [(&p, &want[0], "param"), (&m, &want[1], "m"), (&v, &want[2], "v")] {
                close(got, want, 2e-6, &format!("{name}, {}", isa.name()));
            }
            close(&average, &want_average, 2e-6, "average");
            assert!(bits(&run(false)[0]) == bits(&p), "the average changes nothing else");
            same_on_any_threads("adamw", || run(true).concat());
        });
    }
}
