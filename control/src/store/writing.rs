//! A transaction of the writer: the database together with the log over its records.
//!
//! Records can only be added where the log is, so that what is in one is in the other.

use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::sync::Arc;

use picket_ledger::{Hash, Tree};
use rusqlite::Connection;

use super::feed::{Arrived, Feed};
use super::{StoreError, log};

/// What a job of the writer works on.
pub(crate) struct Writing<'w> {
    connection: &'w Connection,
    tree: RefCell<Tree>,
    /// The tree as it is on the disk.
    saved: RefCell<Tree>,
    size: &'w std::sync::atomic::AtomicU64,
    is_changed: Cell<bool>,
    /// Records of this transaction.
    arrived: RefCell<Vec<Arrived>>,
    feed: Arc<Feed>,
}

/// A state of the log and of what has arrived, to come back to.
pub(super) struct Mark {
    tree: Tree,
    arrived: usize,
}

impl Deref for Writing<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection
    }
}

impl<'w> Writing<'w> {
    /// The tree is that of the database.
    pub(super) fn new(
        connection: &'w Connection,
        tree: Tree,
        size: &'w std::sync::atomic::AtomicU64,
        feed: Arc<Feed>,
    ) -> Self {
        let saved = RefCell::new(tree.clone());
        let (tree, arrived) = (RefCell::new(tree), RefCell::default());
        Self { connection, tree, saved, size, is_changed: Cell::new(false), arrived, feed }
    }

    /// How many entries the log has, those of this transaction included. The next record's id is one
    /// more.
    pub(crate) fn log_size(&self) -> u64 {
        self.tree.borrow().size()
    }

    /// The root of the log.
    pub(crate) fn log_root(&self) -> Hash {
        self.tree.borrow().root()
    }

    /// Appends leaves to the log.
    pub(super) fn append(&self, leaves: impl IntoIterator<Item = Hash>) -> Result<(), StoreError> {
        let mut tree = self.tree.borrow_mut();
        let mut full = Vec::new();
        for leaf in leaves {
            tree.push(leaf, &mut full);
        }
        self.is_changed.set(true);
        full.iter().try_for_each(|tile| log::save(self, tile.level, tile.number, &tile.hashes))
    }

    /// A record that is new: whoever follows the store is given it once it is on the disk.
    pub(super) fn arrived(&self, record: impl FnOnce() -> Arrived) {
        if self.feed.is_wanted() {
            self.arrived.borrow_mut().push(record());
        }
    }

    /// The log as it is now, to come back to.
    pub(super) fn mark(&self) -> Mark {
        Mark { tree: self.tree.borrow().clone(), arrived: self.arrived.borrow().len() }
    }

    /// What was appended since is not.
    pub(super) fn back_to(&self, mark: Mark) {
        self.tree.replace(mark.tree);
        self.arrived.borrow_mut().truncate(mark.arrived);
    }

    /// Writes the unfinished tiles: the last thing before a commit.
    pub(super) fn save_edge(&self) -> Result<(), StoreError> {
        if !self.is_changed.get() {
            return Ok(());
        }
        let (tree, saved) = (self.tree.borrow(), self.saved.borrow());
        let mut number = tree.size();
        for (level, tile) in (0_u8..).zip(tree.edge()) {
            number /= picket_ledger::tree::WIDTH as u64;
            if !tile.is_empty() && saved.edge().get(usize::from(level)) != Some(tile) {
                log::save(self, level, number, &tile.concat())?;
            }
        }
        Ok(())
    }

    /// The transaction has ended.
    pub(super) fn ended(&self, is_committed: bool) {
        self.is_changed.set(false);
        let arrived = self.arrived.take();
        if is_committed {
            let tree = self.tree.borrow();
            self.saved.replace(tree.clone());
            self.size.store(tree.size(), std::sync::atomic::Ordering::Release);
            self.feed.give(arrived);
        } else {
            self.tree.replace(self.saved.borrow().clone());
        }
    }
}
