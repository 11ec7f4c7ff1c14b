//! How much is usual: counts by the time of the day, shares of a count, and sizes; and when it is no longer usual.
//!
//! Each series is watched by cumulative sums of log-likelihood ratios (CUSUM: E. S. Page, "Continuous inspection schemes",
//! Biometrika 41, 1954): the evidence that what comes is a stated factor more, or less, than what is usual. Counts are taken
//! as negative binomial, because requests come in bunches: variance `mu + mu² / r`, with `r` estimated from the residuals.
//! With a threshold `h` such a sum raises a false alarm once in `e^h` steps or more rarely, if the model holds; where it does
//! not, the highest sum that was seen while nothing was wrong is a lower bound of the threshold.

use serde::{Deserialize, Serialize};

/// How much the highest sum of calm times, or of what was told, has to be exceeded.
const ABOVE_PEAK: f64 = 1.3;
/// What is left of the memory of peaks after each step of five minutes: half after four weeks.
const PEAK_MEMORY: f64 = 0.999_914;
/// Steps in which the mean is learnt, and no sum is kept: two days.
const LEARNING: u32 = 576;
/// Steps after which alarms are raised: until then the highest sums are learnt. Four days.
const CALIBRATED: u32 = 1_152;
/// Below so many in a step fewer of them are not noticed.
const RARE: f64 = 0.1;
/// The same of steps in which there was something.
pub(super) const SPARSE: (u32, u32) = (60, 200);
/// Of means and dispersions: the weight that the past keeps with each step; half is forgotten after ten days.
const MEMORY: f64 = 0.999_76;

/// More, or less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// More than usual.
    More,
    /// Less than usual.
    Less,
}

/// One cumulative sum.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct Cusum {
    sum: f64,
    peak: f64,
    /// Since the sum was zero: what was expected, and what came.
    expected: f64,
    observed: f64,
    steps: u32,
    /// It has been told and is not over yet.
    is_told: bool,
}

/// The most that a sum comes to, in thresholds: what is over is to be seen soon.
const FULL: f64 = 1.5;

/// What a cumulative sum has found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Found {
    pub(super) change: Change,
    pub(super) expected: f64,
    pub(super) observed: f64,
    pub(super) steps: u32,
    /// Evidence and threshold, in natural units.
    pub(super) sum: f64,
    pub(super) threshold: f64,
}

impl Cusum {
    /// Adds evidence; what it has come to, if that is enough.
    fn add(&mut self, llr: f64, x: f64, mu: f64, change: Change, threshold: f64) -> Option<Found> {
        let threshold = threshold.max(self.peak * ABOVE_PEAK);
        self.sum = (self.sum + llr).clamp(0.0, threshold * FULL);
        self.peak *= PEAK_MEMORY;
        if self.sum == 0.0 {
            (self.expected, self.observed, self.steps) = (0.0, 0.0, 0);
        } else {
            self.expected += mu;
            self.observed += x;
            self.steps += 1;
        }
        self.is_told &= self.sum > threshold / 2.0;
        if self.sum < threshold || self.is_told {
            return None;
        }
        // A weaker one like it is not told for some weeks.
        (self.is_told, self.peak) = (true, self.peak.max(self.sum));
        let Self { sum, expected, observed, steps, .. } = *self;
        Some(Found { change, expected, observed, steps, sum, threshold })
    }

    /// Nothing was wrong up to here.
    fn calm(&mut self) {
        self.peak = self.peak.max(self.sum);
    }

    /// Whether there is that much evidence that what comes is not usual.
    fn is_suspicious(&self, threshold: f64) -> bool {
        self.is_told || self.sum > threshold.max(self.peak * ABOVE_PEAK) / 2.0
    }

    fn reset(&mut self) {
        *self = Self { peak: self.peak, ..Self::default() };
    }
}

/// The dispersion of counts: `1 / r`, by the method of moments.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct Dispersion {
    excess: f64,
    squares: f64,
}

impl Dispersion {
    fn learn(&mut self, x: f64, mu: f64) {
        // A single step that is far off must not make all others usual.
        let residual = (x - mu).clamp(-6.0 * (mu + 1.0), 6.0 * (mu + 1.0));
        self.excess = self.excess * MEMORY + residual * residual - mu;
        self.squares = self.squares * MEMORY + mu * mu;
    }

