//! Shows results as text, JSON and images.

use serde_json::{Value, json};
use tweedie::{
    data::{Image, Rgb, grid},
    eval::{
        clips::OverTime,
        metrics::Score,
        neighbours::Memorisation,
        quality::{Outcome, Quality},
        report::Evaluation,
    },
    pipe::media::enlarge,
};

/// Images in a row of a grid.
const COLUMNS: usize = 16;
const PAPER: Rgb = Rgb([255; 3]);

/// Images in a grid, enlarged by 2.
pub fn sheet(images: &[Image]) -> Image {
    enlarge(&grid(images, COLUMNS, 2, PAPER), 2)
}

/// At most `most` generated images, closest first, each above its nearest training image.
pub fn pairs(pictures: &[Image], train: &[Image], found: &Memorisation, most: usize) -> Image {
    let mut order = found.order();
    order.truncate(most);
    let columns = COLUMNS.min(order.len());
    let mut cells = Vec::new();
    for row in order.chunks(COLUMNS) {
        let blank = Image::filled(pictures[row[0]].width, pictures[row[0]].height, PAPER);
        let pad = || std::iter::repeat_n(blank.clone(), columns - row.len());
        cells.extend(row.iter().map(|i| pictures[*i].clone()).chain(pad()));
        cells.extend(row.iter().map(|i| train[found.generated[*i].index].clone()).chain(pad()));
    }
    enlarge(&grid(&cells, columns, 2, PAPER), 2)
}

/// The result tables.
pub fn text(found: &Evaluation) -> String {
    let mut parts = vec![format!("{}, seed {}, against {}", found.subject, found.seed, found.data)];
    parts.extend((!found.over_time.is_empty()).then(|| over_time(&found.over_time)));
    parts.extend(words(found));
    for (i, quality) in found.quality.iter().enumerate() {
        parts.push(scores(quality, found.held_out.get(i)));
    }
    for (name, memorisation) in
        [("features of the encoder", &found.features), ("RMS of pixels in 0..1", &found.pixels)]
    {
        parts.extend(memorisation.as_ref().map(|m| distances(name, m)));
    }
    parts.extend(found.took().map(|took| format!("took {took}")));
    parts.join("\n\n")
}

/// What a recognizer hears, and some of what it hears wrongly.
fn words(found: &Evaluation) -> Option<String> {
    /// Most examples.
    const MOST: usize = 5;
    let own = found.words.as_ref()?;
    let mut lines = vec![format!("word errors by `{}`: {}", own.recognizer, own.summary())];
    lines.extend(
        found.words_held_out.as_ref().map(|other| format!("  held-out recordings: {}", other.summary())),
    );
    lines.extend(
        own.wrong.iter().take(MOST).map(|[text, heard]| format!("  `{text}` was heard as `{heard}`")),
    );
    Some(lines.join("\n"))
}

/// One column for each set of clips.
fn over_time(sets: &[OverTime]) -> String {
    let head: Vec<String> =
        sets.iter().map(|set| format!("{:<22}", format!("{} {}", set.clips, set.set))).collect();
    let mut lines = vec![format!("{:<20} {}", "over time", head.join(" ")).trim_end().to_owned()];
    for (i, (name, _)) in sets.first().map(OverTime::rows).into_iter().flatten().enumerate() {
        let cell = |set: &OverTime| match set.rows()[i].1 {
            Some(Score { value, standard_error: Some(e) }) => format!("{value:.4} ± {:.4}", 1.96 * e),
            Some(Score { value, .. }) => format!("{value:.4}"),
            None => "-".into(),
        };
        let cells: Vec<String> = sets.iter().map(|set| format!("{:<22}", cell(set))).collect();
        lines.push(format!("{name:<20} {}", cells.join(" ")).trim_end().to_owned());
    }
    lines.push(
        "identity: cosine of the encoder's features of the first frame and later ones; change: RMS of pixels from frame to frame, \
         0 to 1; ± is the 95 % interval"
            .into(),
    );
    lines.join("\n")
}

fn scores(quality: &Quality, held_out: Option<&Quality>) -> String {
    let mut lines = vec![quality.extractor.clone(), quality.comparable.clone()];
    let header = |q: &Quality, name| format!("{} {name}", q.generated);
    let last = held_out.map_or(String::new(), |h| header(h, "held out"));
    lines.push(format!("{:<16} {:<6} {:<22} {last}", "score", "better", header(quality, "images")));
    let mut reasons: Vec<String> = Vec::new();
    for (i, (name, better, outcome)) in quality.rows().into_iter().enumerate() {
        let mut cell = |outcome: &Outcome| match outcome {
            Outcome::Scored { value, standard_error: Some(e), .. } => format!("{value:.4} ± {:.4}", 1.96 * e),
            Outcome::Scored { value, .. } => format!("{value:.4}"),
            Outcome::Refused { refused } => {
                let known = reasons.iter().position(|r| r == refused);
                let at = known.unwrap_or_else(|| {
                    reasons.push(refused.clone());
                    reasons.len() - 1
                });
                format!("none [{}]", at + 1)
            }
        };
        let first = cell(outcome);
        let second = held_out.map(|h| cell(h.rows()[i].2)).unwrap_or_default();
        lines.push(format!("{name:<16} {better:<6} {first:<22} {second}").trim_end().to_owned());
    }
    let blocks =
        quality.kid_blocks.map(|[n, size]| format!("; KID of {n} blocks of {size}")).unwrap_or_default();
    lines.push(format!(
        "compared with {} training images; ± is the 95 % interval; balls reach to neighbour {}{blocks}",
        quality.data, quality.k
    ));
    lines.extend(reasons.iter().enumerate().map(|(i, reason)| format!("[{}] {reason}", i + 1)));
    lines.join("\n")
}

fn distances(unit: &str, found: &Memorisation) -> String {
    let line = |what: &str, count: usize, values: [Option<f64>; 5]| {
        let values = values.map(|v| v.map_or("       -".into(), |v| format!("{v:>8.4}")));
        format!("{:<16} {}", format!("{count} {what}"), values.join(" "))
    };
    let head = ["least", "5 %", "median", "95 %", "most"].map(|h| format!("{h:>8}")).join(" ");
    let mut lines = vec![
        format!("distance to the nearest training image ({unit})\n{:<16} {head}", ""),
        line("generated", found.generated.len(), found.generated_quantiles()),
        line("held out", found.held_out.len(), found.held_out_quantiles()),
    ];
    if let Some(closer) = found.closer() {
        let of = found.generated.len();
        lines.push(format!(
            "{closer} of {of} generated images are closer than the closest 5 % of held-out ones"
        ));
    }
    lines.join("\n")
}

/// Without single distances and levels, which are in the report's file.
pub fn json(found: &Evaluation) -> Value {
    let memorisation = |m: &Option<Memorisation>| {
        m.as_ref().map(|m| {
            json!({ "generated": m.generated_quantiles(), "held_out": m.held_out_quantiles(),
                "quantiles": Memorisation::QUANTILES, "closer_than_held_out": m.closer() })
        })
    };
    json!({ "subject": found.subject, "data": found.data, "seed": found.seed,
        "quality": found.quality, "held_out_quality": found.held_out,
        "pixels": memorisation(&found.pixels), "features": memorisation(&found.features),
        "bound": found.bound, "ode": found.ode, "over_time": found.over_time, "words": found.words,
        "words_held_out": found.words_held_out, "cost": seconds(found) })
}

fn seconds(found: &Evaluation) -> Value {
    found.cost.iter().map(|(what, seconds)| (what.clone(), json!(seconds))).collect()
}
