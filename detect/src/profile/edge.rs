//! One edge: the calls of one service by one caller, or by all of them together.

use hashlink::LinkedHashMap;
use serde::{Deserialize, Serialize};
use sketches_ddsketch::{Config, DDSketch};

use super::series::{Change, Counts, DayTime, Found, Pace, Share, Sizes};
use super::sets::{Items, Seen};
use super::{Anomaly, Call, Feature};

/// Relative error of a quantile.
const ACCURACY: f64 = 0.05;
/// Records that a step names.
const EXAMPLES: usize = 3;
/// Routes of an edge whose rhythm is followed.
const MAX_BEATS: usize = 64;
/// Sizes below this are all the same, in bytes.
const SMALL: f64 = 64.0;
/// Of two that say the same within so many steps one is told.
const QUIET: u32 = 24;
const SIZES: Pace = Pace { learning: 288, calibrated: 864, adopted: 288, floor: 0.1, both: false };
const RATIO: Pace = Pace { both: true, ..SIZES };
/// Sizes that a sketch needs before its tail says anything.
const TAIL: usize = 400;
/// No single body below this is large, in bytes.
const NEVER_LARGE: f64 = 256.0 * 1024.0;

/// What is usual on an edge.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Edge {
    /// Hour of the first and of the last call, since 1970.
    pub(super) begun: u32,
    pub(super) last: u32,
    pub(super) calls: Items,
    pub(super) requests: Counts,
    errors: Share,
    refusals: Share,
    slow: Share,
    upload: Sizes,
    download: Sizes,
    ratio: Sizes,
    pub(super) latencies: DDSketch,
    pub(super) uploads: DDSketch,
    pub(super) downloads: DDSketch,
    /// Bodies above are unusual by themselves: requests', responses'.
    large: Option<(f64, f64)>,
    /// Microseconds above which a call is slow.
    slow_above: Option<f64>,
    beats: LinkedHashMap<String, Beat>,
    /// Of one caller: those of all together are a mixture, which says nothing.
    has_sizes: bool,
    /// Steps until sizes are told again.
    quiet: u32,
    now: Step,
}

/// What has come in the step at hand.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Step {
    count: f64,
    alerted: f64,
    errors: f64,
    refusals: f64,
    slow: f64,
    timed: f64,
    upload: f64,
    download: f64,
    examples: Vec<String>,
    failed: Vec<String>,
    largest: (f64, String),
}

/// Thresholds of one service.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Evidence that a cumulative sum needs.
    pub(super) evidence: f64,
    /// New items that a set may expect in a week and still be ready.
    pub(super) new_items: f64,
    /// False alarms that one stream may raise in a week.
    pub(super) alarms: f64,
    /// A new version has just come.
    pub(super) is_settling: bool,
}

impl Edge {
    pub(super) fn new(hour: u32, has_sizes: bool) -> Self {
        let sketch = || DDSketch::new(Config::new(ACCURACY, 2_048, 1.0));
        Self {
            begun: hour,
            last: hour,
            calls: Items::default(),
            requests: Counts::default(),
            errors: Share::default(),
            refusals: Share::default(),
            slow: Share::default(),
            upload: Sizes::default(),
            download: Sizes::default(),
            ratio: Sizes::default(),
            latencies: sketch(),
            uploads: sketch(),
            downloads: sketch(),
            large: None,
            slow_above: None,
            beats: LinkedHashMap::new(),
            has_sizes,
            quiet: 0,
            now: Step::default(),
        }
    }

    /// Takes a call. What is unusual about this one alone goes to `tell`.
    pub(super) fn take(&mut self, call: &Call<'_>, limits: &Limits, tell: &mut dyn FnMut(Anomaly)) {
        self.last = self.last.max(call.hour);
        self.now.take(call, self.slow_above);
        let (large_request, large_response) = self.large.unwrap_or((f64::MAX, f64::MAX));
        let example = || vec![call.id.to_owned()];
        for (size, above, feature) in [
            (call.upload, large_request, Feature::LargeRequest),
            (call.download, large_response, Feature::LargeResponse),
        ] {
            if size > above && !limits.is_settling {
                tell(Anomaly::single(feature, above, size, "bytes", example()));
            }
        }
        if call.is_alerted {
            return;
        }
        if let Some(latency) = call.latency {
            self.latencies.add(latency);
        }
        // What is unusual does not become usual.
        self.uploads.add(call.upload.min(large_request));
        self.downloads.add(call.download.min(large_response));
        if let Some(name) = call.call.as_deref() {
            let seen = match limits.is_settling {
                true => {
                    self.calls.learn(name, call.hour);
                    Seen::Known
                }
                false => self.calls.see(name, call.hour, limits.new_items),
            };
            if seen == Seen::New {
                let usual = self.calls.len() as f64;
                tell(Anomaly::new_item(Feature::NewCall, name, usual, example()));
            }
            self.beat(name, call, tell);
        }
    }

