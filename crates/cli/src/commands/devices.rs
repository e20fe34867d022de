//! `tweedie devices`.

use serde_json::{Value, json};
use tweedie::ops::{self, Adapter};

use crate::ui::Ui;

pub fn run(ui: Ui) -> anyhow::Result<()> {
    let (names, adapters) = (ops::devices(), ops::adapters());
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let mut lines = vec![format!("cpu     {threads} threads, kernels for {}", ops::instruction_set())];
    match (names.contains(&"wgpu"), adapters.is_empty()) {
        (true, true) => lines.push("wgpu    no graphics card with a driver was found".into()),
        (true, false) => lines.extend(adapters.iter().enumerate().map(|(i, adapter)| line(i, adapter))),
        (false, _) => {}
    }
    if names.contains(&"cuda") {
        lines.push("cuda".into());
    }
    for name in ["wgpu", "cuda"].iter().filter(|n| !names.contains(n)) {
        lines.push(format!("{name:<7} not available in this build; build with --features {name}"));
    }
    let adapters: Vec<Value> = adapters.iter().map(described).collect();
    ui.result(&json!({ "devices": names, "threads": threads, "adapters": adapters }), lines.join("\n"));
    Ok(())
}

fn line(number: usize, Adapter { name, backend, kind, driver }: &Adapter) -> String {
    format!("wgpu:{number:<2} {name} ({kind}), {backend}, driver {driver}")
}

fn described(Adapter { name, backend, kind, driver }: &Adapter) -> Value {
    json!({ "name": name, "backend": backend, "type": kind, "driver": driver })
}
