//! `tweedie models`.

use anyhow::Result;
use serde_json::json;
use tweedie::library::{self, Place};

use crate::ui::Ui;

pub fn run(ui: Ui) -> Result<()> {
    let (mut lines, mut all) = (Vec::new(), Vec::new());
    for named in library::list() {
        let place = match &named.place {
            Place::Path(path) => path.display().to_string(),
            Place::BuiltIn => "part of the binary".into(),
        };
        let about = library::about(&named.name);
        lines.push(format!("{:<20} {about:<36} {place}", named.name).trim_end().to_owned());
        let path = if let Place::Path(path) = &named.place { Some(path) } else { None };
        all.push(json!({ "name": named.name, "path": path, "about": about }));
    }
    let path: Vec<_> = library::search_path();
    lines.push(format!("\nsearched, after the folders in ${}:", library::VARIABLE));
    lines.extend(path.iter().map(|folder| format!("  {}", folder.display())));
    ui.result(&json!({ "models": all, "search_path": path }), lines.join("\n"));
    Ok(())
}
