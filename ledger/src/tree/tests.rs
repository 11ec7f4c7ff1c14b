#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use super::*;
use crate::hex;
use crate::proof;

/// The entries and roots that implementations of RFC 6962 test themselves with (its reference code).
const ENTRIES: [&str; 8] = [
    "",
    "00",
    "10",
    "2021",
    "3031",
    "40414243",
    "5051525354555657",
    "606162636465666768696a6b6c6d6e6f",
];
const ROOTS: [&str; 8] = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
];

fn leaves() -> Vec<Hash> {
    ENTRIES.iter().map(|entry| leaf(&hex::decode_all(entry).unwrap())).collect()
}

/// RFC 6962 section 2.1, word for word.
fn mth(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => empty(),
        [one] => *one,
        _ => {
            let mut k = 1;
            while k * 2 < leaves.len() {
                k *= 2;
            }
            node(&mth(&leaves[..k]), &mth(&leaves[k..]))
        }
    }
}

#[test]
fn the_roots_are_those_of_the_reference_code() {
    let mut tree = Tree::default();
    assert_eq!(
        hex::encode(&tree.root()),
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    );
    for (leaf, root) in leaves().into_iter().zip(ROOTS) {
        tree.push(leaf, &mut Vec::new());
        assert_eq!(hex::encode(&tree.root()), root);
    }
}

#[test]
fn the_proofs_are_those_of_the_reference_code() {
    let leaves = leaves();
    let path = proof::inclusion(0, 8, &mut |h, i| complete(&leaves, h, i)).unwrap();
    let path: Vec<String> = path.iter().map(|h| hex::encode(h)).collect();
    assert_eq!(
        path,
        [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ]
    );
    let path = proof::consistency(6, 8, &mut |h, i| complete(&leaves, h, i)).unwrap();
    let path: Vec<String> = path.iter().map(|h| hex::encode(h)).collect();
    assert_eq!(
        path,
        [
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ]
    );
}

fn complete(leaves: &[Hash], height: u32, index: u64) -> Result<Hash, ()> {
    let size = 1_usize << height;
    let start = usize::try_from(index).unwrap() * size;
    leaves.get(start..start + size).map(mth).ok_or(())
}

#[test]
fn a_tree_of_any_size_has_the_root_that_the_rfc_defines_and_comes_back_from_its_tiles() {
    let leaves: Vec<Hash> = (0..70_000_u32).map(|i| leaf(&i.to_be_bytes())).collect();
    let (mut tree, mut full) = (Tree::default(), Vec::new());
    for (index, leaf) in leaves.iter().enumerate() {
        tree.push(*leaf, &mut full);
        let size = index + 1;
        if size < 600 || size % 9_973 == 0 || (65_530..65_800).contains(&size) && size % 7 == 0 {
            assert_eq!(tree.root(), mth(&leaves[..size]), "{size}");
            let restored = Tree::restore(size as u64, tree.edge().to_vec()).unwrap();
            assert_eq!(restored, tree);
            assert!(Tree::restore(size as u64 + 1, tree.edge().to_vec()).is_err());
        }
    }
    assert_eq!(full.iter().filter(|tile| tile.level == 0).count(), 70_000 / 256);
    assert_eq!(full.iter().filter(|tile| tile.level == 1).count(), 1);
    for tile in full {
        let below: u64 = 256_u64.pow(u32::from(tile.level));
        for (place, hash) in split_hashes(&tile.hashes).unwrap().into_iter().enumerate() {
            let start = usize::try_from((tile.number * 256 + place as u64) * below).unwrap();
            let end = start + usize::try_from(below).unwrap();
            assert_eq!(hash, mth(&leaves[start..end]), "{} {} {place}", tile.level, tile.number);
        }
    }
}

#[test]
fn every_proof_holds_for_what_it_proves_and_for_nothing_else() {
    let leaves: Vec<Hash> = (0..130_u32).map(|i| leaf(&i.to_be_bytes())).collect();
    let roots: Vec<Hash> = (0..=130).map(|size| mth(&leaves[..size])).collect();
    let mut read = |height, index| complete(&leaves, height, index);
    for size in 1..=130_u64 {
        let root = &roots[size as usize];
        for index in (0..size).step_by(3) {
            let path = proof::inclusion(index, size, &mut read).unwrap();
            let own = &leaves[index as usize];
            assert!(proof::verify_inclusion(index, size, own, &path, root));
            assert!(!proof::verify_inclusion(index, size, &[7; 32], &path, root));
            assert!(!proof::verify_inclusion(index, size, own, &path, &roots[0]));
            assert!(!proof::verify_inclusion(size, size, own, &path, root));
            if let Some((_, shorter)) = path.split_last() {
                assert!(!proof::verify_inclusion(index, size, own, shorter, root));
            }
        }
        for old in (1..=size).step_by(3) {
            let path = proof::consistency(old, size, &mut read).unwrap();
            let before = &roots[old as usize];
            assert!(proof::verify_consistency(old, size, before, root, &path), "{old} {size}");
            let other = &roots[old as usize - 1];
            assert!(!proof::verify_consistency(old, size, other, root, &path), "{old} {size}");
            if old < size {
                assert!(!proof::verify_consistency(old, size, before, before, &path));
            }
            if let Some((_, shorter)) = path.split_last() {
                assert!(!proof::verify_consistency(old, size, before, root, shorter));
            }
        }
    }
    assert!(proof::verify_consistency(0, 5, &empty(), &roots[5], &[]));
    assert!(!proof::verify_consistency(0, 5, &roots[1], &roots[5], &[]));
    assert!(!proof::verify_consistency(6, 5, &roots[6], &roots[5], &[]));
}
