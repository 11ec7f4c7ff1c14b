//! Random figures of the kinds that traffic has.
//!
//! A seed gives the same ones wherever logarithms are computed alike. Counts are negative binomial, as a Poisson count
//! whose rate is itself gamma distributed; sizes and times are log-normal. Knuth's product, and the method of Marsaglia and
//! Tsang (2000).

/// A source of random figures.
pub(crate) struct Draw(fastrand::Rng);

/// Above this a Poisson count is taken from the normal distribution.
const MANY: f64 = 60.0;

impl Draw {
    pub(crate) fn new(seed: u64) -> Self {
        Self(fastrand::Rng::with_seed(seed))
    }

    /// One of its own, for a purpose: what is drawn from it changes nothing here.
    pub(crate) fn apart(seed: u64, purpose: u64) -> Self {
        Self::new(
            seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ purpose.wrapping_mul(0xbf58_476d_1ce4_e5b9),
        )
    }

    /// From 0 to 1.
    pub(crate) fn share(&mut self) -> f64 {
        self.0.f64()
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0.u64(..)
    }

    pub(crate) fn between(&mut self, least: f64, most: f64) -> f64 {
        least + (most - least) * self.0.f64()
    }

    /// `least` to `most`, both included.
    pub(crate) fn whole(&mut self, least: i64, most: i64) -> i64 {
        self.0.i64(least..=most.max(least))
    }

    /// Below `count`; 0 if there is none.
    pub(crate) fn below(&mut self, count: usize) -> usize {
        if count == 0 { 0 } else { self.0.usize(..count) }
    }

    pub(crate) fn happens(&mut self, share: f64) -> bool {
        self.0.f64() < share
    }

    pub(crate) fn one<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        of.get(self.below(of.len()))
    }

    /// The place of one of them, by weight.
    pub(crate) fn weighted(&mut self, weights: impl Iterator<Item = f64> + Clone) -> usize {
        let mut left = self.0.f64() * weights.clone().sum::<f64>();
        let mut last = 0;
        for (place, weight) in weights.enumerate() {
            last = place;
            if left < weight {
                break;
            }
            left -= weight;
        }
        last
    }

    /// Standard normal (Box and Muller).
    pub(crate) fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.0.f64()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.0.f64()).cos()
    }

    /// Log-normal, by its median and the deviation of its logarithm.
    pub(crate) fn log_normal(&mut self, median: f64, deviation: f64) -> f64 {
        median * (deviation * self.normal()).exp()
    }

    /// Gamma of the mean 1; its variance is `1 / shape`.
    pub(crate) fn gamma(&mut self, shape: f64) -> f64 {
        if shape < 1.0 {
            let boost = (1.0 - self.0.f64()).powf(1.0 / shape);
            return self.gamma(shape + 1.0) * (shape + 1.0) / shape * boost;
        }
        let d = shape - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        loop {
            let x = self.normal();
            let v = (1.0 + c * x).powi(3);
            let u = 1.0 - self.0.f64();
            if v > 0.0 && u.ln() < 0.5 * x * x + d - d * v + d * v.ln() {
                return d * v / shape;
            }
        }
    }

    pub(crate) fn poisson(&mut self, mean: f64) -> usize {
        if mean > MANY {
            return (mean + mean.sqrt() * self.normal()).round().max(0.0) as usize;
        }
        let (floor, mut product, mut count) = ((-mean).exp(), self.0.f64(), 0);
        while product > floor {
            product *= self.0.f64();
            count += 1;
        }
        count
    }

    /// A negative binomial count: the less the shape, the more it varies beyond Poisson.
    pub(crate) fn count(&mut self, mean: f64, shape: f64) -> usize {
        if mean <= 0.0 {
            return 0;
        }
        let mean = mean * self.gamma(shape);
        self.poisson(mean)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_the_mean_and_the_variance_that_were_asked_for() {
        let mut draw = Draw::new(1);
        for (mean, shape) in [(0.3, 0.7), (4.0, 2.0), (200.0, 5.0)] {
            let counts: Vec<f64> = (0..40_000).map(|_| draw.count(mean, shape) as f64).collect();
            let average = counts.iter().sum::<f64>() / 40_000.0;
            let variance = counts.iter().map(|c| (c - average).powi(2)).sum::<f64>() / 40_000.0;
            let expected = mean + mean * mean / shape;
            assert!((average / mean - 1.0).abs() < 0.05, "{average} for {mean}");
            assert!((variance / expected - 1.0).abs() < 0.1, "{variance} for {expected}");
        }
    }
}