    /// Takes a call of all callers' sum: counts alone.
    pub(super) fn take_counts(&mut self, call: &Call<'_>) {
        self.last = self.last.max(call.hour);
        self.now.take(call, self.slow_above);
    }

    fn beat(&mut self, name: &str, call: &Call<'_>, tell: &mut dyn FnMut(Anomaly)) {
        if !self.beats.contains_key(name) {
            if self.beats.len() >= MAX_BEATS {
                self.beats.pop_front();
            }
            self.beats.insert(name.to_owned(), Beat::default());
        }
        if let Some(beat) = self.beats.to_back(name)
            && let Some(period) = beat.take(call.seconds)
        {
            tell(Anomaly {
                feature: Feature::Regular,
                of: Some(name.to_owned()),
                expected: (REGULAR, f64::MAX),
                observed: period.0,
                unit: "coefficient of variation".into(),
                over_seconds: (period.1 * f64::from(WINDOW)) as u64,
                evidence: None,
                records: vec![call.id.to_owned()],
            });
        }
    }

    /// Ends a step of time. Counts are not looked at if nothing at all was heard of the service.
    pub(super) fn close(
        &mut self,
        at: DayTime,
        step_seconds: u64,
        is_heard: bool,
        limits: &Limits,
        tell: &mut dyn FnMut(Anomaly),
    ) {
        let step = std::mem::take(&mut self.now);
        let h = limits.evidence * if limits.is_settling { 2.0 } else { 1.0 };
        let n = step.count;
        let trains = step.alerted * 20.0 <= n;
        let mut found = |feature,
                         found: Option<Found>,
                         interval: (f64, f64),
                         records: &[String],
                         unit: &'static str| {
            if let Some(found) = found {
                tell(Anomaly {
                    feature,
                    of: None,
                    expected: interval,
                    observed: found.observed,
                    unit: unit.into(),
                    over_seconds: u64::from(found.steps) * step_seconds,
                    evidence: Some((found.sum, found.threshold)),
                    records: records.to_vec(),
                });
            }
        };
        if is_heard {
            let of = self.requests.step(n, at, trains, h);
            let interval = of.map(|f| self.requests.interval(f.expected, f.steps));
            let feature = match of.map(|found| found.change) {
                Some(Change::Less) => Feature::FewerRequests,
                _ => Feature::MoreRequests,
            };
            found(feature, of, interval.unwrap_or_default(), &step.examples, "requests");
        }
        if n == 0.0 {
            return;
        }
        let shares = [
            (Feature::Errors, &mut self.errors, step.errors, n),
            (Feature::Refusals, &mut self.refusals, step.refusals, n),
            (Feature::Slow, &mut self.slow, step.slow, step.timed),
        ];
        for (feature, share, x, of) in shares {
            let result = share.step(x, of, 3.0, trains, h);
            let interval = result.map(|f| share.interval(f.expected, f.steps));
            found(feature, result, interval.unwrap_or_default(), &step.failed, "requests");
        }
        if !self.has_sizes {
            return;
        }
        let (up, down) = (step.upload / n, step.download / n);
        let (_, first) = step.largest;
        let others = step.examples.into_iter().filter(|id| *id != first).take(EXAMPLES - 1);
        let mut largest: Vec<String> = others.collect();
        largest.insert(0, first);
        self.quiet = self.quiet.saturating_sub(1);
        for (feature, sizes, y, pace) in [
            (Feature::Upload, &mut self.upload, up, &SIZES),
            (Feature::Download, &mut self.download, down, &SIZES),
            (Feature::Ratio, &mut self.ratio, up - down, &RATIO),
        ] {
            let result = sizes.step(y, n, trains, pace, h).map(|mut found| {
                found.observed = (found.observed / f64::from(found.steps.max(1))).exp();
                found
            });
            // The proportion changes with either of the others.
            if result.is_some() && std::mem::replace(&mut self.quiet, QUIET) > 0 {
                continue;
            }
            let unit = if feature == Feature::Ratio { "request / response bytes" } else { "bytes" };
            found(feature, result, sizes.interval(n, pace.floor), &largest, unit);
        }
    }

    /// Once an hour: what is slow, and what is large.
    pub(super) fn settle(&mut self, hour: u32, limits: &Limits) {
        let hours = hour.saturating_sub(self.begun);
        if hours < 24 {
            return;
        }
        let quantile = |sketch: &DDSketch, q| sketch.quantile(q).ok().flatten();
        if self.slow_above.is_none() && self.latencies.count() >= TAIL {
            self.slow_above = quantile(&self.latencies, 0.98).map(|us| us * 1.5);
        }
        let weeks = f64::from(hours) / 168.0;
        let above = |sketch: &DDSketch| {
            let count = sketch.count();
            if count < TAIL {
                return f64::MAX;
            }
            let (Some(low), Some(high)) = (quantile(sketch, 0.95), quantile(sketch, 0.995)) else {
                return f64::MAX;
            };
            // A Pareto tail through both, which is heavier than those of sizes are: how far it has to be gone out until
            // no more of a week lie above than alarms are allowed.
            let steepness =
                (0.05_f64 / 0.005).ln() / ((high + SMALL) / (low + SMALL)).ln().max(0.05);
            let beyond = count as f64 / weeks * 0.005 / limits.alarms;
            let above = high * beyond.max(1.0).powf(1.0 / steepness.clamp(0.7, 6.0));
            above.max(2.0 * sketch.max().unwrap_or_default()).max(NEVER_LARGE)
        };
        self.large = Some((above(&self.uploads), above(&self.downloads)));
    }
}

