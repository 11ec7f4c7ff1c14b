//! `picket policy learn`: the least that recorded callers need, as Istio's policies.
//!
//! Only what was allowed is learnt. The result is printed only with its proof: the same records are decided once more by
//! what was learnt, beside everything that is in force but for its ALLOW policies, and nobody who was allowed is denied.

mod evidence;
mod paths;
mod yaml;

use std::path::Path;

use picket_policy::{Document, PolicySet};
use serde_json::json;

use super::replay::{Report, replay};
use crate::args::{ControlArguments, Format, LearnCommand};
use crate::client::Client;
use crate::exit::{Exit, Failure};
use crate::output;
use crate::recorded::{Entry, Mesh, Policies, Trail};
use evidence::Evidence;
use yaml::Learnt;

pub(super) async fn run(
    command: &LearnCommand,
    control: &ControlArguments,
) -> Result<Exit, Failure> {
    if let Some(out) = &command.out
        && out.exists()
    {
        let out = out.display();
        return Err(Failure::Usage(format!("--out {out} exists already; name a new directory")));
    }
    let client = Client::new(control)?;
    let mesh = Mesh::ask(&client).await?;
    let query = command.since.query()?;
    let mut evidence = Evidence::default();
    let mut trail = Trail::decisions(&client, query.clone());
    while let Some(page) = trail.next().await? {
        for record in &page.records {
            if let Ok(entry) = Entry::read(record) {
                evidence.add(&entry);
            }
        }
    }
    if evidence.is_empty() {
        return Err(Failure::Problems(
            "no allowed request is recorded in that time: there is nothing to learn from"
                .to_owned(),
        ));
    }
    let learnt = yaml::write(&evidence, &mesh)?;
    let mut candidate = Policies::new(beside(&learnt, &mesh)?);
    // What has arrived meanwhile was not learnt from, and proves nothing.
    let same = Trail::decisions(&client, query).first(trail.given());
    let proof = replay(same, &mut candidate).await?;
    refuse_without_proof(&proof, &evidence)?;
    for problem in learnt.iter().flat_map(|learnt| &learnt.remarks) {
        eprintln!("note: {problem}");
    }
    if proof.allows() > 0 {
        let allows = proof.allows();
        eprintln!(
            "note: {allows} recorded requests that were denied would be allowed, because others of \
             their kind were; put the result into a directory and see `picket policy replay`"
        );
    }
    match command.output.format {
        Format::Json => output::json(&json!({
            "policies": learnt,
            "proof": {
                "decisions": proof.decided(),
                "breaks": proof.breaks(),
                "allows": proof.allows(),
                "undecidable": proof.undecidable(),
            },
        }))?,
        Format::Table if command.out.is_none() => {
            let texts: Vec<&str> = learnt.iter().map(|learnt| learnt.text.as_str()).collect();
            output::line(texts.join("---\n").trim_end())?;
        }
        Format::Table => {}
    }
    if let Some(out) = &command.out {
        save(out, &learnt)?;
    }
    eprintln!(
        "proven: of {} recorded decisions none that was allowed would be denied ({} policies)",
        proof.decided(),
        learnt.len()
    );
    Ok(Exit::Fine)
}

/// What was learnt, beside what stays in force: everything but the ALLOW policies.
fn beside(learnt: &[Learnt], mesh: &Mesh) -> Result<PolicySet, Failure> {
    let clean = |documents: &[Document]| {
        PolicySet::parse(documents, mesh.settings.clone()).map_err(|problems| {
            Failure::Failed(format!(
                "what was learnt is no good policy; please report it:\n{problems}"
            ))
        })
    };
    let documents: Vec<Document> = learnt
        .iter()
        .map(|learnt| Document::whole(learnt.file.as_str(), learnt.text.as_str()))
        .collect();
    let alone = clean(&documents)?;
    if !alone.warnings().is_empty() {
        let warnings = alone.warnings();
        return Err(Failure::Failed(format!(
            "what was learnt does not lint clean; please report it:\n{warnings}"
        )));
    }
    let mut all = mesh.in_force()?.set.documents_but_allow();
    all.extend(documents);
    clean(&all)
}

fn refuse_without_proof(proof: &Report, evidence: &Evidence) -> Result<(), Failure> {
    if proof.unproven() == 0 {
        return Ok(());
    }
    let mut words = format!(
        "nothing is printed, because it is not proven: of {} recorded decisions {} would break and \
         {} cannot be told\n",
        proof.decided(),
        proof.breaks(),
        proof.unproven() - proof.breaks()
    );
    words.push_str(&proof.unproven_words());
    for what in evidence.unlearnable() {
        words.push_str(&format!("  cannot be written as a policy: {what}\n"));
    }
    words.push_str(
        "a shorter --since leaves out what was recorded before the last change of a RequestAuthentication",
    );
    Err(Failure::Problems(words))
}

fn save(directory: &Path, learnt: &[Learnt]) -> Result<(), Failure> {
    let failed =
        |error: std::io::Error| Failure::Failed(format!("--out {}: {error}", directory.display()));
    std::fs::create_dir_all(directory).map_err(failed)?;
    for Learnt { file, text, .. } in learnt {
        std::fs::write(directory.join(file), text).map_err(failed)?;
    }
    Ok(())
}
