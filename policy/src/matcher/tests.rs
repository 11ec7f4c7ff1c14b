use proptest::prelude::*;

use super::*;

#[test]
fn the_four_forms() {
    // (pattern, values that match, values that do not)
    let table: [(&str, &[&str], &[&str]); 8] = [
        ("abc", &["abc"], &["", "ab", "abcd", "xabc", "ABC"]),
        ("abc*", &["abc", "abcd", "abc*"], &["", "ab", "xabc", "ABC"]),
        ("*abc", &["abc", "xabc", "*abc"], &["", "abcd", "ABC"]),
        ("*", &["a", "*", " "], &[""]),
        ("a*c", &["a*c"], &["abc", "ac"]),
        ("*abc*", &["abc*", "xabc*"], &["abc", "xabcd"]),
        ("**", &["*", "x*"], &["", "x"]),
        ("/", &["/"], &["", "//"]),
    ];
    for (pattern, matching, other) in table {
        let compiled = StringMatch::parse(pattern);
        assert_eq!(compiled.to_string(), pattern);
        for value in matching {
            assert!(compiled.matches(value), "{pattern} should match {value}");
        }
        for value in other {
            assert!(!compiled.matches(value), "{pattern} should not match {value}");
        }
    }
}

#[test]
fn literal_stars_are_seen() {
    for (pattern, literal) in [
        ("a*c", true),
        ("*abc*", true),
        ("**", true),
        ("*", false),
        ("a*", false),
        ("*a", false),
        ("a", false),
    ] {
        assert_eq!(StringMatch::parse(pattern).has_literal_star(), literal, "{pattern}");
    }
}

#[test]
fn case_is_ignored_where_it_should_be() {
    for (pattern, value, matches) in [
        ("Example.com", "eXAMPLE.COM", true),
        ("example.*", "EXAMPLE.org", true),
        ("*.Example.com", "www.example.COM", true),
        ("*.example.com", "example.com", false),
        ("example.com", "example.com:8080", false),
        ("example.com", "examplé.com", false),
        ("é*", "É", false),
        ("*", "x", true),
    ] {
        assert_eq!(
            StringMatch::parse(pattern).matches_ignoring_case(value.as_bytes()),
            matches,
            "{pattern} {value}"
        );
    }
}

proptest! {
    #[test]
    fn joined_values_are_compared_as_if_joined(
        pattern in "[ab,*]{0,6}",
        values in prop::collection::vec("[ab,]{0,3}", 1..4),
    ) {
        let compiled = StringMatch::parse(&pattern);
        let joined = values.join(",");
        let streamed = compiled.matches_joined(|| values.iter().map(|value| value.as_bytes()), b",");
        prop_assert_eq!(streamed, compiled.matches(&joined));
    }

    #[test]
    fn globs_match_as_a_slow_matcher_says(pattern in "[ab*]{0,7}", value in "[ab]{0,8}") {
        fn slow(pattern: &[u8], value: &[u8]) -> bool {
            match (pattern.split_first(), value.split_first()) {
                (None, None) => true,
                (Some((b'*', rest)), _) => slow(rest, value) || value.split_first().is_some_and(|(_, v)| slow(pattern, v)),
                (Some((p, rest)), Some((v, values))) => p == v && slow(rest, values),
                _ => false,
            }
        }
        prop_assert_eq!(Glob::parse(&pattern).matches(&value), slow(pattern.as_bytes(), value.as_bytes()));
    }
}

