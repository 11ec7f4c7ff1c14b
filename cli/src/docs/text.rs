//! Reads and writes Markdown, as far as the documents need it.

use std::fmt::Write as _;

/// The blocks of code in a language, without their fences.
pub(super) fn blocks(text: &str, language: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(found) = line.strip_prefix("```") else { continue };
        let content: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        if found == language {
            blocks.push(content.join("\n") + "\n");
        }
    }
    blocks
}

/// The words of every `picket` command in the blocks of shell code.
pub(super) fn commands(text: &str) -> Vec<Vec<String>> {
    let shell = blocks(text, "sh").into_iter().chain(blocks(text, "console"));
    let lines = shell.flat_map(|block| block.lines().map(str::to_owned).collect::<Vec<_>>());
    let commands = lines.filter_map(|line| {
        let line = line.strip_prefix("$ ").unwrap_or(&line);
        line.starts_with("picket ").then(|| words(line))
    });
    commands.collect()
}

/// Words as a shell sees them, up to the first redirection or pipe.
pub(super) fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for c in line.chars() {
        match (c, quote) {
            ('\'' | '"', None) => quote = Some(c),
            (c, Some(open)) if c == open => quote = None,
            ('>' | '|', None) => break,
            (' ', None) => words.push(std::mem::take(&mut word)),
            (c, _) => word.push(c),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

/// The links to files beside, and to headings.
pub(super) fn links(text: &str) -> Vec<(String, Option<String>)> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let local = targets.filter(|target| !target.contains("://"));
    let parts = local.map(|target| match target.split_once('#') {
        Some((file, anchor)) => (file.to_owned(), Some(anchor.to_owned())),
        None => (target.to_owned(), None),
    });
    parts.collect()
}

/// The anchor of a heading.
pub(super) fn slug(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

const HEAD: &str = "# The `picket` command

Written from the command's own help; a test compares both.
`REGENERATE=1 cargo test -p picket docs::` writes this file anew.

Data goes to standard output, words go to standard error.

| Exit status | Meaning |
|---|---|
| 0 | Fine |
| 1 | It ran, and what it looked at has problems |
| 2 | The command line, a configuration or a question is wrong |
| 3 | Something cannot be reached, or failed |
| 4 | The decision was \"deny\" (only with `--exit-code`) |

`--control` and `--operator` may stand before or after the command; they concern the commands that ask the control plane: `join-token`,
`token`, `certificate`, `operator`, `audit`, `status` and `check`.
";

/// What every command says of itself.
pub(super) fn command_line(mut command: clap::Command) -> String {
    // The same at every width of terminal and in every environment.
    command = steady(command.term_width(100));
    command.build();
    let mut out = HEAD.to_owned();
    describe(&mut command, &mut out);
    out
}

fn steady(command: clap::Command) -> clap::Command {
    command
        .mut_args(|argument| argument.hide_env_values(true))
        .mut_subcommands(|command| steady(command.term_width(100)))
}

fn describe(command: &mut clap::Command, out: &mut String) {
    let is_group = command.has_subcommands() && command.get_name() != "picket";
    if !is_group {
        let name = command.get_bin_name().unwrap_or("picket").to_owned();
        let help = command.render_help().to_string();
        let help: Vec<&str> = help.lines().map(str::trim_end).collect();
        write!(out, "\n## {name}\n\n```text\n{}\n```\n", help.join("\n").trim_end()).unwrap();
    }
    for command in command.get_subcommands_mut() {
        if !command.is_hide_set() && command.get_name() != "help" {
            // Said once, at the top.
            let own = std::mem::take(command);
            *command = own.mut_args(|argument| {
                let is_global = argument.is_global_set();
                if is_global { argument.hide(true) } else { argument }
            });
            describe(command, out);
        }
    }
}
