//! One request, as the callee's proxy would see it, before it is written down.

use super::clock::{At, SECOND};
use super::draw::Draw;
use super::mesh::Mesh;

/// Whose token a request carries: the gateway's place, and a number among its people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Person {
    pub(crate) gateway: usize,
    pub(crate) number: u64,
}

/// People who use a gateway.
const PEOPLE: f64 = 3_000.0;
/// One of so many uses two gateways.
const BOTH: u64 = 50;

impl Person {
    /// In place of a number: whoever of the gateway was seen last.
    pub(crate) const NEWEST: u64 = u64::MAX;

    /// A few come often, most rarely.
    pub(crate) fn draw(gateway: usize, draw: &mut Draw) -> Self {
        Self { gateway, number: (PEOPLE * draw.share().powi(3)) as u64 }
    }

    /// This one, or who is next to him, if he uses two gateways.
    pub(crate) fn of_one_gateway(self) -> Self {
        Self { number: self.number + u64::from(self.number % BOTH == 7), ..self }
    }

    /// What stands for their name.
    pub(crate) fn subject(self) -> u64 {
        let gateway = if self.number % BOTH == 7 { 0 } else { self.gateway as u64 + 1 };
        mixed(gateway << 32 | self.number)
    }

    /// Where they call from.
    pub(crate) fn address(self) -> String {
        let bits = mixed(self.subject() ^ 0x5bd1);
        format!("198.{}.{}.{}", 18 + bits % 2, bits >> 8 & 0xff, bits >> 16 & 0xff)
    }
}

/// The finaliser of splitmix64.
pub(crate) fn mixed(bits: u64) -> u64 {
    let bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}

#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) at: At,
    pub(crate) source: usize,
    pub(crate) destination: usize,
    pub(crate) method: &'static str,
    /// Of the rule that decided; absent if that names no paths, and on refusals.
    pub(crate) route: Option<String>,
    pub(crate) path: String,
    pub(crate) status: u16,
    pub(crate) asked: u64,
    pub(crate) answered: u64,
    pub(crate) upstream_us: u64,
    /// Why the proxy refused it.
    pub(crate) refused: Option<Refused>,
    pub(crate) person: Option<Person>,
    /// Chooses the instances of both sides, and whatever else there is to choose.
    pub(crate) bits: u64,
    /// In place of an address of the caller's instances.
    pub(crate) from: Option<String>,
    /// The attack that it is part of.
    pub(crate) attack: Option<usize>,
}

/// A refusal: stage, reason, status.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Refused(pub(crate) &'static str, pub(crate) &'static str, pub(crate) u16);

pub(crate) const NO_RIGHT: Refused = Refused("default", "no_allow_matched", 403);

impl Request {
    /// A usual one, of a route of the callee.
    pub(crate) fn usual(
        mesh: &Mesh,
        pair: (usize, usize),
        route: usize,
        at: At,
        draw: &mut Draw,
    ) -> Self {
        let (source, destination) = pair;
        let service = mesh.service(destination);
        let of = service.routes.get(route).unwrap();
        let mut request = Self {
            at,
            source,
            destination,
            method: of.method,
            route: Some(of.pattern.clone()),
            path: String::new(),
            status: if of.method == "POST" && of.pattern.ends_with('s') { 201 } else { 200 },
            asked: of.asked.draw(draw),
            answered: of.answered.draw(draw),
            upstream_us: (draw.log_normal(of.upstream_us, 0.5) * service.pace) as u64,
            refused: None,
            person: None,
            bits: draw.bits(),
            from: None,
            attack: None,
        };
        request.path = match of.pattern.contains("{*}") {
            true => of
                .pattern
                .replace("{*}", &(10_000.0 + 50_000.0 * draw.share().powi(2)).floor().to_string()),
            false => of.pattern.clone(),
        };
        let chance = draw.share();
        if chance < of.missing {
            request.fail(404);
        } else if chance > 1.0 - of.unauthorized {
            request.fail(401);
        }
        request
    }

    /// The service answers so, with next to nothing.
    pub(crate) fn fail(&mut self, status: u16) {
        self.status = status;
        self.answered = 60 + self.bits % 60;
    }

    /// The proxy refuses it.
    pub(crate) fn refuse(&mut self, refused: Refused) {
        self.fail(refused.2);
        self.refused = Some(refused);
        (self.route, self.asked, self.upstream_us) = (None, 0, 0);
    }

    /// The same again, after a failure.
    pub(crate) fn retried(&self, draw: &mut Draw) -> Self {
        let after = self.upstream_us as i64 * 1_000 + draw.whole(SECOND / 20, SECOND);
        let (status, answered) =
            if draw.happens(0.7) { (200, 900) } else { (self.status, self.answered) };
        Self { at: At(self.at.0 + after), status, answered, bits: draw.bits(), ..self.clone() }
    }
}
