//! `tweedie devices`.

use serde_json::json;

use crate::ui::Ui;

pub fn run(ui: Ui) -> anyhow::Result<()> {
    let names = tweedie::ops::devices();
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let mut text = format!("cpu    {threads} threads, kernels for {}", tweedie::ops::instruction_set());
    for name in names.iter().filter(|n| **n != "cpu") {
        text.push_str(&format!("\n{name}"));
    }
    for name in ["wgpu", "cuda"].iter().filter(|n| !names.contains(n)) {
        text.push_str(&format!("\n{name:<6} not available in this build; build with --features {name}"));
    }
    ui.result(&json!({ "devices": names, "threads": threads }), text);
    Ok(())
}
