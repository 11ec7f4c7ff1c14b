//! Spans that will never arrive, brought together so that few words declare many.

use std::collections::BTreeMap;

use crate::audit::notice::Missing;
use crate::spool::{Completed, Reader};

#[derive(Default)]
pub(super) struct Remainder(Vec<Completed>);

impl Remainder {
    pub(super) fn take(&mut self, spans: Vec<Completed>) {
        self.0.extend(spans);
    }

    /// What is missing of each lane, and the spans themselves.
    pub(super) fn into_missing(
        self,
        reader: &Reader,
        reason: &'static str,
    ) -> Vec<(Missing, Vec<Completed>)> {
        let mut lanes: BTreeMap<(usize, u32), Vec<Completed>> = BTreeMap::new();
        for span in self.0 {
            lanes.entry((span.boot(), span.lane())).or_default().push(span);
        }
        let missing = lanes.into_iter().map(|((boot, lane), spans)| {
            let numbers = || spans.iter().map(Completed::sequence);
            let missing = Missing {
                reason,
                count: spans.len() as u64,
                boot: reader.name(boot).to_owned(),
                lane,
                range: numbers().min().zip(numbers().max()),
            };
            (missing, spans)
        });
        missing.collect()
    }
}
