use super::*;

/// Samples of a negative binomial: Poisson with a gamma mean.
struct Source(fastrand::Rng);

impl Source {
    fn gamma(&mut self, shape: u32) -> f64 {
        let product: f64 = (0..shape).map(|_| 1.0 - self.0.f64()).product();
        -product.ln()
    }

    fn count(&mut self, mu: f64, r: u32) -> f64 {
        let mean = self.gamma(r) * mu / f64::from(r);
        let (limit, mut product, mut count) = ((-mean).exp(), 1.0, 0.0);
        loop {
            product *= self.0.f64();
            if product <= limit {
                return count;
            }
            count += 1.0;
        }
    }
}

fn course(seconds: i64) -> f64 {
    let day = (seconds.rem_euclid(86_400)) as f64 / 86_400.0;
    20.0 * (1.0 + 0.8 * (day * std::f64::consts::TAU).sin())
}

const STEP: i64 = 300;
/// A Monday.
const BEGIN: i64 = 4 * 86_400;

fn run(
    counts: &mut Counts,
    source: &mut Source,
    days: std::ops::Range<i64>,
    factor: f64,
) -> Vec<(i64, Found)> {
    let steps = days.start * 288..days.end * 288;
    let found = steps.filter_map(|step| {
        let seconds = BEGIN + step * STEP;
        let x = source.count(course(seconds) * factor, 4);
        counts.step(x, DayTime::of(seconds), true, 12.0).map(|found| (step, found))
    });
    found.collect()
}

#[test]
fn a_daily_course_is_no_alarm_and_a_change_is() {
    let mut alarms = 0;
    for seed in 0..10 {
        let (mut counts, mut source) = (Counts::default(), Source(fastrand::Rng::with_seed(seed)));
        alarms += run(&mut counts, &mut source, 0..12, 1.0).len();
        let doubled = run(&mut counts, &mut source, 12..13, 2.5);
        let (step, found) = doubled.first().expect("a change is found");
        assert_eq!(found.change, Change::More);
        assert!(step - 12 * 288 < 96, "after {step} steps");
        assert!(found.observed > found.expected);
    }
    assert!(alarms <= 1, "{alarms} false alarms in 120 days");
}

#[test]
fn silence_is_found_and_becomes_usual_after_a_day() {
    let (mut counts, mut source) = (Counts::default(), Source(fastrand::Rng::with_seed(3)));
    run(&mut counts, &mut source, 0..8, 1.0);
    let silent = run(&mut counts, &mut source, 8..9, 0.0);
    assert_eq!(silent.first().map(|(_, found)| found.change), Some(Change::Less));
    run(&mut counts, &mut source, 9..10, 0.0);
    assert_eq!(run(&mut counts, &mut source, 10..11, 0.0).len(), 0, "it is usual by now");
}

#[test]
fn a_first_weekend_raises_nothing() {
    let (mut counts, mut source) = (Counts::default(), Source(fastrand::Rng::with_seed(5)));
    run(&mut counts, &mut source, 0..5, 1.0);
    assert_eq!(run(&mut counts, &mut source, 5..7, 0.2), []);
}

#[test]
fn a_share_of_errors_that_grows_is_found() {
    let (mut share, mut source) = (Share::default(), Source(fastrand::Rng::with_seed(1)));
    let mut alarms = 0;
    for step in 0..3_000 {
        let errors = source.count(if step < 2_900 { 0.5 } else { 5.0 }, 2);
        if share.step(errors, 50.0, 3.0, true, 12.0).is_some() {
            assert!(step >= 2_900, "false alarm at {step}");
            alarms += 1;
        }
    }
    assert!(alarms > 0);
}

#[test]
fn sizes_that_grow_are_found() {
    let (learning, calibrated, adopted) = (60, 200, 288);
    let pace = Pace { learning, calibrated, adopted, floor: 0.05, both: false };
    let (mut sizes, mut rng) = (Sizes::default(), fastrand::Rng::with_seed(1));
    let mut alarms = 0;
    for step in 0..3_000 {
        let normal = (0..12).map(|_| rng.f64()).sum::<f64>() - 6.0;
        let y = 7.0 + normal * 0.3 + if step < 2_950 { 0.0 } else { 1.1 };
        if sizes.step(y, 20.0, true, &pace, 12.0).is_some() {
            assert!(step >= 2_950, "false alarm at {step}");
            alarms += 1;
        }
    }
    assert!(alarms > 0);
}

#[test]
fn days_of_the_week_are_told_apart() {
    assert!(!DayTime::of(BEGIN).weekend, "Monday");
    assert!(DayTime::of(BEGIN + 5 * 86_400).weekend && DayTime::of(BEGIN + 7 * 86_400 - 1).weekend);
    assert!(!DayTime::of(BEGIN + 7 * 86_400).weekend);
}
