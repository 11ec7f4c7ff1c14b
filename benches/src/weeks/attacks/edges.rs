//! Attacks that show in how an edge is used, and in no single request.

use super::{Attack, Effect, Grade, Harm, Plan, TRIES, by_effects};

/// An edge of some rank, changed for so many minutes.
fn on_edge(
    plan: &mut Plan<'_>,
    kind: &'static str,
    grade: Grade,
    features: &'static [&'static str],
    ranks: std::ops::Range<usize>,
    steps: &[(i64, Harm)],
) -> Option<Attack> {
    let length = steps.iter().map(|(minutes, _)| minutes).sum();
    for _ in 0..TRIES {
        let edge = plan.edge(ranks.clone(), |_| true)?;
        let (source, destination) = (Some(edge.source), edge.destination);
        let Some(mut from) = plan.quiet(destination, length) else { continue };
        let effects = steps
            .iter()
            .map(|&(minutes, harm)| {
                let begin = from;
                from += minutes;
                Effect { source, destination, from: begin, to: from, harm }
            })
            .collect();
        return by_effects(plan.mesh, kind, grade, features, effects);
    }
    None
}

/// A third more requests, whose answers are so large that the edge carries a multiple of what it did.
pub(super) fn exfiltration_slow(plan: &mut Plan<'_>, grade: Grade) -> Option<Attack> {
    let (times, minutes) = (grade.of([5.0, 3.0, 2.0]), grade.of([480, 300, 240]));
    let harm = Harm::More { factor: 1.3, larger: (times - 1.0) / 0.3 };
    on_edge(
        plan,
        "exfiltration_slow",
        grade,
        &["anomaly.download", "anomaly.ratio", "anomaly.more_requests"],
        10..60,
        &[(minutes, harm)],
    )
}

pub(super) fn rate_flood(plan: &mut Plan<'_>, grade: Grade) -> Option<Attack> {
    let (factor, minutes) = (grade.of([5.0, 3.0, 2.0]), grade.of([20, 40, 60]));
    let harm = Harm::More { factor, larger: 1.0 };
    on_edge(plan, "rate_flood", grade, &["anomaly.more_requests"], 0..50, &[(minutes, harm)])
}

/// Up within hours, then as much for the rest of a day.
pub(super) fn slow_rise(plan: &mut Plan<'_>, grade: Grade) -> Option<Attack> {
    let factor = grade.of([2.0, 1.5, 1.3]);
    let step = |share: f64| Harm::Grown(1.0 + (factor - 1.0) * share);
    let steps = [(120, step(0.3)), (120, step(0.6)), (1_200, step(1.0))];
    on_edge(plan, "slow_rise", grade, &["anomaly.more_requests"], 0..40, &steps)
}

pub(super) fn error_induction(plan: &mut Plan<'_>, grade: Grade) -> Option<Attack> {
    let harm = Harm::Fails(grade.of([0.3, 0.08, 0.02]));
    let minutes = grade.of([30, 60, 120]);
    on_edge(
        plan,
        "error_induction",
        grade,
        &["anomaly.errors", "Burst of server errors"],
        0..30,
        &[(minutes, harm)],
    )
}

/// A caller falls silent: it was stopped, or goes another way now.
pub(super) fn quiet_death(plan: &mut Plan<'_>, grade: Grade) -> Option<Attack> {
    let minutes = grade.of([480, 240, 90]);
    on_edge(
        plan,
        "quiet_death",
        grade,
        &["anomaly.fewer_requests"],
        0..40,
        &[(minutes, Harm::Silence)],
    )
}

/// Everything that a service answers takes longer.
pub(super) fn latency(plan: &mut Plan<'_>, grade: Grade) -> Option<Attack> {
    let (factor, minutes) = (grade.of([8.0, 4.0, 2.0]), grade.of([40, 60, 90]));
    for _ in 0..TRIES {
        let edge = plan.edge(0..60, |_| true)?;
        let Some(from) = plan.quiet(edge.destination, minutes) else { continue };
        let effect = Effect {
            source: None,
            destination: edge.destination,
            from,
            to: from + minutes,
            harm: Harm::Slow(factor),
        };
        return by_effects(
            plan.mesh,
            "latency",
            grade,
            &["anomaly.slow", "Service that answers very slowly"],
            vec![effect],
        );
    }
    None
}
