//! The store on disk: whole files by digest, nothing else, and exactly what is needed.

use std::{collections::BTreeSet, time::Duration};

use sluice_config::Digest;
use sluice_operator::artifacts::{Store, StoreError};

#[tokio::test]
async fn what_is_kept_comes_back_and_what_is_damaged_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().join("artifacts")).await.unwrap();
    let digest = Digest::of(b"one");
    assert_eq!(store.get(&digest).await.unwrap(), None);
    store.put(&digest, b"one".to_vec()).await.unwrap();
    store.put(&digest, b"one".to_vec()).await.unwrap();
    assert_eq!(store.get(&digest).await.unwrap(), Some(b"one".to_vec()));
    let lie = store.put(&digest, b"two".to_vec()).await.unwrap_err();
    assert!(matches!(lie, StoreError::Digest { .. }), "{lie}");

    std::fs::write(folder.path().join("artifacts").join(digest.as_str()), b"on").unwrap();
    assert_eq!(store.get(&digest).await.unwrap(), None);
    assert!(!store.has(&digest), "so that it is fetched again");
}

#[tokio::test]
async fn exactly_what_is_needed_stays() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().to_owned()).await.unwrap();
    let digests: Vec<Digest> = ["a", "b", "c"].iter().map(|text| Digest::of(text.as_bytes())).collect();
    for (digest, text) in digests.iter().zip(["a", "b", "c"]) {
        store.put(digest, text.into()).await.unwrap();
    }
    let absent = Digest::of(b"d");
    let needed = BTreeSet::from([digests[1].clone(), absent.clone()]);
    let young = store.collect(needed.clone(), Duration::from_secs(3600)).await.unwrap();
    assert_eq!(young, 0, "what just came may be named in a moment");
    assert_eq!(store.collect(needed.clone(), Duration::ZERO).await.unwrap(), 2);
    assert_eq!(store.missing(&needed), BTreeSet::from([absent]));
    assert!(store.has(&digests[1]) && !store.has(&digests[0]));
}

#[tokio::test]
async fn an_interrupted_write_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let partial = folder.path().join(format!("{}.0.partial", Digest::of(b"one")));
    std::fs::write(&partial, b"on").unwrap();
    let store = Store::open(folder.path().to_owned()).await.unwrap();
    assert!(!partial.exists() && !store.has(&Digest::of(b"one")));
}
