use super::*;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";
const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const OTHER: &str = "00-1af7651916cd43dd8448eb211c80319c-c7ad6b7169203331-01";
const UNSAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

fn of(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    headers
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> &'h str {
    headers.get(name).map_or("", |value| value.to_str().unwrap())
}

/// What a request with these headers becomes, and the headers that are forwarded.
fn forwarded(pairs: &[(&'static str, &str)]) -> (SpanContext, HeaderMap) {
    let mut headers = of(pairs);
    let context = SpanContext::continued(&headers);
    context.inject(&mut headers);
    (context, headers)
}

fn trace(context: &SpanContext) -> String {
    picket_certs::leaf::hex(&context.trace_id)
}

fn parent(context: &SpanContext) -> Option<String> {
    context.parent.as_ref().map(|parent| picket_certs::leaf::hex(parent))
}

#[test]
fn a_trace_is_continued_and_passed_on() {
    let (context, headers) = forwarded(&[
        ("traceparent", VALID),
        ("tracestate", "congo=t61rcWkgMzE"),
        ("baggage", "user=%41;p=1, ,broken==="),
    ]);
    assert_eq!((trace(&context), parent(&context)), (TRACE.into(), Some(SPAN.into())));
    assert_eq!((context.flags, context.links.len()), (1, 0));
    let span = context.decision_id();
    assert_eq!(text(&headers, "traceparent"), format!("00-{TRACE}-{span}-01"));
    assert_eq!(text(&headers, "tracestate"), "congo=t61rcWkgMzE");
    assert_eq!(text(&headers, "baggage"), "user=%41;p=1, ,broken===", "untouched");
    assert_eq!(headers.len(), 3, "nothing is added that nobody asked for: {headers:?}");
}

#[test]
fn what_is_not_exactly_a_context_begins_a_new_trace() {
    for hostile in [
        "",
        "00",
        "-",
        "---",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-B7AD6B7169203331-01",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
        "FF-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-001",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333g-01",
        "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319cc-b7ad6b7169203331-01",
        "0-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "000-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00_0af7651916cd43dd8448eb211c80319c_b7ad6b7169203331_01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0\u{e9}",
        "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01more",
    ] {
        let pairs = [("traceparent", hostile), ("tracestate", "congo=t61rcWkgMzE")];
        let (context, headers) = forwarded(&pairs);
        assert_eq!(context.parent, None, "{hostile}");
        assert!(context.links.is_empty(), "{hostile}: nothing that is well-formed is claimed");
        assert_ne!(trace(&context), TRACE, "{hostile}");
        assert_ne!(context.trace_id, [0; 16]);
        assert_eq!(headers.get("tracestate"), None, "a state without its parent is dropped");
        let next = SpanContext::continued(&headers);
        assert_eq!((next.trace_id, next.parent), (context.trace_id, Some(context.span_id)));
    }
    // A later version may have more fields (section 3.2.4), and is forwarded as the one that we know.
    for later in [
        "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
        &VALID.replace("00-", "cc-"),
    ] {
        let (context, headers) = forwarded(&[("traceparent", later)]);
        assert_eq!(parent(&context).as_deref(), Some(SPAN), "{later}");
        assert!(text(&headers, "traceparent").starts_with("00-0af765"), "{later}");
    }
    // Of the flags only those that are defined are passed on.
    let (context, _) = forwarded(&[("traceparent", &VALID.replace("-01", "-ff"))]);
    assert_eq!(context.flags, SAMPLED | RANDOM);
}

#[test]
fn several_contexts_are_none_and_become_links() {
    let (context, headers) = forwarded(&[("traceparent", VALID), ("traceparent", OTHER)]);
    assert_eq!(context.parent, None);
    let links: Vec<u8> = context.links.iter().map(|link| link.trace_id[0]).collect();
    assert_eq!(links, [0x0a, 0x1a]);
    assert_eq!(headers.get_all("traceparent").iter().count(), 1);
    // The same one twice is linked once; a broken one not at all; and there is an end to it.
    let (context, _) = forwarded(&[("traceparent", VALID), ("traceparent", VALID)]);
    assert_eq!((context.parent, context.links.len()), (None, 1));
    let (context, _) = forwarded(&[("traceparent", "00"), ("traceparent", VALID)]);
    assert_eq!((context.parent, context.links.len()), (None, 1));
    let many: Vec<String> = (0..500).map(|n| format!("00-{:032x}-{SPAN}-01", n + 1)).collect();
    let many: Vec<_> = many.iter().map(|value| ("traceparent", value.as_str())).collect();
    assert_eq!(forwarded(&many).0.links.len(), MAX_LINKS);
}

#[test]
fn a_span_that_nobody_recorded_is_no_parent() {
    // Whoever began the trace did not sample it: the first span of ours has no parent, but a link.
    let (first, headers) = forwarded(&[("traceparent", UNSAMPLED), ("tracestate", "congo=x")]);
    assert_eq!((trace(&first), parent(&first)), (TRACE.into(), None), "the trace stays");
    assert_eq!(picket_certs::leaf::hex(&first.links[0].span_id), SPAN);
    assert_eq!(text(&headers, "traceparent"), format!("00-{TRACE}-{}-00", first.decision_id()));
    let state = format!("picket={},congo=x", first.decision_id());
    assert_eq!(text(&headers, "tracestate"), state);
    // The next proxy's span is its child.
    let second = SpanContext::continued(&headers);
    assert_eq!((second.parent, second.links.len()), (Some(first.span_id), 0));
    // So it is if a service in between made a span that it did not record.
    let (third, headers) = forwarded(&[("traceparent", UNSAMPLED), ("tracestate", &state)]);
    assert_eq!((third.parent, third.links.len()), (Some(first.span_id), 0));
    let expected = format!("picket={},congo=x", third.decision_id());
    assert_eq!(text(&headers, "tracestate"), expected, "one member of ours");
    // A member of ours that is broken is none.
    for broken in [
        "picket=x",
        "picket=0000000000000000",
        "picket=B7AD6B7169203331",
        "xpicket=b7ad6b7169203331",
    ] {
        let (context, _) = forwarded(&[("traceparent", UNSAMPLED), ("tracestate", broken)]);
        assert_eq!((context.parent, context.links.len()), (None, 1), "{broken}");
    }
    // In a sampled trace the named parent is the parent, whatever the state says.
    let (context, headers) = forwarded(&[("traceparent", VALID), ("tracestate", &state)]);
    assert_eq!(parent(&context).as_deref(), Some(SPAN));
    assert_eq!(text(&headers, "tracestate"), state);
}

#[test]
fn a_state_is_kept_whole_cut_by_members_or_dropped() {
    let kept = |values: &[&str]| {
        let mut pairs = vec![("traceparent", VALID)];
        pairs.extend(values.iter().map(|value| ("tracestate", *value)));
        let (context, headers) = forwarded(&pairs);
        assert!(headers.get_all("tracestate").iter().count() <= 1);
        assert_eq!(context.state.as_deref().unwrap_or_default(), text(&headers, "tracestate"));
        text(&headers, "tracestate").to_owned()
    };
    for whole in ["a=b", "0a=b", "t@v=1,x_-*/y=!~", "a=b c", &format!("{}=b", "k".repeat(256))] {
        assert_eq!(kept(&[whole]), whole);
    }
    assert_eq!(kept(&["a=1", "b=2,c=3"]), "a=1,b=2,c=3", "several headers are one list");
    assert_eq!(kept(&[" a=1 ,,\tb=2 , "]), "a=1,b=2");
    let many = |count: usize| (0..count).map(|n| format!("k{n}=v")).collect::<Vec<_>>().join(",");
    assert_eq!(kept(&[&many(32)]), many(32));
    for dropped in [
        "",
        ",",
        "a",
        "=b",
        "a=",
        "A=b",
        "_a=b",
        "a=b=c",
        "a=1,a=2",
        "a b=c",
        "a=\u{e9}",
        &many(33),
        &format!("{}=b", "k".repeat(257)),
        &format!("a={}", "v".repeat(257)),
    ] {
        assert_eq!(kept(&[dropped]), "", "{dropped}");
        assert_eq!(
            kept(&["good=1", dropped]),
            if dropped.trim_matches(',').is_empty() { "good=1" } else { "" }
        );
    }
    // Too long: long members go first, then the last ones.
    let long = format!("long={}", "v".repeat(200));
    let short = |from: usize, to: usize| {
        (from..to).map(|n| format!("k{n:02}={}", "v".repeat(16))).collect::<Vec<_>>().join(",")
    };
    assert_eq!(kept(&[&short(0, 10), &long, &short(10, 20)]), short(0, 20));
    let cut = kept(&[&short(0, 32)]);
    assert!(cut.len() <= 512 && short(0, 32).starts_with(&cut) && cut.len() > 480, "{cut}");
}

#[test]
fn b3_is_read_in_each_of_its_forms_and_goes_on_in_it() {
    let one = |value: &str| forwarded(&[("b3", value)]);
    // One header, wide and narrow, with and without the optional parts.
    let (context, headers) = one(&format!("{TRACE}-{SPAN}-1-05e3ac9a4f6e3b90"));
    assert_eq!((trace(&context), parent(&context)), (TRACE.into(), Some(SPAN.into())));
    let span = context.decision_id();
    assert_eq!(text(&headers, "b3"), format!("{TRACE}-{span}-1-{SPAN}"));
    assert_eq!(text(&headers, "traceparent"), format!("00-{TRACE}-{span}-01"));
    let (context, headers) = one(&format!("{}-{SPAN}", &TRACE[16..]));
    assert_eq!(trace(&context), format!("{:016}{}", 0, &TRACE[16..]));
    let narrow = &TRACE[16..];
    assert_eq!(text(&headers, "b3"), format!("{narrow}-{}-1-{SPAN}", context.decision_id()));
    let (context, headers) = one(&format!("{TRACE}-{SPAN}-d"));
    assert_eq!(text(&headers, "b3"), format!("{TRACE}-{}-d-{SPAN}", context.decision_id()));
    // Only a decision: a new trace that keeps to it.
    let (context, headers) = one("0");
    assert_eq!((context.parent, context.is_sampled(), context.links.len()), (None, false, 0));
    assert!(text(&headers, "b3").ends_with("-0"), "{headers:?}");
    assert!(one("1").0.is_sampled());
    // Not sampled: no parent, but a link.
    let (context, _) = one(&format!("{TRACE}-{SPAN}-0"));
    assert_eq!((trace(&context), parent(&context), context.links.len()), (TRACE.into(), None, 1));

    let several =
        [("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN), ("x-b3-parentspanid", "05e3ac9a4f6e3b90")];
    let (context, headers) = forwarded(&[&several[..], &[("x-b3-sampled", "1")]].concat());
    let span = context.decision_id();
    assert_eq!(parent(&context).as_deref(), Some(SPAN));
    for (name, value) in [
        ("x-b3-traceid", TRACE),
        ("x-b3-spanid", &span),
        ("x-b3-parentspanid", SPAN),
        ("x-b3-sampled", "1"),
        ("traceparent", &format!("00-{TRACE}-{span}-01")),
        ("b3", ""),
        ("x-b3-flags", ""),
    ] {
        assert_eq!(text(&headers, name), value, "{name}");
    }
    let (_, headers) = forwarded(&[&several[..], &[("x-b3-flags", "1")]].concat());
    assert_eq!((text(&headers, "x-b3-flags"), text(&headers, "x-b3-sampled")), ("1", ""));
}

#[test]
fn b3_that_is_broken_begins_a_new_trace_and_is_made_good() {
    for hostile in [
        "",
        "2",
        "-",
        "--",
        "0-1",
        "deny",
        &format!("{}-{SPAN}-1", TRACE.to_uppercase()),
        &format!("{TRACE}-{SPAN}-2"),
        &format!("{TRACE}-{SPAN}-1-short"),
        &format!("{TRACE}-{SPAN}-1-{SPAN}-more"),
        &format!("{TRACE}-0000000000000000-1"),
        &format!("{}-{SPAN}-1", "0".repeat(32)),
        &format!("{}-{SPAN}-1", "0".repeat(16)),
        &format!("{}-{SPAN}", &TRACE[1..]),
    ] {
        let (context, headers) = forwarded(&[("b3", hostile)]);
        assert_eq!((context.parent, context.links.len()), (None, 0), "{hostile}");
        let (next, _) = forwarded(&[("b3", text(&headers, "b3"))]);
        assert_eq!(
            (next.trace_id, next.parent),
            (context.trace_id, Some(context.span_id)),
            "{hostile}"
        );
    }
    for broken in [
        &[("x-b3-traceid", TRACE)][..],
        &[("x-b3-traceid", TRACE), ("x-b3-spanid", "x")],
        &[("x-b3-traceid", TRACE), ("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN)],
        &[("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN), ("x-b3-sampled", "maybe")],
    ] {
        let (context, headers) = forwarded(broken);
        assert_eq!((context.parent, context.links.len()), (None, 0), "{broken:?}");
        assert_eq!(text(&headers, "x-b3-spanid"), context.decision_id(), "{broken:?}");
        assert_ne!(text(&headers, "x-b3-traceid"), TRACE, "{broken:?}");
    }
}

#[test]
fn w3c_wins_over_b3_and_both_go_on_as_one() {
    let b3 = format!("1af7651916cd43dd8448eb211c80319c-{SPAN}-1");
    let (context, headers) = forwarded(&[("traceparent", VALID), ("b3", &b3)]);
    assert_eq!(parent(&context).as_deref(), Some(SPAN));
    assert_eq!(context.links.len(), 1, "another trace is linked");
    assert!(text(&headers, "b3").starts_with(TRACE), "{headers:?}");
    let same = format!("{TRACE}-{SPAN}-1");
    assert!(forwarded(&[("traceparent", VALID), ("b3", &same)]).0.links.is_empty());
    // A broken traceparent is not made good by another header.
    let (context, _) = forwarded(&[("traceparent", "00"), ("b3", &same)]);
    assert_eq!((context.parent, context.links.len()), (None, 1));
}

proptest::proptest! {
    /// Whatever comes, what goes on is well-formed, and the next hop is the child of this one.
    #[test]
    fn whatever_comes_the_next_hop_is_a_child_of_this_one(
        pairs in proptest::collection::vec((0_usize..8, "[ -~]{0,60}|[0-9a-f-]{0,80}"), 0..6),
        well_formed in proptest::bool::ANY,
        flags in 0_u8..=255,
    ) {
        const NAMES: [&str; 8] = [
            "traceparent", "tracestate", "b3", "x-b3-traceid", "x-b3-spanid", "x-b3-sampled",
            "x-b3-flags", "x-b3-parentspanid",
        ];
        let mut headers = HeaderMap::new();
        if well_formed {
            let parent = format!("00-{TRACE}-{SPAN}-{flags:02x}");
            headers.append("traceparent", HeaderValue::from_str(&parent).unwrap());
        }
        for (name, value) in &pairs {
            headers.append(NAMES[*name], HeaderValue::from_str(value).unwrap());
        }
        let context = SpanContext::continued(&headers);
        context.inject(&mut headers);
        let next = SpanContext::continued(&headers);
        proptest::prop_assert_eq!(next.trace_id, context.trace_id);
        proptest::prop_assert_eq!(next.parent, Some(context.span_id));
        proptest::prop_assert!(next.links.is_empty(), "{:?} {:?}", headers, next);
        proptest::prop_assert!(text(&headers, "tracestate").len() <= 512);
        // Services that speak B3 alone see the same.
        if headers.contains_key("b3") || headers.contains_key("x-b3-traceid") {
            let sampled = context.is_sampled();
            headers.remove("traceparent");
            let next = SpanContext::continued(&headers);
            proptest::prop_assert_eq!(next.trace_id, context.trace_id);
            let seen = if sampled { next.parent } else { next.links.first().map(|l| l.span_id) };
            proptest::prop_assert_eq!(seen, Some(context.span_id));
        }
    }
}