impl Step {
    fn take(&mut self, call: &Call<'_>, slow_above: Option<f64>) {
        self.count += 1.0;
        self.alerted += f64::from(u8::from(call.is_alerted));
        let example = |list: &mut Vec<String>| {
            if list.len() < EXAMPLES {
                list.push(call.id.to_owned());
            }
        };
        example(&mut self.examples);
        let mut is_failed = false;
        if call.is_error {
            self.errors += 1.0;
            is_failed = true;
        }
        if call.is_refused {
            self.refusals += 1.0;
            is_failed = true;
        }
        if let (Some(latency), Some(above)) = (call.latency, slow_above) {
            self.timed += 1.0;
            if latency > above {
                self.slow += 1.0;
                is_failed = true;
            }
        }
        if is_failed {
            example(&mut self.failed);
        }
        self.upload += (call.upload + SMALL).ln();
        self.download += (call.download + SMALL).ln();
        let size = call.upload.max(call.download);
        if size > self.largest.0 || self.largest.1.is_empty() {
            self.largest = (size, call.id.to_owned());
        }
    }
}

/// Calls in a row whose rhythm is looked at.
const WINDOW: u32 = 24;
/// Standard deviation of the times between calls, by their mean, below which they are a machine's: that of chance is 1.
const REGULAR: f64 = 0.35;
/// Windows in which it is learnt whether a route is called regularly as a rule.
const RHYTHM_LEARNT: u32 = 6;
/// No rhythm faster than this is told, in seconds.
const FASTEST: f64 = 5.0;

/// The rhythm in which a route is called.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct Beat {
    last: f64,
    count: u32,
    mean: f64,
    squares: f64,
    windows: u32,
    /// Windows that were regular, of those it was learnt from.
    regular: u32,
    in_row: u32,
}

impl Beat {
    /// Variation and seconds between, if it has become regular.
    fn take(&mut self, seconds: f64) -> Option<(f64, f64)> {
        let gap = seconds - self.last;
        let is_first = self.last == 0.0;
        self.last = self.last.max(seconds);
        if is_first || gap < 0.0 {
            return None;
        }
        self.count += 1;
        let residual = gap - self.mean;
        self.mean += residual / f64::from(self.count);
        self.squares += residual * (gap - self.mean);
        if self.count < WINDOW {
            return None;
        }
        let variation = (self.squares / f64::from(self.count)).sqrt() / self.mean.max(1e-6);
        let mean = self.mean;
        (self.count, self.mean, self.squares) = (0, 0.0, 0.0);
        let is_regular = variation < REGULAR && mean >= FASTEST;
        self.windows = self.windows.saturating_add(1);
        if self.windows <= RHYTHM_LEARNT {
            self.regular += u32::from(is_regular);
            return None;
        }
        self.in_row = if is_regular { self.in_row + 1 } else { 0 };
        (self.in_row == 2 && self.regular == 0).then_some((variation, mean))
    }
}
