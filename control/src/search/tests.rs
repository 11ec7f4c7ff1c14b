use std::time::{Duration, SystemTime};

use super::expression::Compare::{Equal, Greater, GreaterOrEqual};
use super::*;

fn scoped<T>(run: impl FnOnce(Scope<'_>) -> T) -> T {
    let trust_domain = "shop.example".parse().unwrap();
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(7200);
    run(Scope { trust_domain: &trust_domain, now })
}

fn read(text: &str) -> Expression {
    scoped(|scope| parse(text, scope)).unwrap_or_else(|error| panic!("{error}"))
}

fn refused(text: &str) -> String {
    scoped(|scope| parse(text, scope)).unwrap_err().to_string()
}

fn is(name: &str, test: Test) -> Expression {
    Expression::Is(field(name).unwrap().subject, test)
}

fn equal(subject: Subject, value: Value) -> Expression {
    Expression::Is(subject, Test::Is(Equal, value))
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

#[test]
fn the_example_of_the_documentation_is_understood() {
    let orders = "spiffe://shop.example/ns/shop/sa/orders";
    let expected = Expression::All(vec![
        is("decision", Test::Is(Equal, text("deny"))),
        is("destination", Test::Is(Equal, text(orders))),
        is("status", Test::Is(GreaterOrEqual, Value::Number(500))),
        is("path", Test::Like(Glob::new("/orders/*"))),
        is("time", Test::Is(Greater, Value::Number(3_600_000_000_000))),
    ]);
    let filter = "decision = deny and destination = shop/orders and status >= 500 \
                  and path ~ \"/orders/*\" and time > 1h ago";
    assert_eq!(read(filter), expected);
    let same = "decision=deny AND callee='spiffe://shop.example/ns/shop/sa/orders' And status>=500
                and path~/orders/* and time>\"1970-01-01T01:00:00Z\"";
    assert_eq!(read(same), expected);
    assert_eq!(read("  "), Expression::All(Vec::new()));
}

#[test]
fn and_binds_more_than_or_and_not_more_than_both() {
    let deny = || is("decision", Test::Is(Equal, text("deny")));
    let get = || is("method", Test::Is(Equal, text("GET")));
    let not = |inner| Expression::Not(Box::new(inner));
    let filter = "decision = deny or not decision = deny and method = GET";
    let expected = Expression::Any(vec![deny(), Expression::All(vec![not(deny()), get()])]);
    assert_eq!(read(filter), expected);
    let filter = "(decision = deny or method = GET) and not (decision = deny)";
    let expected = Expression::All(vec![Expression::Any(vec![deny(), get()]), not(deny())]);
    assert_eq!(read(filter), expected);
    assert_eq!(read("decision != deny"), not(deny()));
    assert_eq!(read("http.request.method = GET"), get());
    assert_eq!(read("has policy"), is("policy", Test::Exists));
    let codes = Test::In(vec![Value::Number(403), Value::Number(404)]);
    assert_eq!(read("status in (403, 404)"), is("status", codes.clone()));
    let with_class = vec![is("status", Test::Between(500, 599)), is("status", codes)];
    assert_eq!(read("status not in (403, 5xx, 404)"), not(Expression::Any(with_class)));
    let attribute = Subject::Attribute("picket.jwt.issuer".to_owned());
    assert_eq!(read("picket.jwt.issuer = \"a \\\" b\""), equal(attribute, text("a \" b")));
    let number = Subject::Attribute("picket.lane".to_owned());
    assert_eq!(read("picket.lane = 3"), equal(number, Value::Number(3)));
    let foreign = Subject::Attribute("their.name".to_owned());
    assert_eq!(read("\"their.name\" = x"), equal(foreign, text("x")));
}

#[test]
fn mistakes_have_their_place_and_the_way_to_mend_them() {
    assert_eq!(
        refused("decision = deny and destinatoin = shop/orders"),
        "filter:1:21: there is no field destinatoin\n  \
         decision = deny and destinatoin = shop/orders\n                      \
         ^^^^^^^^^^^\n  did you mean destination?"
    );
    for (filter, place, words) in [
        ("decision = denny", "1:12", "did you mean deny?"),
        ("picket.polcy = x", "1:1", "did you mean picket.policy?"),
        ("foo.bar = x", "1:1", "\"foo.bar\" in quotes"),
        ("decision", "1:9", "an operator is missing after decision"),
        ("decision =", "1:11", "a value is missing after decision"),
        ("decision = deny method = GET", "1:17", "`and` or `or` is missing"),
        ("(decision = deny", "1:1", "this is not closed"),
        ("decision = deny)", "1:16", "this closes nothing"),
        ("path = \"/a", "1:8", "a quote is not closed"),
        ("source > shop/web", "1:8", "neither less nor greater"),
        ("source = web", "1:10", "namespace/service-account"),
        ("status > 5xx", "1:10", "compare with a code"),
        ("status = 700", "1:10", "a class such as 4xx"),
        ("status ~ 4*", "1:8", "no pattern"),
        ("time > 1h", "1:8", "write \"1h ago\""),
        ("duration > 5", "1:12", "such as 250ms"),
        ("trace = 12", "1:9", "32 hexadecimal digits"),
        ("status in 403", "1:11", "a list is missing"),
        ("status in (403", "1:11", "not closed"),
        ("status in (403 404)", "1:16", "a comma or )"),
        ("decision = deny and\n  not", "2:6", "a condition is missing"),
        ("dry_run = 1", "1:11", "true or false"),
    ] {
        let error = refused(filter);
        assert!(error.starts_with(&format!("filter:{place}: ")), "{filter}: {error}");
        assert!(error.contains(words), "{filter}: {error}");
        let caret = error.lines().nth(2).unwrap();
        assert!(caret.trim_start().starts_with('^'), "{error}");
    }
}

#[test]
fn filters_are_bounded() {
    let deep = format!("{}decision = deny{}", "(".repeat(40), ")".repeat(40));
    assert!(refused(&deep).contains("nested more than 32 deep"));
    assert!(refused(&format!("{}has policy", "not ".repeat(40))).contains("nested more than"));
    let wide = vec!["has path"; 600].join(" or ");
    assert!(refused(&wide).contains("more than 500 conditions"));
    let list = format!("status in ({})", vec!["403"; 600].join(","));
    assert!(refused(&list).contains("more than 500 conditions"));
    assert!(refused(&format!("path = \"{}\"", "x".repeat(9000))).contains("8192 bytes"));
}

#[test]
fn patterns_match_in_linear_time() {
    for (pattern, text, matches) in [
        ("/orders/*", "/orders/1", true),
        ("/orders/*", "/order", false),
        ("*.json", "/a/b.json", true),
        ("*", "", true),
        ("", "", true),
        ("a*b*c", "a-b-b-c", true),
        ("a*b*c", "a-c-b", false),
        ("ab*ba", "aba", false),
        ("a\\*b", "a*b", true),
        ("a\\*b", "axb", false),
        ("exact", "exact", true),
        ("exact", "exactly", false),
    ] {
        let glob = Glob::new(pattern);
        assert_eq!(glob.matches(text), matches, "{pattern} {text}");
        assert_eq!(Glob::new(&glob.pattern()), glob);
    }
    // What takes a backtracking matcher longer than the universe has been there.
    let glob = Glob::new(&"a*".repeat(2000));
    assert!(!glob.matches(&"a".repeat(1999)) && glob.matches(&"a".repeat(2000)));
    let like = read("source ~ shop/w*");
    let Expression::Is(_, Test::Like(glob)) = like else { panic!("{like:?}") };
    assert!(glob.matches("spiffe://shop.example/ns/shop/sa/web"));
    assert!(!glob.matches("spiffe://shop.example/ns/shop/sa/orders"));
}
