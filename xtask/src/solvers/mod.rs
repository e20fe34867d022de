//! Measures every solver on data whose denoiser is known exactly, and writes what it finds into the docs.

mod measure;
mod page;
mod plot;

use std::path::Path;

use anyhow::{Context, Result};
use tweedie_core::solver::SOLVERS;

pub fn run() -> Result<()> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    std::fs::create_dir_all(&docs).context("cannot make docs/")?;
    let problem = measure::Problem::new()?;
    let (mut exact, mut noisy) = (Vec::new(), Vec::new());
    for entry in SOLVERS {
        eprintln!("{}", entry.name);
        if entry.is_deterministic() {
            exact.push(problem.convergence(entry)?);
        } else {
            noisy.push(problem.distribution(entry)?);
        }
    }
    let notes = page::Notes { published: problem.published_third_order()? };
    let text = page::markdown(&exact, &noisy, &notes);
    std::fs::write(docs.join("solvers.md"), text).context("cannot write docs/solvers.md")?;
    plot::draw(&exact, &docs.join("solvers.png"))?;
    println!("docs/solvers.md, docs/solvers.png");
    Ok(())
}
