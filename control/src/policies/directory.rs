//! Putting a whole set of files into the policy directory at once.
//!
//! The files are written beside it and the two directories change places in one step (`renameat2` with
//! `RENAME_EXCHANGE`), so that whoever reads it sees the set before or the set after. What was there before stays
//! beside it as `.NAME.previous`. A directory that somebody else keeps, such as a Git checkout or a Kubernetes volume,
//! is not touched: what is in it besides policy files would be lost.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Component, Path, PathBuf};

use picket_policy::Document;
use rustix::fs::{CWD, RenameFlags, renameat_with};

/// Why the directory was not written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// A name that is no policy file's.
    #[error(
        "{0:?} is not the name of a policy file: a relative path to *.yaml or *.yml without dots in front"
    )]
    Name(String),
    /// Somebody else keeps the directory.
    #[error("{} is not only policy files ({what}), so something else keeps it; change the policies there", path.display())]
    Kept {
        /// The directory.
        path: PathBuf,
        /// What was found in it.
        what: String,
    },
    /// The system refused.
    #[error("{} cannot be written; the control plane needs the right to", path.display())]
    Io {
        /// What was being written.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Replaces the content of a policy directory. Blocks.
pub(crate) fn replace(directory: &Path, files: &[Document]) -> Result<(), WriteError> {
    for file in files {
        check_name(&file.file)?;
    }
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| WriteError::Io { path, source }
    };
    check_only_policies(directory, directory)?;
    let (new, previous) = (beside(directory, "new"), beside(directory, "previous"));
    remove(&new).map_err(io(&new))?;
    fs::create_dir(&new).map_err(io(&new))?;
    let written = write_all(&new, files)
        .and_then(|()| fs::metadata(directory))
        .and_then(|metadata| fs::set_permissions(&new, metadata.permissions()))
        .and_then(|()| {
            renameat_with(CWD, &new, CWD, directory, RenameFlags::EXCHANGE).map_err(Into::into)
        });
    if let Err(source) = written {
        let _left_over = remove(&new);
        return Err(WriteError::Io { path: directory.to_owned(), source });
    }
    // The set is in its place; what follows only keeps the one before.
    remove(&previous).and_then(|()| fs::rename(&new, &previous)).map_err(io(&previous))?;
    let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    File::open(parent).and_then(|parent| parent.sync_all()).map_err(io(parent))
}

fn check_name(name: &str) -> Result<(), WriteError> {
    let is_plain = |component: Component<'_>| match component {
        Component::Normal(part) => part.to_str().is_some_and(|part| !part.starts_with('.')),
        _ => false,
    };
    let is_policy = name.ends_with(".yaml") || name.ends_with(".yml");
    match is_policy && !name.contains(['\\', '\0']) && Path::new(name).components().all(is_plain) {
        true => Ok(()),
        false => Err(WriteError::Name(name.to_owned())),
    }
}

/// Refuses a directory with anything in it that a new set would not bring along.
fn check_only_policies(root: &Path, directory: &Path) -> Result<(), WriteError> {
    let io = |source| WriteError::Io { path: directory.to_owned(), source };
    let kept = |what: String| WriteError::Kept { path: root.to_owned(), what };
    if fs::symlink_metadata(directory).map_err(io)?.is_symlink() {
        return Err(kept("it is a link".to_owned()));
    }
    for entry in fs::read_dir(directory).map_err(io)? {
        let entry = entry.map_err(io)?;
        let (kind, name) = (entry.file_type().map_err(io)?, entry.file_name());
        let name = name.to_string_lossy();
        let is_policy = name.ends_with(".yaml") || name.ends_with(".yml");
        match () {
            () if name.starts_with('.') => return Err(kept(format!("there is {name}"))),
            () if kind.is_dir() => check_only_policies(root, &entry.path())?,
            () if kind.is_file() && is_policy => {}
            () => return Err(kept(format!("there is {name}"))),
        }
    }
    Ok(())
}

fn write_all(root: &Path, files: &[Document]) -> io::Result<()> {
    for Document { file, text, .. } in files {
        let path = root.join(&**file);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut file = File::create_new(&path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
    }
    File::open(root)?.sync_all()
}

fn beside(directory: &Path, what: &str) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(directory.file_name().unwrap_or_default());
    name.push(format!(".{what}"));
    directory.with_file_name(name)
}

fn remove(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(directory: &Path) -> Vec<String> {
        let read = picket_policy_files::read(directory).unwrap();
        read.iter().map(|d| format!("{}: {}", d.file, d.text)).collect()
    }

    #[test]
    fn a_set_takes_the_place_of_another_which_is_kept() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("policies");
        fs::create_dir_all(directory.join("team")).unwrap();
        fs::write(directory.join("team/a.yaml"), "one").unwrap();
        let new = [Document::whole("b.yml", "two"), Document::whole("deep/er/c.yaml", "three")];
        replace(&directory, &new).unwrap();
        assert_eq!(files(&directory), ["b.yml: two", "deep/er/c.yaml: three"]);
        let previous = root.path().join(".policies.previous");
        assert_eq!(files(&previous), ["team/a.yaml: one"]);
        replace(&directory, &[Document::whole("d.yaml", "four")]).unwrap();
        assert_eq!(files(&directory), ["d.yaml: four"]);
        assert_eq!(files(&previous), ["b.yml: two", "deep/er/c.yaml: three"]);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 2);
    }

    #[test]
    fn what_somebody_else_keeps_is_not_touched() {
        let root = tempfile::tempdir().unwrap();
        let new = [Document::whole("b.yaml", "two")];
        for (name, is_directory) in [(".git", true), ("README.md", false), ("..data", true)] {
            let directory = root.path().join(format!("of{name}"));
            fs::create_dir(&directory).unwrap();
            fs::write(directory.join("a.yaml"), "one").unwrap();
            match is_directory {
                true => fs::create_dir(directory.join(name)).unwrap(),
                false => fs::write(directory.join(name), "x").unwrap(),
            }
            let refused = replace(&directory, &new).unwrap_err().to_string();
            assert!(refused.contains(&format!("(there is {name})")), "{refused}");
            assert_eq!(files(&directory), ["a.yaml: one"]);
        }
        let link = root.path().join("link");
        std::os::unix::fs::symlink(root.path().join("of.git"), &link).unwrap();
        assert!(matches!(replace(&link, &new), Err(WriteError::Kept { .. })));
        let missing = root.path().join("missing");
        assert!(matches!(replace(&missing, &new), Err(WriteError::Io { .. })));
    }

    #[test]
    fn no_name_leads_out_of_the_directory() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("policies");
        fs::create_dir(&directory).unwrap();
        for name in
            ["../a.yaml", "/etc/a.yaml", "a/../../b.yaml", ".a.yaml", "a/.b.yaml", "a", "a.sh", ""]
        {
            let refused = replace(&directory, &[Document::whole(name, "x")]);
            assert!(matches!(refused, Err(WriteError::Name(_))), "{name}");
        }
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }
}
