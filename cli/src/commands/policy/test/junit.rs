//! Results as JUnit XML, which CI systems read: one `testsuite` for each PolicyTest, no times, no properties.
//!
//! Format: the Apache Ant JUnit schema as CI systems read it. XML 1.0 cannot hold most control characters at all, so they
//! become U+FFFD.

use super::Outcome;

pub(super) fn report(outcomes: &[Outcome]) -> String {
    let failed = |outcomes: &[Outcome]| outcomes.iter().filter(|outcome| !outcome.passed).count();
    let mut xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"picket policy test\" tests=\"{}\" failures=\"{}\">\n",
        outcomes.len(),
        failed(outcomes),
    );
    let is_one = |a: &Outcome, b: &Outcome| a.file == b.file && a.suite == b.suite;
    for suite in outcomes.chunk_by(is_one) {
        let Some(first) = suite.first() else { continue };
        let name = attribute(&first.suite);
        xml.push_str(&format!(
            "  <testsuite name=\"{name}\" tests=\"{}\" failures=\"{}\" errors=\"0\" skipped=\"0\">\n",
            suite.len(),
            failed(suite),
        ));
        for outcome in suite {
            let (case, file) = (attribute(&outcome.name), attribute(&outcome.file));
            let line = outcome.line;
            xml.push_str(&format!(
                "    <testcase classname=\"{name}\" name=\"{case}\" file=\"{file}\" line=\"{line}\""
            ));
            if outcome.passed {
                xml.push_str("/>\n");
                continue;
            }
            let message: Vec<_> = outcome.mismatches.iter().map(ToString::to_string).collect();
            xml.push_str(&format!(
                ">\n      <failure message=\"{}\">{}</failure>\n    </testcase>\n",
                attribute(&message.join("; ")),
                content(&outcome.failure()),
            ));
        }
        xml.push_str("  </testsuite>\n");
    }
    xml.push_str("</testsuites>\n");
    xml
}

/// A text between tags.
fn content(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push(character),
            // XML 1.0, 2.2: what is no character cannot be written as a reference either.
            '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            _ => out.push(character),
        }
    }
    out
}

/// A text in double quotes, where a line's end would become a space.
fn attribute(text: &str) -> String {
    content(text).replace('\n', "&#10;").replace('\t', "&#9;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_xml_cannot_hold_is_written_otherwise() {
        assert_eq!(
            content("a<b> & \"c\"\r\u{1b}\n"),
            "a&lt;b&gt; &amp; &quot;c&quot;\u{fffd}\u{fffd}\n"
        );
        assert_eq!(attribute("a\n\tb"), "a&#10;&#9;b");
    }
}
