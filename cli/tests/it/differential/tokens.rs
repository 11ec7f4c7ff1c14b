//! Tokens, good and bad, and the places where a request may carry one.

use picket_testkit::Issuer;
use serde_json::{Value, json};

/// A place for a token.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// A header, and what stands before the token.
    Header(&'static str, &'static str),
    Parameter(&'static str),
    Cookie(&'static str),
}

pub(super) const PLACES: [Place; 5] = [
    Place::Header("authorization", "Bearer "),
    Place::Header("x-jwt", ""),
    Place::Header("x-token", "Tok "),
    Place::Parameter("tok"),
    Place::Cookie("session"),
];

/// A token, with words for it.
pub(super) struct Token {
    pub(super) text: String,
    pub(super) words: String,
}

/// What requests carry.
pub(super) struct Tokens {
    /// Those that policies name.
    pub(super) issuers: Vec<Issuer>,
    pub(super) all: Vec<Token>,
}

impl Tokens {
    pub(super) fn new(now: u64) -> Self {
        let issuers =
            vec![Issuer::new("https://a.example", "a-1"), Issuer::new("https://b.example", "b-1")];
        let stranger = Issuer::new("https://c.example", "c-1");
        // A key of its own under the name and key id of another.
        let forger = Issuer::new("https://a.example", "a-1");
        let (a, b) = (&issuers[0], &issuers[1]);
        let hour = 3600;
        let (fresh, over) = (now + hour, now - hour);
        let ana = json!({
            "sub": "ana", "aud": "shop", "azp": "web", "role": "admin", "groups": ["a", "b"],
            "realm": {"roles": ["x", "z"]}, "scope": "read write", "exp": fresh,
        });
        let bob = json!({
            "sub": "bob", "aud": ["store", "shop"], "azp": "orders", "role": "user",
            "groups": "a c", "realm": {"roles": "x"}, "scope": "read", "a.b": "1", "exp": fresh,
        });
        let with = |claims: &Value, name: &str, value: Value| {
            let mut claims = claims.clone();
            claims[name] = value;
            claims
        };
        let without = |claims: &Value, name: &str| {
            let mut claims = claims.clone();
            claims.as_object_mut().unwrap().remove(name);
            claims
        };
        let mut all = Vec::new();
        for (issuer, what, claims) in [
            (a, "good", ana.clone()),
            (a, "good", bob.clone()),
            (b, "good", ana.clone()),
            (b, "good", with(&bob, "aud", json!("https://shop/"))),
            (
                b,
                "with claims of other types",
                json!({
                    "sub": "ana", "aud": "shop", "azp": "web", "role": true, "groups": [1, "b", null],
                    "realm": {"roles": {"x": "y"}}, "scope": ["read", "list"], "a.b": 7, "exp": fresh,
                }),
            ),
            (
                a,
                "with empty claims",
                json!({
                    "sub": "", "aud": "shop", "azp": "", "role": "", "groups": [], "realm": "x",
                    "scope": "", "exp": fresh,
                }),
            ),
            (a, "without a subject", without(&ana, "sub")),
            (a, "without an audience", without(&ana, "aud")),
            (a, "for another audience", with(&ana, "aud", json!("elsewhere"))),
            (a, "without an end", without(&ana, "exp")),
            (a, "that has expired", with(&ana, "exp", json!(over))),
            (a, "that is not yet valid", with(&ana, "nbf", json!(fresh))),
            (a, "that is valid since long", with(&ana, "nbf", json!(over))),
            (&stranger, "of a stranger", ana.clone()),
            (&forger, "of a forger", ana.clone()),
        ] {
            all.push(Token {
                text: issuer.sign(claims.clone()),
                words: format!("<token of {} {what}: {claims}>", issuer.name()),
            });
        }
        let mut cut = a.sign(ana.clone());
        cut.truncate(cut.len() - 4);
        all.push(Token { text: cut, words: "<token that was cut off>".to_owned() });
        all.push(Token { text: "nonsense".to_owned(), words: "<no token>".to_owned() });
        // Good ones twice: most requests shall come as far as the rules.
        for claims in [ana, bob] {
            let words = format!("<token of {} good: {claims}>", a.name());
            all.push(Token { text: a.sign(claims), words });
        }
        Self { issuers, all }
    }

    /// A text with words in the place of tokens.
    pub(super) fn readable(&self, text: &str) -> String {
        self.all.iter().fold(text.to_owned(), |text, token| text.replace(&token.text, &token.words))
    }
}
