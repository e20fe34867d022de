//! An evaluation as a self-contained HTML file: tables, figures, images.

mod figure;

use std::fmt::Write;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Serialize;

use crate::{
    bound::{self, Estimate, ode},
    clips::OverTime,
    metrics::Score,
    neighbours::Memorisation,
    quality::{Outcome, Quality},
    recognizer::WordErrors,
};

/// The results for a model or a set of images.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// What was evaluated.
    pub subject: String,
    /// The data that it was compared with.
    pub data: String,
    /// The seed.
    pub seed: u64,
    /// Further facts for reproducing it, by name.
    pub facts: Vec<(String, String)>,
    /// The scores of each network.
    pub quality: Vec<Quality>,
    /// The scores of held-out images instead of generated ones, which a perfect model would get.
    pub held_out: Vec<Quality>,
    /// Distances to the nearest training image by pixels.
    pub pixels: Option<Memorisation>,
    /// Distances to the nearest training image by features.
    pub features: Option<Memorisation>,
    /// Bits per dimension by the variational bound.
    pub bound: Option<bound::Report>,
    /// Bits per dimension by the density of the deterministic sampler.
    pub ode: Option<ode::Report>,
    /// How clips hold together: the generated ones, and those of the data.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub over_time: Vec<OverTime>,
    /// The words that a recognizer hears in generated sounds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub words: Option<WordErrors>,
    /// The same in held-out recordings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub words_held_out: Option<WordErrors>,
    /// Seconds for each part of the evaluation.
    pub cost: Vec<(String, f64)>,
}

impl Evaluation {
    /// The time of the evaluation in one line; `None` if unknown.
    pub fn took(&self) -> Option<String> {
        let parts: Vec<_> = self.cost.iter().map(|(what, s)| format!("{what} {s:.1} s")).collect();
        let total: f64 = self.cost.iter().map(|(_, s)| s).sum();
        (!parts.is_empty()).then(|| format!("{total:.1} s: {}", parts.join(", ")))
    }
}

/// Images of the page, as PNG files.
#[derive(Clone, Debug, Default)]
pub struct Pictures {
    /// Some of the evaluated images.
    pub samples: Vec<u8>,
    /// The closest pairs by pixels.
    pub pixels: Vec<u8>,
    /// Pairs closest in features.
    pub features: Vec<u8>,
    /// Some of the evaluated clips, as an animated WebP file.
    pub animation: Vec<u8>,
}

const STYLE: &str = "\
:root{color-scheme:light dark;--line:#8884;--soft:#888;--a:#3c5ac8;--b:#c83c32}\
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2.5rem;border-bottom:1px solid var(--line)}\
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.25rem .8rem;text-align:right;\
border-bottom:1px solid var(--line);font-variant-numeric:tabular-nums;white-space:nowrap}\
td:first-child,th:first-child,table.facts td{text-align:left}table.facts td{white-space:normal}\
p.note{color:var(--soft);font-size:.9rem}figure{margin:1rem 0}figcaption{color:var(--soft);font-size:.9rem}\
img{image-rendering:pixelated;max-width:100%}svg{max-width:100%;height:auto}\
svg text{fill:currentColor;font:12px system-ui,sans-serif}.axis{stroke:var(--line)}\
.a{fill:var(--a);stroke:var(--a)}.b{fill:var(--b);stroke:var(--b)}.band{fill-opacity:.25;stroke:none}\
.line{fill:none;stroke-width:2}.bar{fill-opacity:.55;stroke-width:0}";

/// The page.
pub fn html(found: &Evaluation, pictures: &Pictures) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{0}</title>\n<style>{STYLE}</style>\n<h1>{0}</h1>\n",
        escape(&format!("Evaluation of {}", found.subject)),
    );
    facts(&mut page, found);
    if !pictures.animation.is_empty() {
        figure(&mut page, "webp", &pictures.animation, "Some of the generated clips, in order.");
    }
    over_time(&mut page, &found.over_time);
    for (i, quality) in found.quality.iter().enumerate() {
        scores(&mut page, quality, found.held_out.get(i));
    }
    if let Some(bound) = &found.bound {
        bits(&mut page, bound, found.ode.as_ref());
    }
    for (name, unit, what, png) in [
        ("features", "distance of features", &found.features, &pictures.features),
        ("pixels", "root mean square difference, 0 to 1", &found.pixels, &pictures.pixels),
    ] {
        if let Some(what) = what {
            memorisation(&mut page, name, unit, what, png);
        }
    }
    if !pictures.samples.is_empty() {
        page.push_str("<h2>Pictures</h2>\n");
        image(&mut page, &pictures.samples, "Some of the scored images, in order.");
    }
    page.push_str("</html>\n");
    page
}

fn facts(page: &mut String, found: &Evaluation) {
    let own = [("data", found.data.clone()), ("seed", found.seed.to_string())];
    let own = own.into_iter().map(|(k, v)| (k.to_owned(), v));
    let took = found.took().map(|took| ("took".to_owned(), took));
    page.push_str("<table class=\"facts\">\n");
    for (key, value) in own.chain(found.facts.iter().cloned()).chain(took) {
        row(page, &[&escape(&key), &escape(&value)]);
    }
    page.push_str("</table>\n");
}