#[test]
fn request_principals_are_compared_claim_by_claim() {
    // The cases of requestPrincipalGenerator: (pattern, issuer, subject, matches).
    for (pattern, issuer, subject, matches) in [
        ("*", "iss", "sub", true),
        ("*", "iss", "", false),
        ("*", "", "sub", false),
        ("iss/sub", "iss", "sub", true),
        ("iss/sub", "iss", "sub2", false),
        ("https://example.com/sub", "https://example.com", "sub", true),
        ("https://example.com/*", "https://example.com", "anybody", true),
        ("https://example.com/*", "https://example.com", "", false),
        ("https://example.com/*", "https://example.com.evil", "x", false),
        ("https://example.com/ad*", "https://example.com", "admin", true),
        ("https://example.com/ad*", "https://example.com", "bad", false),
        ("*/sub", "whatever", "sub", true),
        ("*/sub", "whatever", "xsub", false),
        ("*.com/sub", "https://example.com", "sub", true),
        ("*.com/sub", "https://example.org", "sub", false),
        ("*sub", "iss", "a-sub", true),
        ("*sub", "sub", "other", false),
        ("iss*", "issuer", "anybody", true),
        ("iss*", "other", "iss", false),
        ("iss", "iss", "", true),
        ("iss", "iss", "sub", false),
        // A star at both ends is a subject that is a star: Istio looks at the first one only.
        ("*/*", "iss", "*", true),
        ("*/*", "iss", "sub", false),
    ] {
        let compiled = RequestPrincipalMatch::parse(pattern);
        assert_eq!(compiled.matches(issuer, subject), matches, "{pattern} {issuer} {subject}");
        assert_eq!(compiled.to_string(), pattern);
    }
}

#[test]
fn templates() {
    let table: [(&str, &[&str], &[&str]); 13] = [
        (
            "/foo/{*}",
            &["/foo/a", "/foo/a.b-c_d~e", "/foo/%20", "/foo/=,:@"],
            &["/foo", "/foo/", "/foo/a/", "/foo/a/b", "/foo/*", "/foo/é"],
        ),
        (
            "/foo/{*}/bar",
            &["/foo/a/bar"],
            &["/foo//bar", "/foo/bar", "/foo/a/b/bar", "/foo/a/bar/", "/foo/a/barx"],
        ),
        ("/{*}", &["/a"], &["/", "/a/b"]),
        ("/{*}/", &["/a/"], &["/a", "/", "/a/b"]),
        ("/{*}/{*}", &["/a/b"], &["/a", "/a/", "/a/b/c"]),
        ("/{**}", &["/", "/a", "/a/b/c", "//"], &["", "/a*", "/a\"b"]),
        ("/foo/{**}", &["/foo/", "/foo/a", "/foo/a/b"], &["/foo", "/fooa", "/foo/*"]),
        (
            "/foo/{**}/bar",
            &["/foo/a/bar", "/foo/a/b/bar", "/foo//bar"],
            &["/foo/bar", "/foo/a/bar/", "/foo/a/xbar"],
        ),
        ("/{**}/bar", &["/a/bar", "//bar"], &["/bar", "/a/bar/x"]),
        ("/{**}/", &["/a/", "/a/b/", "//"], &["/", "/a"]),
        ("/{*}/x/{**}", &["/a/x/", "/a/x/b/c"], &["/x/", "/a/x", "/a/b/x/"]),
        ("/{*}/x/{**}/y/z", &["/a/x/b/y/z", "/a/x/y/y/z"], &["/a/x/y/z", "/a/x/b/y"]),
        ("/a%20b/{*}", &["/a%20b/c"], &["/a b/c"]),
    ];
    for (pattern, matching, other) in table {
        assert!(Template::is_one(pattern));
        let template = Template::parse(pattern).unwrap();
        for path in matching {
            assert!(template.matches(path), "{pattern} should match {path}");
        }
        for path in other {
            assert!(!template.matches(path), "{pattern} should not match {path}");
        }
    }
}

#[test]
fn what_is_no_template() {
    use TemplateError::{BadLiteral, NoSlash, OperatorAfterAny, StrayBrace};
    for (pattern, error) in [
        ("foo/{*}", NoSlash),
        ("{*}", NoSlash),
        ("/{**}/{*}", OperatorAfterAny),
        ("/{**}/{**}", OperatorAfterAny),
        ("/{**}/a/{*}", OperatorAfterAny),
        ("/foo{*}", StrayBrace),
        ("/{*}foo", StrayBrace),
        ("/{foo}/{*}", StrayBrace),
        ("/{***}/{*}", StrayBrace),
        ("/{*}/{", StrayBrace),
        ("/foo*/{*}", BadLiteral),
        ("//{*}", BadLiteral),
        ("/{*}//", BadLiteral),
        ("/a b/{*}", BadLiteral),
        ("/é/{*}", BadLiteral),
        ("/a?b/{*}", BadLiteral),
    ] {
        assert_eq!(Template::parse(pattern), Err(error), "{pattern}");
    }
}
