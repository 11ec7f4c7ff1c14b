//! SPIFFE IDs: what is accepted is spelt exactly as it was given, its parts make it up again, and the
//! policy engine reads the same principal from it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use picket_certs::{Identity, SpiffeId};
use picket_policy::Principal;

fuzz_target!(|text: &str| {
    if let Ok(id) = text.parse::<SpiffeId>() {
        assert_eq!(id.as_str(), text);
        let parts = SpiffeId::new(id.trust_domain(), id.namespace(), id.service_account());
        assert_eq!(parts.as_ref(), Ok(&id));
        let principal = Principal::from_spiffe_id(text).expect("an identity is a principal");
        assert_eq!(principal.as_str(), id.principal());
        assert_eq!(principal.namespace(), id.namespace());
        assert_eq!(principal.service_account(), id.service_account());
        assert_eq!(principal.trust_domain(), id.trust_domain().as_str());
    }
    if let Ok(identity) = text.parse::<Identity>() {
        assert_eq!(identity.as_str(), text);
    }
    Principal::from_spiffe_id(text).ok();
});
