//! Shows the time of each layer in a pass.

use std::{collections::BTreeMap, fmt::Write};

use serde_json::json;
use tweedie::ops::profile::{Kind, Layer};
use tweedie_kernels::{Isa, peak};

use super::{
    Piece,
    measure::{self, Bench},
};

/// Number of layers in the table, slowest first.
const SHOWN: usize = 12;

/// The sum over layers of the same kind or shape.
#[derive(Clone, Copy, Default)]
struct Sum {
    count: usize,
    operations: f64,
    taken: f64,
    seconds: f64,
}

impl Sum {
    fn add(&mut self, layer: &Layer) {
        self.count += 1;
        self.operations += layer.operations;
        self.taken += layer.taken;
        self.seconds += layer.seconds;
    }

    /// Operations per second in 10⁹, by definition and executed.
    fn rates(&self) -> [f64; 2] {
        [self.operations, self.taken].map(|operations| operations * 1e-9 / self.seconds.max(1e-12))
    }
}

/// The layers of passes, each with its median time, and the median time of a pass.
fn medians(passes: Vec<(f64, Vec<Layer>)>) -> (f64, Vec<Layer>) {
    let whole = measure::median(passes.iter().map(|(seconds, _)| *seconds).collect());
    let mut layers = passes.first().map(|(_, layers)| layers.clone()).unwrap_or_default();
    for (i, layer) in layers.iter_mut().enumerate() {
        let times = passes.iter().filter_map(|(_, layers)| Some(layers.get(i)?.seconds));
        layer.seconds = measure::median(times.collect());
    }
    (whole, layers)
}

/// Reports passes with timed layers.
pub fn report(bench: &Bench<'_>, name: &str, passes: Vec<(f64, Vec<Layer>)>) {
    let (whole, layers) = medians(passes);
    let peak = peak::gflops(Isa::active());
    let mut kinds: BTreeMap<Kind, Sum> = BTreeMap::new();
    let mut alike: BTreeMap<(Kind, &str, &str), Sum> = BTreeMap::new();
    for layer in &layers {
        kinds.entry(layer.kind).or_default().add(layer);
        alike.entry((layer.kind, &layer.shape, layer.algorithm)).or_default().add(layer);
    }
    let mut text = format!("{:.1} ms; peak of the machine: {peak:.0} GFLOP/s\n", 1e3 * whole);
    let _ = writeln!(
        text,
        "  {:<44} {:>5} {:>7} {:>9} {:>7} {:>8}",
        "", "count", "share", "GFLOP/s", "made", "of peak"
    );
    let mut line = |name: &str, sum: &Sum| {
        let share = 100.0 * sum.seconds / whole;
        let _ = write!(text, "  {name:<44} {:>5} {share:>5.1} %", sum.count);
        if sum.operations > 0.0 {
            let [defined, made] = sum.rates();
            let of_peak = 100.0 * made / peak;
            let _ = write!(text, " {defined:>9.0} {made:>7.0} {of_peak:>6.0} %");
        }
        text.push('\n');
    };
    for (kind, sum) in &kinds {
        line(&kind.to_string(), sum);
    }
    let rest = whole - layers.iter().map(|layer| layer.seconds).sum::<f64>();
    line("between layers", &Sum { seconds: rest.max(0.0), ..Sum::default() });
    let mut slowest: Vec<_> = alike.iter().collect();
    slowest.sort_by(|a, b| b.1.seconds.total_cmp(&a.1.seconds));
    for ((_, shape, algorithm), sum) in slowest.iter().take(SHOWN) {
        line(&format!("  {shape}  {algorithm}"), sum);
    }
    let shown = |sum: &Sum| {
        let [defined, made] = sum.rates();
        json!({
            "count": sum.count, "ms": 1e3 * sum.seconds, "share": sum.seconds / whole,
            "gflop": 1e-9 * sum.operations, "gflops": defined, "gflops_made": made, "of_peak": made / peak,
        })
    };
    let layer = |((kind, shape, algorithm), sum): (&(Kind, &str, &str), &Sum)| {
        let mut fields = shown(sum);
        fields["kind"] = kind.to_string().into();
        fields["shape"] = (*shape).into();
        fields["algorithm"] = (*algorithm).into();
        fields
    };
    let fields = json!({
        "ms": 1e3 * whole,
        "peak_gflops": peak,
        "kinds": kinds.iter().map(|(kind, sum)| (kind.to_string(), shown(sum))).collect::<BTreeMap<_, _>>(),
        "layers": alike.iter().map(layer).collect::<Vec<_>>(),
    });
    bench.report(Piece::Layers, name, fields, text.trim_end());
}
