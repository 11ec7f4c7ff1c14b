use picket_ledger::tree::{leaf, root_over};
use picket_ledger::{Checkpoint, Tree};

use super::*;

const LOG: &str = "shop.example/picket-log";

struct Log {
    signer: Signer,
    leaves: Vec<Hash>,
}

impl Log {
    fn new() -> Self {
        Self { signer: Signer::generate(LOG, Kind::Note).unwrap(), leaves: Vec::new() }
    }

    fn grow(&mut self, entries: &[&str]) {
        self.leaves.extend(entries.iter().map(|entry| leaf(entry.as_bytes())));
    }

    /// The checkpoint of now, with what shows that it continues the one of `old` entries.
    fn offer(&self, old: u64) -> v1::LogCheckpoint {
        let mut tree = Tree::default();
        self.leaves.iter().for_each(|leaf| tree.push(*leaf, &mut Vec::new()));
        let (size, root) = (tree.size(), tree.root());
        let checkpoint = Checkpoint { origin: LOG.to_owned(), size, root };
        let mut read = |height: u32, index: u64| {
            let (width, index) = (1 << height, usize::try_from(index).unwrap());
            let subtree = self.leaves.get(index * width..(index + 1) * width);
            subtree.map(root_over).ok_or(())
        };
        let path = proof::consistency(old, size, &mut read).unwrap();
        v1::LogCheckpoint {
            note: SignedCheckpoint::sign(checkpoint, &self.signer).unwrap().1,
            old_size: old,
            consistency_proof: path.into_iter().map(|hash| hash.to_vec()).collect(),
            key: self.signer.verifier().to_string(),
        }
    }
}

fn open(directory: &tempfile::TempDir) -> Witness {
    let state = Arc::new(StateDir::open(directory.path()).unwrap());
    Witness::open(state, &"spiffe://shop.example/ns/shop/sa/web".parse().unwrap()).unwrap()
}

#[test]
fn what_continues_the_log_is_cosigned_and_nothing_else_also_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let mut witness = open(&directory);
    let key = Verifier::parse(&witness.seen().key).unwrap();
    let mut log = Log::new();
    let now = SystemTime::now();
    log.grow(&["a", "b", "c"]);
    let offered = log.offer(0);
    let answer = witness.look_at(&offered, now);
    let text = SignedCheckpoint::parse(&offered.note).unwrap().note.text;
    assert_eq!((answer.size, answer.refusal.as_str()), (3, ""));
    assert!(checkpoint::is_cosignature(&text, &answer.cosignature, &key));
    log.grow(&["d", "e"]);
    assert_eq!(witness.look_at(&log.offer(3), now).refusal, "");
    drop(witness);

    let mut witness = open(&directory);
    assert_eq!(witness.seen().key, key.to_string());
    assert_eq!(witness.hello().size, 5);
    let refused = |witness: &mut Witness, offered: &v1::LogCheckpoint, words: &str| {
        let answer = witness.look_at(offered, now);
        assert!(answer.cosignature.is_empty());
        assert!(answer.refusal.contains(words), "{}", answer.refusal);
        assert_eq!(witness.seen().refusal.as_deref(), Some(answer.refusal.as_str()));
        assert_eq!(witness.hello().size, 5);
    };
    // Rolled back, to what it was and to another history of the same length.
    let mut shorter =
        Log { signer: Signer::parse(&log.signer.to_text()).unwrap(), leaves: Vec::new() };
    shorter.grow(&["a", "b", "c"]);
    refused(&mut witness, &shorter.offer(3), "rolled back");
    shorter.grow(&["d", "x"]);
    refused(&mut witness, &shorter.offer(5), "forked");
    shorter.grow(&["f", "g"]);
    refused(&mut witness, &shorter.offer(5), "nothing shows");
    // The same log without the proof, with that of another size, and under another key.
    log.grow(&["f", "g"]);
    refused(&mut witness, &log.offer(4), "nothing shows");
    let bare = v1::LogCheckpoint { consistency_proof: Vec::new(), ..log.offer(5) };
    refused(&mut witness, &bare, "nothing shows");
    let stranger = Log { leaves: log.leaves.clone(), ..Log::new() };
    refused(&mut witness, &stranger.offer(5), "was");
    let forged = v1::LogCheckpoint { key: log.offer(5).key, ..stranger.offer(5) };
    refused(&mut witness, &forged, "not signed");
    // The true one is taken still.
    assert_eq!(witness.look_at(&log.offer(5), now).refusal, "");
    assert_eq!((witness.hello().size, witness.seen().refusal.clone()), (7, None));
}
