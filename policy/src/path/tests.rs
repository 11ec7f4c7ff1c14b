use proptest::prelude::*;

use super::*;

#[test]
fn normal_paths_are_borrowed() {
    for target in [
        "/",
        "/a",
        "/a/",
        "/a/b.c/d",
        "/a..b/...",
        "/a?b=c",
        "/a?x=../%2f;\\",
        "/%20/%C3%A9",
        "/a%3B",
        "/a%25",
        "/a%25zz",
        "/a+b/~x/(y)",
        "/a\"<>|{}^`",
        "/.a/b.",
    ] {
        let normal = normalize(target).unwrap();
        assert!(matches!(normal.path, Cow::Borrowed(_)), "{target}");
        assert!(
            matches!(normal.to_forward(target), Cow::Borrowed(text) if text == target),
            "{target}"
        );
    }
}

#[test]
fn other_spellings_become_the_normal_one() {
    for (target, normal) in [
        ("//", "/"),
        ("//a", "/a"),
        ("/a//b", "/a/b"),
        ("/a///", "/a/"),
        ("/.", "/"),
        ("/./", "/"),
        ("/a/.", "/a/"),
        ("/a/./b", "/a/b"),
        ("/a/..", "/"),
        ("/a/../", "/"),
        ("/a/../b", "/b"),
        ("/a/b/..", "/a/"),
        ("/a/b/../../c", "/c"),
        ("/a/./../b", "/b"),
        ("/%61", "/a"),
        ("/%41%7a%30%2D%5F%7E", "/Az0-_~"),
        ("/%c3%a9", "/%C3%A9"),
        ("/%e2%82%ac/%F0%9f%98%80", "/%E2%82%AC/%F0%9F%98%80"),
        ("/%3f%3B", "/%3F%3B"),
        ("/a%2b%61", "/a%2Ba"),
    ] {
        assert_eq!(normalize(target).unwrap().path, normal, "{target}");
        let with_query = format!("{target}?q=%2F//..");
        let result = normalize(&with_query).unwrap();
        assert_eq!(result.query, Some("q=%2F//.."));
        assert_eq!(result.to_forward(&with_query), format!("{normal}?q=%2F//.."));
    }
}

#[test]
fn what_two_programs_may_read_differently_is_refused() {
    use PathError::*;
    for (target, error) in [
        ("", NotAbsolute),
        ("a", NotAbsolute),
        ("*", NotAbsolute),
        ("?a", NotAbsolute),
        ("http://example.com/", NotAbsolute),
        ("/a%2fb", EncodedSlash),
        ("/a%2Fb", EncodedSlash),
        ("/a%5cb", EncodedBackslash),
        ("/%2e", EncodedDot),
        ("/a/%2E%2e/b", EncodedDot),
        ("/.%2e/", EncodedDot),
        ("/a\\b", Backslash),
        ("/a;b=c", Semicolon),
        ("/admin;/", Semicolon),
        ("/a b", Control),
        ("/a\0", Control),
        ("/a\u{7f}", Control),
        ("/a\r\n", Control),
        ("/a%00", Control),
        ("/a%0d%0a", Control),
        ("/a%1f", Control),
        ("/a%7F", Control),
        ("/a?b\n", Control),
        ("/a?b c", Control),
        ("/é", NonAscii),
        ("/a?é", NonAscii),
        ("/%", BadEscape),
        ("/%a", BadEscape),
        ("/%zz", BadEscape),
        ("/%u0041", BadEscape),
        ("/%+1", BadEscape),
        ("/%C3", NotUtf8),
        ("/%C3a", NotUtf8),
        ("/%C3/%A9", NotUtf8),
        ("/%A9", NotUtf8),
        ("/%c0%ae", NotUtf8),
        ("/%C0%AF", NotUtf8),
        ("/%e0%80%af", NotUtf8),
        ("/%ed%a0%80", NotUtf8),
        ("/%f8%88%80%80%80", NotUtf8),
        ("/%ff", NotUtf8),
        ("/%252f", DoubleEncoding),
        ("/%252e%252e/", DoubleEncoding),
        ("/%2541", DoubleEncoding),
        ("/%25%34%31", DoubleEncoding),
        ("/%254%31", DoubleEncoding),
        ("/%2525", DoubleEncoding),
        ("/a#b", Fragment),
        ("/a?b#c", Fragment),
        ("/..", AboveRoot),
        ("/../a", AboveRoot),
        ("/a/../..", AboveRoot),
        ("/./..", AboveRoot),
        ("/a//..", AmbiguousDots),
        ("//..", AmbiguousDots),
        ("/a//../b", AmbiguousDots),
        ("/a//./../b", AmbiguousDots),
    ] {
        assert_eq!(normalize(target), Err(error), "{target:?}");
    }
}