    /// `r`: large if counts are nearly Poisson.
    fn size(&self) -> f64 {
        let inverse = (self.excess + 0.05) / (self.squares + 1.0);
        1.0 / inverse.clamp(0.01, 50.0)
    }
}

/// The log-likelihood ratio of a negative binomial with `k` times the mean.
fn llr(x: f64, mu: f64, k: f64, r: f64) -> f64 {
    x * k.ln() - (x + r) * ((k * mu + r) / (mu + r)).ln()
}

/// Hours of a day, twice: of working days, and of weekends.
const SLOTS: usize = 48;

/// Steps that an hour's mean is made of before it says what is usual: of two days.
const TWO_DAYS: f32 = 24.0;

/// Counts of equal steps of time, with a daily course of their own at weekends.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Counts {
    /// Mean of a slot and the steps that it is made of.
    slots: Vec<(f32, f32)>,
    dispersion: Dispersion,
    more: Cusum,
    less: Cusum,
    steps: u32,
    /// Steps for which something has been wrong.
    wrong: u32,
    /// A lasting change, as a factor.
    level: f64,
    /// What came and what was expected since it is wrong.
    came: (f64, f64),
}

/// Steps of five minutes after which what is unusual is the new usual: a day.
const ADOPTED: u32 = 288;

impl Default for Counts {
    fn default() -> Self {
        Self {
            slots: vec![(0.0, 0.0); SLOTS],
            dispersion: Dispersion::default(),
            more: Cusum::default(),
            less: Cusum::default(),
            steps: 0,
            wrong: 0,
            level: 1.0,
            came: (0.0, 0.0),
        }
    }
}

impl Counts {
    /// What is usual at a minute of a day; none if that has not been seen often enough.
    pub(super) fn expected(&self, at: DayTime) -> Option<f64> {
        // Between the middles of two hours.
        let minute = f64::from(at.minute) - 30.0;
        let hour = (minute / 60.0).floor();
        let share = minute / 60.0 - hour;
        let slot = |hour: f64| {
            let hour = (hour.rem_euclid(24.0)) as usize;
            let (mean, steps) = self.slots.get(at.offset() + hour)?;
            (*steps >= TWO_DAYS).then_some(f64::from(*mean))
        };
        let (before, after) = (slot(hour)?, slot(hour + 1.0)?);
        Some(self.level * (before + (after - before) * share))
    }

    /// Takes a step. `trains` is false if it is known to be unusual.
    pub(super) fn step(&mut self, x: f64, at: DayTime, trains: bool, h: f64) -> Option<Found> {
        let Some(mu) = self.expected(at).map(|mu| mu.max(0.02)).filter(|_| self.steps >= LEARNING)
        else {
            let mu = self.expected(at);
            self.learn(x, at, mu);
            return None;
        };
        let r = self.dispersion.size();
        let found = self.more.add(llr(x, mu, 2.0, r), x, mu, Change::More, h);
        // Silence says nothing where next to nothing is expected.
        let evidence = if mu < RARE { 0.0 } else { llr(x, mu, 0.33, r) };
        let less = self.less.add(evidence, x, mu, Change::Less, h);
        let found = found.or(less);
        if self.steps < CALIBRATED {
            self.more.calm();
            self.less.calm();
            self.learn(x, at, Some(mu));
            return None;
        }
        if self.more.is_suspicious(h) || self.less.is_suspicious(h) {
            self.wrong += 1;
            self.came = (self.came.0 + x, self.came.1 + mu);
            if self.wrong > ADOPTED {
                // It has been told, and it stays.
                self.level *= ((self.came.0 + 1.0) / (self.came.1 + 1.0)).clamp(1e-4, 1e4);
                self.settle();
            }
        } else {
            (self.wrong, self.came) = (0, (0.0, 0.0));
            self.more.calm();
            self.less.calm();
            if trains {
                self.learn(x, at, Some(mu));
            }
        }
        found
    }

