//! Who says what: each event held against each rule, by Picket and by the other evaluator.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use picket_detect::{Document, Engine, Event, RuleSet};
use rsigma_eval::event::JsonEvent;
use rsigma_eval::{CorrelationConfig, CorrelationEngine};
use rsigma_parser::{LogSource, parse_sigma_yaml};
use serde_json::{Value, json};

/// For each rule, by its id, the events that it matched; of a correlation those that found it complete.
pub type Decisions = BTreeMap<String, Vec<bool>>;

/// A rule, correlation or filter, as one document. JSON is YAML.
pub fn text(docs: &[Value]) -> String {
    docs.iter().map(|doc| format!("---\n{doc}\n")).collect()
}

/// The ids of documents that decide something: all but filters.
pub fn ids(docs: &[Value]) -> Vec<String> {
    let rules = docs.iter().filter(|doc| doc.get("filter").is_none());
    rules.filter_map(|doc| Some(doc.get("id")?.as_str()?.to_owned())).collect()
}

/// What Picket says.
pub fn ours(text: &str, docs: &[Value], events: &[Value]) -> Result<Decisions> {
    let set = RuleSet::parse(&[Document::whole("rules.yaml", text)])
        .map_err(|diagnostics| anyhow::anyhow!("{diagnostics}"))?;
    let mut engine = Engine::new(&set);
    let mut decisions: Decisions = ids(docs).into_iter().map(|id| (id, Vec::new())).collect();
    let mut before: BTreeMap<String, u64> = BTreeMap::new();
    for event in events {
        let record = event.as_object().context("an event is no object")?;
        engine.observe(&Event::read(record)?);
        for (id, counts) in engine.counts() {
            let matched = before.insert(id.clone(), counts.matched).unwrap_or(0) < counts.matched;
            if let Some(decided) = decisions.get_mut(&id) {
                decided.push(matched);
            }
        }
    }
    Ok(decisions)
}

/// What the other evaluator says.
pub fn theirs(docs: &[Value], events: &[Value]) -> Result<Decisions> {
    let docs: Vec<Value> = docs.iter().map(explicit).collect();
    let ids = ids(&docs);
    let collection = parse_sigma_yaml(&text(&docs))?;
    if let Some(error) = collection.errors.first() {
        bail!("{error}");
    }
    let mut engine = CorrelationEngine::new(CorrelationConfig::default());
    engine.add_collection(&collection)?;
    let mut decisions: Decisions =
        ids.into_iter().map(|id| (id, vec![false; events.len()])).collect();
    for (number, event) in events.iter().enumerate() {
        let name = |field| event.get(field).and_then(Value::as_str).map(str::to_owned);
        // Where an event comes from is an attribute of ours and none of Sigma's.
        let source = LogSource {
            product: Some("picket".to_owned()),
            category: name("picket.kind"),
            service: name("service.name"),
            ..LogSource::default()
        };
        let flat = JsonEvent::borrow(event);
        let found = engine.engine().evaluate_with_logsource(&flat, &source);
        for result in engine.process_with_detections(&flat, found, seconds(event)?) {
            let decided = result.header.rule_id.and_then(|id| decisions.get_mut(&id));
            if let Some(slot) = decided.and_then(|decided| decided.get_mut(number)) {
                *slot = true;
            }
        }
    }
    Ok(decisions)
}

/// A temporal correlation asks for all of its rules; the other evaluator wants to be told so.
fn explicit(doc: &Value) -> Value {
    let mut doc = doc.clone();
    let rules = doc.pointer("/correlation/rules").and_then(Value::as_array).map_or(0, Vec::len);
    if let Some(correlation) = doc.get_mut("correlation").and_then(Value::as_object_mut) {
        correlation.entry("condition").or_insert_with(|| json!({"gte": rules}));
    }
    doc
}

/// The time of an event in whole seconds, which is what generated ones have.
pub fn seconds(event: &Value) -> Result<i64> {
    let record = event.as_object().context("an event is no object")?;
    Ok(Event::read(record)?.time() / 1_000_000_000)
}
