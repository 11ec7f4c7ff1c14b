//! Printing: tables for people, JSON for programs.

use std::io::{self, IsTerminal as _, Write as _};

use serde::Serialize;

use crate::exit::Failure;

/// Prints a value as one JSON document.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::of(&error))?;
    line(&text)
}

/// Prints one line. A reader that has gone away is no failure: `head` does that.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => other.map_err(|error| Failure::of(&error)),
    }
}

/// Prints rows in columns that are as wide as they need to be.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> Result<(), Failure> {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(head.get(column).map(|name| name.len())).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let print = |cells: &[&str]| {
        let mut text = String::new();
        for (cell, width) in cells.iter().zip(&widths) {
            let padding = width - cell.chars().count().min(*width);
            text.push_str(cell);
            text.push_str(&" ".repeat(padding + 2));
        }
        line(text.trim_end())
    };
    print(head)?;
    for row in rows {
        print(&row.iter().map(String::as_str).collect::<Vec<_>>())?;
    }
    Ok(())
}

/// Colours of the glyphs; each stands beside a word, so that nothing is said by colour alone.
#[derive(Clone, Copy)]
pub(crate) enum Colour {
    Green,
    Yellow,
    Red,
    Bold,
    Dim,
}

/// A text in a colour, if standard output is a terminal that wants one.
pub(crate) fn coloured(text: &str, colour: Colour) -> String {
    if !wants_colour() {
        return text.to_owned();
    }
    let code = match colour {
        Colour::Green => "32",
        Colour::Yellow => "33",
        Colour::Red => "31",
        Colour::Bold => "1",
        Colour::Dim => "2",
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

fn wants_colour() -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if set("NO_COLOR") || std::env::var("TERM").is_ok_and(|term| term == "dumb") {
        return false;
    }
    set("CLICOLOR_FORCE") || io::stdout().is_terminal()
}

/// A number of things in words: `1 warning`, `2 warnings`.
pub(crate) fn counted(count: usize, thing: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {thing}{plural}")
}

/// How long until a time, or since it, in the largest unit that says enough.
pub(crate) fn duration(seconds: i64) -> String {
    let whole = seconds.unsigned_abs();
    let text = match whole {
        0..120 => format!("{whole} s"),
        120..7200 => format!("{} min", whole / 60),
        7200..172_800 => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
        _ => format!("{} d", whole / 86_400),
    };
    if seconds < 0 { format!("-{text}") } else { text }
}

/// Seconds from now until a time (RFC 3339); negative if it is over.
pub(crate) fn seconds_until(time: &str) -> Option<i64> {
    let at: jiff::Timestamp = time.parse().ok()?;
    Some(at.as_second() - jiff::Timestamp::now().as_second())
}