    /// Forgets evidence: what comes is usual from now on.
    fn settle(&mut self) {
        (self.wrong, self.came) = (0, (0.0, 0.0));
        self.more.reset();
        self.less.reset();
    }

    fn learn(&mut self, x: f64, at: DayTime, mu: Option<f64>) {
        self.steps = self.steps.saturating_add(1);
        if let Some(mu) = mu {
            self.dispersion.learn(x, mu);
        }
        let slot = at.offset() + usize::from(at.minute / 60);
        if let Some((mean, steps)) = self.slots.get_mut(slot) {
            // Half of what a slot knows is from the last two weeks or so.
            *steps = (*steps + 1.0).min(120.0);
            *mean += ((x / self.level) as f32 - *mean) / *steps;
        }
    }

    /// The interval in which nine of ten such steps lie, if `steps` of them are taken together.
    pub(super) fn interval(&self, mu: f64, steps: u32) -> (f64, f64) {
        interval(mu, self.dispersion.size() * f64::from(steps.max(1)))
    }

    /// By hour: working days, weekends. A slot without data is none.
    pub(super) fn course(&self) -> impl Iterator<Item = Option<f32>> {
        let level = self.level as f32;
        self.slots.iter().map(move |(mean, steps)| (*steps > 0.0).then_some(mean * level))
    }

    pub(super) fn is_ready(&self) -> bool {
        self.steps >= CALIBRATED
    }
}

/// Nine of ten by the normal approximation, which is meant for a reader.
fn interval(mu: f64, r: f64) -> (f64, f64) {
    let deviation = (mu + mu * mu / r).sqrt();
    ((mu - 1.645 * deviation).max(0.0), mu + 1.645 * deviation)
}

/// The minute of a day in UTC, and whether the day is a Saturday or a Sunday.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DayTime {
    minute: u16,
    weekend: bool,
}

impl DayTime {
    /// Of seconds since 1970.
    pub(super) fn of(seconds: i64) -> Self {
        let day = seconds.div_euclid(86_400);
        // 1 January 1970 was a Thursday.
        let weekend = matches!((day + 3).rem_euclid(7), 5 | 6);
        Self { minute: (seconds.rem_euclid(86_400) / 60) as u16, weekend }
    }

    fn offset(self) -> usize {
        if self.weekend { SLOTS / 2 } else { 0 }
    }
}

/// A share of a count: of so many requests so many were of a kind.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct Share {
    hits: f64,
    of: f64,
    dispersion: Dispersion,
    more: Cusum,
    steps: u32,
    wrong: u32,
}

impl Share {
    /// The learnt share; at least what so many requests cannot exclude.
    pub(super) fn rate(&self) -> f64 {
        (self.hits + 0.5) / (self.of + 50.0)
    }

    /// Takes a step in which `x` of `of` were of the kind. More than `k` times the share is unusual.
    pub(super) fn step(&mut self, x: f64, of: f64, k: f64, trains: bool, h: f64) -> Option<Found> {
        if of == 0.0 {
            return None;
        }
        let mu = self.rate() * of;
        self.steps = self.steps.saturating_add(1);
        if self.steps < SPARSE.0 || self.of < 200.0 {
            self.learn(x, of, mu);
            return None;
        }
        let r = self.dispersion.size();
        let found = self.more.add(llr(x, mu, k, r), x, mu, Change::More, h);
        if self.steps < SPARSE.1 {
            self.more.calm();
            self.learn(x, of, mu);
            return None;
        }
        if self.more.is_suspicious(h) {
            self.wrong += 1;
            if self.wrong > ADOPTED {
                self.wrong = 0;
                self.more.reset();
                (self.hits, self.of) = (self.hits + x * 4.0, self.of + of * 4.0);
            }
        } else {
            self.wrong = 0;
            self.more.calm();
            if trains {
                self.learn(x, of, mu);
            }
        }
        found
    }

    fn learn(&mut self, x: f64, of: f64, mu: f64) {
        self.hits = self.hits * MEMORY + x;
        self.of = self.of * MEMORY + of;
        self.dispersion.learn(x, mu);
    }

