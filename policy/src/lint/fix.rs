//! Puts the changes that findings offer into the text, and touches nothing else: comments, quotes and layout stay.
//!
//! A change is made only if the text at its place is, letter for letter, the value that was read there; where a value is
//! folded, escaped or an alias the finding is left to the reader. What came of it is for the caller to check again.

use crate::diagnostic::Diagnostic;

/// A file under change.
#[derive(Clone, Debug)]
pub struct Edited {
    original: Vec<String>,
    /// The lines that are left: the number that each had at first, and its text.
    lines: Vec<(usize, String)>,
}

impl Edited {
    /// A file before any change.
    pub fn new(text: &str) -> Self {
        let original: Vec<String> = text.split_inclusive('\n').map(str::to_owned).collect();
        Self { lines: original.iter().cloned().enumerate().collect(), original }
    }

    /// Makes the changes that the problems of its present text offer; says how many were made.
    pub fn apply<'d>(&mut self, problems: impl IntoIterator<Item = &'d Diagnostic>) -> usize {
        let mut changes: Vec<&Diagnostic> =
            problems.into_iter().filter(|problem| problem.fix.is_some()).collect();
        // From the end, so that lines and columns before stay what they are.
        changes.sort_by_key(|problem| std::cmp::Reverse((problem.line, problem.column)));
        changes.dedup_by_key(|problem| (problem.line, problem.column));
        let mut made = 0;
        for problem in changes {
            let Some(fix) = &problem.fix else { continue };
            let index = |number: u32| usize::try_from(number).unwrap_or_default().wrapping_sub(1);
            let (line, column) = (index(problem.line), index(problem.column));
            let Some((_, text)) = self.lines.get_mut(line) else { continue };
            let after = match &fix.replacement {
                Some(value) => replace(text, column, &fix.value, value).map(Some),
                None => remove(text, column, &fix.value),
            };
            match after {
                Some(Some(after)) => *text = after,
                Some(None) => drop(self.lines.remove(line)),
                None => continue,
            }
            made += 1;
        }
        made
    }

    /// The present text.
    pub fn text(&self) -> String {
        self.lines.iter().map(|(_, line)| line.as_str()).collect()
    }

    /// What has changed, as a unified diff; nothing if nothing has.
    pub fn diff(&self, name: &str) -> String {
        const CONTEXT: usize = 3;
        let mut now: Vec<Option<&str>> = vec![None; self.original.len()];
        for (number, text) in &self.lines {
            if let Some(slot) = now.get_mut(*number) {
                *slot = Some(text);
            }
        }
        let is_changed = |at: usize| match (self.original.get(at), now.get(at)) {
            (Some(before), Some(after)) => *after != Some(before),
            _ => false,
        };
        let changed: Vec<usize> = (0..self.original.len()).filter(|at| is_changed(*at)).collect();
        if changed.is_empty() {
            return String::new();
        }
        let mut diff = format!("--- a/{name}\n+++ b/{name}\n");
        for hunk in changed.chunk_by(|a, b| b - a <= 2 * CONTEXT) {
            let (Some(first), Some(last)) = (hunk.first(), hunk.last()) else { continue };
            let start = first.saturating_sub(CONTEXT);
            let end = (last + CONTEXT + 1).min(self.original.len());
            let left = |range: std::ops::Range<usize>| {
                range.filter(|at| now.get(*at).is_some_and(Option::is_some)).count()
            };
            diff.push_str(&format!(
                "@@ -{},{} +{},{} @@\n",
                start + 1,
                end - start,
                left(0..start) + 1,
                left(start..end),
            ));
            for at in start..end {
                let (Some(before), Some(after)) = (self.original.get(at), now.get(at)) else {
                    continue;
                };
                if !is_changed(at) {
                    push(&mut diff, ' ', before);
                    continue;
                }
                push(&mut diff, '-', before);
                if let Some(after) = after {
                    push(&mut diff, '+', after);
                }
            }
        }
        diff
    }
}

fn push(diff: &mut String, sign: char, line: &str) {
    diff.push(sign);
    diff.push_str(line);
    if !line.ends_with('\n') {
        diff.push_str("\n\\ No newline at end of file\n");
    }
}

/// A scalar in a line: where it begins and ends in bytes, quotes included, and its quote.
struct Scalar {
    start: usize,
    end: usize,
    quote: Option<char>,
}

/// The scalar at a column, if it is the value in one piece.
fn scalar(line: &str, column: usize, value: &str) -> Option<Scalar> {
    let start = line.char_indices().map(|(at, _)| at).nth(column)?;
    let rest = line.get(start..)?;
    let (quote, inner) = match rest.chars().next()? {
        quote @ ('"' | '\'') => (Some(quote), rest.get(1..)?),
        _ => (None, rest),
    };
    let after = inner.strip_prefix(value)?;
    let end = match quote {
        // What is written with escapes is another text than its value.
        Some(_) if value.contains(['\\', '"', '\'']) => return None,
        Some(quote) => {
            let after = after.strip_prefix(quote)?;
            line.len() - after.len()
        }
        None => line.len() - after.len(),
    };
    let after = line.get(end..)?;
    let trimmed = after.trim_start_matches([' ', '\t']);
    let has_space = trimmed.len() < after.len();
    let is_end = trimmed.is_empty()
        || trimmed.starts_with(['\n', '\r', ',', ']', '}'])
        || (trimmed.starts_with('#') && has_space);
    let before = line.get(..start)?.trim_end_matches([' ', '\t']);
    let is_begin = match before.chars().next_back() {
        // After an anchor or a tag, what stands here may be of use elsewhere.
        Some(last) => "-[,:{".contains(last),
        // A line of its own may be one of a folded text; with a comma or a bracket it is not.
        None => quote.is_some() || trimmed.starts_with([',', ']']),
    };
    (is_begin && is_end).then_some(Scalar { start, end, quote })
}

fn replace(line: &str, column: usize, value: &str, new: &str) -> Option<String> {
    let Scalar { start, end, quote } = scalar(line, column, value)?;
    if new.contains(['\\', '"', '\'']) || new.chars().any(char::is_control) {
        return None;
    }
    let quote = match quote {
        None if is_plain(new) => String::new(),
        None => "\"".to_owned(),
        Some(quote) => quote.to_string(),
    };
    Some(format!("{}{quote}{new}{quote}{}", line.get(..start)?, line.get(end..)?))
}

/// Whether a string may stand without quotes, in any place of any document.
fn is_plain(text: &str) -> bool {
    let begins = |c: char| c.is_ascii_alphabetic() || c == '/';
    let holds = |c: char| c.is_ascii_alphanumeric() || "/-._*@".contains(c);
    let is_word = matches!(
        text.to_ascii_lowercase().as_str(),
        "y" | "n" | "yes" | "no" | "true" | "false" | "on" | "off" | "null"
    );
    text.starts_with(begins) && text.chars().all(holds) && !is_word
}

/// Takes an entry out of a list. `Some(None)`: the whole line goes.
fn remove(line: &str, column: usize, value: &str) -> Option<Option<String>> {
    let Scalar { start, end, .. } = scalar(line, column, value)?;
    let (before, after) = (line.get(..start)?, line.get(end..)?);
    if before.trim_start() == "- " && after.trim().is_empty() {
        return Some(None);
    }
    // Within brackets on one line: with the comma before it.
    let kept = before.trim_end_matches([' ', '\t']).strip_suffix(',')?;
    Some(Some(format!("{kept}{after}")))
}
