//! Request targets: the normal form is a fixed point, begins with a slash, and holds nothing that two
//! programs could read differently.
#![no_main]

use libfuzzer_sys::fuzz_target;
use picket_policy::path;

fuzz_target!(|target: &str| {
    let Ok(normal) = path::normalize(target) else { return };
    let path = &*normal.path;
    assert!(path.starts_with('/'), "{path:?}");
    assert!(!path.contains("//") && !path.contains('\\') && !path.contains(';'), "{path:?}");
    assert!(path.split('/').all(|segment| segment != "." && segment != ".."), "{path:?}");
    assert!(path.bytes().all(|byte| byte.is_ascii_graphic()), "{path:?}");
    let forwarded = normal.to_forward(target);
    let again = path::normalize(&forwarded).expect("what is forwarded is accepted");
    assert_eq!(again.path, normal.path, "not a fixed point");
    assert_eq!(again.query, normal.query);
});