    pub(super) fn interval(&self, mu: f64, steps: u32) -> (f64, f64) {
        interval(mu, self.dispersion.size() * f64::from(steps.max(1)))
    }
}

/// Means of logarithms of sizes.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct Sizes {
    mean: f64,
    weight: f64,
    /// Variance of a step's mean, and the weight of it, by how many sizes the step had: what they have in common does not
    /// average out, and how much that is differs.
    variances: [(f64, f64); BUCKETS],
    more: Cusum,
    less: Cusum,
    steps: u32,
    wrong: u32,
}

/// Steps with 1, 2 or 3, 4 to 7 … sizes.
const BUCKETS: usize = 6;
/// The shift that is looked for, in deviations of a step.
const SHIFT: f64 = 2.0;
/// A step speaks no louder than this many deviations: sizes have long tails.
const LOUDEST: f64 = 3.5;

/// How sizes are watched.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Steps in which the mean is learnt, after which alarms are raised, and after which what lasts is usual.
    pub(super) learning: u32,
    pub(super) calibrated: u32,
    pub(super) adopted: u32,
    /// No deviation is taken for less than this, of logarithms.
    pub(super) floor: f64,
    /// Whether less is told as well.
    pub(super) both: bool,
}

impl Sizes {
    /// Takes the mean logarithm of `of` sizes.
    pub(super) fn step(
        &mut self,
        y: f64,
        of: f64,
        trains: bool,
        pace: &Pace,
        h: f64,
    ) -> Option<Found> {
        if of == 0.0 {
            return None;
        }
        self.steps = self.steps.saturating_add(1);
        if self.steps < pace.learning {
            self.learn(y, of);
            return None;
        }
        let z = ((y - self.mean) / self.deviation(of, pace.floor)).clamp(-LOUDEST, LOUDEST);
        let llr = |z: f64| SHIFT * z - SHIFT * SHIFT / 2.0;
        let mut found = self.more.add(llr(z), y, self.mean, Change::More, h);
        if pace.both {
            found = found.or(self.less.add(llr(-z), y, self.mean, Change::Less, h));
        }
        if self.steps < pace.calibrated {
            self.more.calm();
            self.less.calm();
            self.learn(y, of);
            return None;
        }
        if self.more.is_suspicious(h) || self.less.is_suspicious(h) {
            self.wrong += 1;
            if self.wrong > pace.adopted {
                (self.mean, self.weight, self.wrong) = (y, 100.0, 0);
                self.more.reset();
                self.less.reset();
            }
        } else {
            self.wrong = 0;
            self.more.calm();
            self.less.calm();
            if trains {
                self.learn(y, of);
            }
        }
        found
    }

    fn bucket(of: f64) -> usize {
        (of.max(1.0).log2() as usize).min(BUCKETS - 1)
    }

    fn deviation(&self, of: f64, floor: f64) -> f64 {
        let bucket = Self::bucket(of);
        // Of more sizes at once it is no larger than of fewer.
        let known =
            self.variances.iter().take(bucket + 1).rev().find(|(_, weight)| *weight >= 20.0);
        let overall =
            self.variances.iter().fold(0.0_f64, |most, (variance, _)| most.max(*variance));
        known.map_or(overall, |(variance, _)| *variance).sqrt().max(floor)
    }

    fn learn(&mut self, y: f64, of: f64) {
        self.weight = (self.weight + 1.0).min(4_000.0);
        let residual = y - self.mean;
        self.mean += residual / self.weight;
        if let Some((variance, weight)) = self.variances.get_mut(Self::bucket(of)) {
            *weight = (*weight + 1.0).min(4_000.0);
            let limit = if *weight < 30.0 { f64::INFINITY } else { 25.0 * *variance };
            *variance += ((residual * residual).min(limit) - *variance) / *weight;
        }
    }

    /// The interval in which the typical size of nine of ten such steps lies.
    pub(super) fn interval(&self, of: f64, floor: f64) -> (f64, f64) {
        let deviation = self.deviation(of, floor);
        ((self.mean - 1.645 * deviation).exp(), (self.mean + 1.645 * deviation).exp())
    }
}

#[cfg(test)]
#[path = "series_tests.rs"]
mod tests;
