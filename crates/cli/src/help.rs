//! The grouped list of commands, which clap's help does not support.

use clap::{Command, CommandFactory};

/// Headings and their commands, in the order of the help.
const GROUPS: &[(&str, &[&str])] = &[
    ("Make", &["sample", "edit", "restore", "interpolate", "train", "ema", "tune-steps", "convert"]),
    ("Serve", &["serve"]),
    ("Measure", &["eval", "compare", "bench"]),
    ("Look", &["info", "plan", "forward", "data"]),
    ("Set up", &["models", "devices", "completions"]),
    ("Compare with other programs", &["debug"]),
];

const TEMPLATE: &str = "\
{about}

{usage-heading} {usage}

{after-help}

{all-args}";

/// The command line of `C` with its subcommands in groups.
pub fn grouped<C: CommandFactory>() -> Command {
    let mut command = C::command();
    command.build();
    let text = listing(&command);
    command
        .help_template(TEMPLATE.replace("{after-help}", &text).replace("{all-args}", "{options}"))
        .subcommand_required(true)
        .arg_required_else_help(true)
}

fn listing(command: &Command) -> String {
    let mut text = String::new();
    for (heading, names) in GROUPS {
        text.push_str(&format!("{heading}:\n"));
        // A command may be left out of the build.
        for sub in names.iter().filter_map(|name| command.find_subcommand(name)) {
            let about = sub.get_about().map(ToString::to_string).unwrap_or_default();
            text.push_str(&format!("  {:<12} {about}\n", sub.get_name()));
        }
        text.push('\n');
    }
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_stands_in_one_group() {
        let command = crate::Cli::command();
        let listed: Vec<_> = GROUPS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        for sub in command.get_subcommands() {
            let times = listed.iter().filter(|n| **n == sub.get_name()).count();
            assert_eq!(times, 1, "{} is listed {times} times", sub.get_name());
        }
        assert_eq!(listed.len(), command.get_subcommands().count());
        grouped::<crate::Cli>().debug_assert();
    }
}