/// One column for each set of clips; ± is the 95 % interval.
fn over_time(page: &mut String, sets: &[OverTime]) {
    let Some(first) = sets.first() else { return };
    page.push_str("<h2>Over time</h2>\n<table>\n<tr><th></th>");
    for set in sets {
        let _ = write!(page, "<th>{} {}</th>", set.clips, escape(&set.set));
    }
    page.push_str("</tr>\n");
    for (i, (name, _)) in first.rows().into_iter().enumerate() {
        let value = |set: &OverTime| match set.rows()[i].1 {
            Some(Score { value, standard_error: Some(e) }) => format!("{value:.4} ± {:.4}", 1.96 * e),
            Some(Score { value, .. }) => format!("{value:.4}"),
            None => "–".into(),
        };
        let cells: Vec<String> = std::iter::once(name.to_owned()).chain(sets.iter().map(value)).collect();
        row(page, &cells.iter().map(String::as_str).collect::<Vec<_>>());
    }
    page.push_str(
        "</table>\n<p class=\"note\">Identity: cosine between the features of the first frame and of later ones. Change of \
         pixels: RMS from frame to frame, 0 to 1. Both are good where they are those of real clips. ± is the 95 % confidence \
         interval.</p>\n",
    );
}

fn row(page: &mut String, cells: &[&str]) {
    page.push_str("<tr>");
    for cell in cells {
        let _ = write!(page, "<td>{cell}</td>");
    }
    page.push_str("</tr>\n");
}

fn scores(page: &mut String, quality: &Quality, held_out: Option<&Quality>) {
    let _ = write!(
        page,
        "<h2>Quality</h2>\n<p>{}<br><b>{}</b></p>\n<table>\n<tr><th>score</th><th>better</th><th>{} images</th>",
        escape(&quality.extractor),
        escape(&quality.comparable),
        quality.generated,
    );
    if let Some(held_out) = held_out {
        let _ = write!(page, "<th>{} held out</th>", held_out.generated);
    }
    page.push_str("</tr>\n");
    let mut reasons = Vec::new();
    for (i, (name, better, outcome)) in quality.rows().into_iter().enumerate() {
        let mut cells = vec![name.to_owned(), better.to_owned(), shown(outcome, &mut reasons)];
        cells.extend(held_out.map(|h| shown(h.rows()[i].2, &mut reasons)));
        row(page, &cells.iter().map(String::as_str).collect::<Vec<_>>());
    }
    page.push_str("</table>\n");
    for (i, reason) in reasons.iter().enumerate() {
        let _ = writeln!(page, "<p class=\"note\">[{}] {}</p>", i + 1, escape(reason));
    }
    let blocks =
        quality.kid_blocks.map(|[n, size]| format!("KID: {n} blocks of {size}. ")).unwrap_or_default();
    let _ = writeln!(
        page,
        "<p class=\"note\">Compared with {} training images, {} features. ± is the 95 % confidence interval for this \
         sample of images. FID is too high for few images: only compare equal numbers. {blocks}Balls reach to \
         neighbour {}.</p>",
        quality.data, quality.dim, quality.k,
    );
}

/// A score, or the number of the footnote with the reason.
fn shown(outcome: &Outcome, reasons: &mut Vec<String>) -> String {
    match outcome {
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
    }
}

fn bits(page: &mut String, report: &bound::Report, ode: Option<&ode::Report>) {
    let estimate = |e: &Estimate| match e.half_width() {
        Some(half) => format!("{:.4} ± {half:.4}", e.mean),
        None => format!("{:.4}", e.mean),
    };
    page.push_str("<h2>Bits per dimension</h2>\n<table>\n");
    for (name, value) in [
        ("variational bound", &report.total),
        ("prior, L(T)", &report.prior),
        ("denoising, L(1) … L(T-1)", &report.denoising),
        ("reconstruction, L(0)", &report.reconstruction),
    ] {
        row(page, &[name, &estimate(value)]);
    }
    if let Some(ode) = ode {
        row(page, &["density of the deterministic sampler", &estimate(&ode.total)]);
    }
    let clamp = report.clamp.map_or("not clamped".into(), |c| format!("clamped to ±{c}"));
    let _ = write!(
        page,
        "</table>\n<p class=\"note\">{} images, {} of {} noise levels each, seed {}; predictions {clamp}.</p>\n{}",
        report.images,
        report.visited,
        report.levels,
        report.seed,
        figure::terms(report),
    );
}

fn memorisation(page: &mut String, name: &str, unit: &str, found: &Memorisation, png: &[u8]) {
    let _ = write!(page, "<h2>Nearest training images, by {name}</h2>\n<table>\n<tr><th>{unit}</th>");
    for head in ["least", "5 %", "median", "95 %", "most"] {
        let _ = write!(page, "<th>{head}</th>");
    }
    page.push_str("</tr>\n");
    for (what, count, values) in [
        ("generated", found.generated.len(), found.generated_quantiles()),
        ("held out", found.held_out.len(), found.held_out_quantiles()),
    ] {
        let cells = values.map(|v| v.map_or("–".into(), |v| format!("{v:.4}")));
        let first = format!("{count} {what}");
        let all: Vec<&str> =
            std::iter::once(first.as_str()).chain(cells.iter().map(String::as_str)).collect();
        row(page, &all);
    }
    page.push_str("</table>\n");
    if let Some(closer) = found.closer() {
        let n = found.generated.len();
        let _ = writeln!(
            page,
            "<p>{closer} of {n} generated images are closer than the closest 5 % of held-out ones; about {} would \
             be expected without copying.</p>",
            (n as f64 / 20.0).round()
        );
    }
    page.push_str(&figure::distances(found, unit));
    if !png.is_empty() {
        image(page, png, "Closest pairs first: each generated image above its nearest training image.");
    }
}

fn image(page: &mut String, png: &[u8], caption: &str) {
    figure(page, "png", png, caption);
}

fn figure(page: &mut String, format: &str, file: &[u8], caption: &str) {
    let _ = writeln!(
        page,
        "<figure><img alt=\"{0}\" src=\"data:image/{format};base64,{1}\"><figcaption>{0}</figcaption></figure>",
        escape(caption),
        STANDARD.encode(file)
    );
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
