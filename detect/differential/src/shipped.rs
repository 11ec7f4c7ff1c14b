//! The rules that Picket comes with.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use picket_documents::{Diagnostics, Document, yaml};
use serde_json::Value;

/// As they are written, and as JSON.
pub struct Shipped {
    pub text: String,
    pub docs: Vec<Value>,
}

/// Reads them.
pub fn rules() -> Result<Shipped> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../control/rules");
    let entries = std::fs::read_dir(&directory)
        .with_context(|| format!("the rules in {} cannot be read", directory.display()))?;
    let mut files: Vec<_> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    let mut shipped = Shipped { text: String::new(), docs: Vec::new() };
    for path in files {
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("{} cannot be read", path.display()))?;
        let mut diagnostics = Diagnostics::default();
        let file = Document::whole(path.display().to_string(), text.clone());
        for document in yaml::split(&file, &mut diagnostics) {
            shipped.docs.extend(yaml::read(&document, &mut diagnostics).map(|node| node.json()));
        }
        if diagnostics.has_errors() {
            bail!("{diagnostics}");
        }
        shipped.text.push_str("---\n");
        shipped.text.push_str(&text);
    }
    if shipped.docs.is_empty() {
        bail!("there are no rules in {}", directory.display());
    }
    Ok(shipped)
}