#[test]
fn codes_are_told_apart() {
    use PathError::*;
    let all = [
        NotAbsolute,
        EncodedSlash,
        EncodedBackslash,
        EncodedDot,
        Backslash,
        Semicolon,
        Control,
        NonAscii,
        BadEscape,
        NotUtf8,
        DoubleEncoding,
        Fragment,
        AboveRoot,
        AmbiguousDots,
    ];
    let codes: std::collections::BTreeSet<_> = all.iter().map(|error| error.code()).collect();
    assert_eq!(codes.len(), all.len());
    assert!(codes.iter().all(|code| code.starts_with("path_")));
}

fn targets() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "/", "//", ".", "..", "a", "b1", "%", "%2f", "%2F", "%5C", "%2e", "%61", "%25", "%34",
        "%31", "%c3%a9", "%C3", "%00", "%20", ";", "\\", "?", "#", "x=y", "é", " ", "~", "-",
        "%7e", "%3b", "4", "1", "{", "*",
    ]);
    prop::collection::vec(piece, 0..12).prop_map(|pieces| format!("/{}", pieces.concat()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn normalising_twice_changes_nothing(target in targets()) {
        if let Ok(once) = normalize(&target) {
            let forwarded = once.to_forward(&target).into_owned();
            let twice = normalize(&forwarded).expect("what is forwarded is accepted");
            prop_assert_eq!(&twice.path, &once.path);
            prop_assert_eq!(twice.query, once.query);
            prop_assert!(matches!(twice.path, Cow::Borrowed(_)));
        }
    }

    #[test]
    fn nothing_ambiguous_comes_out(target in "\\PC{0,20}|/[%.;/\\\\0-9a-fA-F]{0,12}") {
        if let Ok(result) = normalize(&target) {
            let path = &*result.path;
            prop_assert!(path.starts_with('/') && path.is_ascii());
            prop_assert!(!path.contains(['\\', ';', '#', '?', ' ', '\0']));
            prop_assert!(!path.contains("//"));
            prop_assert!(path.split('/').all(|segment| segment != "." && segment != ".."));
            let upper = path.to_ascii_uppercase();
            for escape in ["%2F", "%5C", "%2E", "%00"] {
                prop_assert!(!upper.contains(escape));
            }
            prop_assert!(!path.bytes().any(|byte| byte.is_ascii_control()));
        }
    }

    /// What policies match is what the application receives, once it has decoded it.
    #[test]
    fn the_decoded_path_stays_the_same(segments in prop::collection::vec("[a-zA-Z0-9 é~_]{1,4}", 0..5)) {
        let encode = |text: &str| text.bytes().map(|byte| format!("%{byte:02x}")).collect::<String>();
        let target: String = segments.iter().map(|segment| format!("/{}", encode(segment))).collect::<String>() + "/";
        let normal = normalize(&target).unwrap();
        let mut bytes = Vec::new();
        let mut rest = normal.path.as_bytes();
        while let Some((byte, after)) = rest.split_first() {
            rest = after;
            if *byte == b'%' {
                bytes.push(u8::from_str_radix(std::str::from_utf8(&rest[..2]).unwrap(), 16).unwrap());
                rest = &rest[2..];
            } else {
                bytes.push(*byte);
            }
        }
        let expected: String = segments.iter().map(|segment| format!("/{segment}")).collect::<String>() + "/";
        prop_assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    }
}
