//! How records name the subjects of tokens: by a keyed hash, in clear, or not at all.
//!
//! A mesh has one key at a time, which the control plane gives; a proxy from files has its own.

use picket_api::v1;
use picket_certs::subject::SubjectKey;

/// The rule in force.
pub(crate) enum Subjects {
    /// By the hash under a key.
    Hash(Box<SubjectKey>),
    /// As they are.
    Clear,
    /// Not at all.
    None,
}

/// A subject in the form in which it may be recorded.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Recorded {
    Hash { hash: String, key: String },
    Clear(Box<str>),
    None,
}

/// What cannot be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("how subjects are to be recorded is not known to this version")]
pub(crate) struct BadSubjects;

impl Subjects {
    /// The mesh's rule, as the control plane gives it.
    pub(crate) fn of_mesh(message: &v1::Subjects) -> Result<Self, BadSubjects> {
        match message.mode.as_str() {
            "hash" => SubjectKey::new(&message.key).map(Self::hash).ok_or(BadSubjects),
            "clear" => Ok(Self::Clear),
            "none" => Ok(Self::None),
            _ => Err(BadSubjects),
        }
    }

    /// By the hash under a key.
    pub(crate) fn hash(key: SubjectKey) -> Self {
        Self::Hash(Box::new(key))
    }

    /// What is recorded of a subject; an empty one is none.
    pub(crate) fn recorded(&self, subject: &str) -> Recorded {
        match self {
            _ if subject.is_empty() => Recorded::None,
            Self::Hash(key) => Recorded::Hash { hash: key.hash(subject), key: key.id().to_owned() },
            Self::Clear => Recorded::Clear(subject.into()),
            Self::None => Recorded::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_recorded_as_the_mesh_has_it_and_an_unknown_way_is_refused() {
        let rule = |mode: &str, length: usize| {
            Subjects::of_mesh(&v1::Subjects { mode: mode.to_owned(), key: vec![7; length] })
        };
        let recorded = |mode: &str| rule(mode, 32).unwrap().recorded("ana");
        assert!(recorded("clear") == Recorded::Clear("ana".into()));
        assert!(recorded("none") == Recorded::None);
        let Recorded::Hash { hash, key } = recorded("hash") else { panic!("no hash") };
        assert_eq!((hash.len(), key.len()), (32, 8));
        assert!(rule("hash", 32).unwrap().recorded("") == Recorded::None);
        for (mode, length) in [("hash", 0), ("hash", 31), ("", 32), ("pseudonym", 32)] {
            assert!(rule(mode, length).is_err(), "{mode} {length}");
        }
        let message = v1::Subjects { mode: "hash".to_owned(), key: vec![7; 32] };
        let update = v1::ConfigUpdate { subjects: Some(message), ..Default::default() };
        assert!(!format!("{update:?}").contains("7, 7"), "a key is never formatted");
    }
}
