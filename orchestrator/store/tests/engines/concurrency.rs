//! Many clients at once: what each of them saw must fit one order.

use std::{collections::HashMap, sync::Arc, time::Instant};

use store::{Compare, Op, Revision, Store, Txn, TxnResult};

use crate::rig::{Rig, get, put};

const CLIENTS: usize = 12;
const STEPS: usize = 60;
const KEYS: [&str; 3] = ["/k/a", "/k/b", "/events/c"];

/// What one client did and saw, from when to when.
struct Step {
    key: &'static str,
    began: Instant,
    ended: Instant,
    what: Saw,
}

#[derive(Debug)]
enum Saw {
    /// The key was as this revision left it.
    Read(Revision),
    /// A compare-and-swap from one revision to another.
    Swapped(Revision, Revision),
    /// A compare-and-swap that found another revision there.
    Lost(Revision),
}

pub async fn histories_are_linearizable(rig: Rig) {
    let mut rig = rig;
    // Events would otherwise end during the test.
    rig.event_ttl = std::time::Duration::from_secs(3600);
    let store = rig.open().await;
    for key in KEYS {
        put(&*store, key, "0").await;
    }
    let clients: Vec<_> = (0..CLIENTS).map(|client| tokio::spawn(work(store.clone(), client))).collect();
    let mut history = Vec::new();
    for client in clients {
        history.extend(client.await.expect("works"));
    }
    for key in KEYS {
        check(key, history.iter().filter(|step| step.key == key).collect());
    }
}

async fn work(store: Arc<dyn Store>, client: usize) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut known: HashMap<&str, Revision> = HashMap::new();
    for number in 0..STEPS {
        let key = KEYS[(client + number) % KEYS.len()];
        let began = Instant::now();
        let what = match known.remove(key) {
            Some(from) => swap(&*store, key, from).await,
            None => Saw::Read(get(&*store, key).await.expect("exists").mod_revision),
        };
        steps.push(Step { key, began, ended: Instant::now(), what });
        if let Some(Step { what: Saw::Read(revision) | Saw::Swapped(_, revision), .. }) = steps.last() {
            known.insert(key, *revision);
        }
    }
    steps
}

async fn swap(store: &dyn Store, key: &'static str, from: Revision) -> Saw {
    let txn = Txn {
        compare: vec![Compare::unchanged(key, from)],
        then: vec![Op::put(key, from.to_string())],
        or_else_get: vec![key.into()],
    };
    match store.txn(txn).await.expect("answers") {
        TxnResult::Committed { revision } => Saw::Swapped(from, revision),
        TxnResult::Conflict { current, .. } => Saw::Lost(current[0].as_ref().expect("exists").mod_revision),
    }
}

/// Swaps form one chain, and nobody sees a state older than one that was there before he asked, nor one from after.
fn check(key: &str, steps: Vec<&Step>) {
    let mut swaps: Vec<(Revision, Revision)> = Vec::new();
    for step in &steps {
        if let Saw::Swapped(from, to) = step.what {
            swaps.push((from, to));
        }
    }
    swaps.sort_unstable();
    assert!(swaps.len() > STEPS / 6, "{key}: {} swaps are too few to say anything", swaps.len());
    for pair in swaps.windows(2) {
        assert_eq!(pair[0].1, pair[1].0, "{key}: the chain of swaps is broken at {pair:?}");
    }
    let state = |step: &Step| match step.what {
        Saw::Read(revision) | Saw::Lost(revision) | Saw::Swapped(_, revision) => revision,
    };
    for earlier in &steps {
        for later in steps.iter().filter(|later| earlier.ended < later.began) {
            assert!(
                state(earlier) <= state(later),
                "{key}: {:?} was seen before {:?}",
                earlier.what,
                later.what
            );
        }
    }
    let begun: HashMap<Revision, Instant> = steps
        .iter()
        .filter_map(|step| if let Saw::Swapped(_, to) = step.what { Some((to, step.began)) } else { None })
        .collect();
    for step in &steps {
        if let Some(written) = begun.get(&state(step)) {
            assert!(*written <= step.ended, "{key}: {:?} came before its write", step.what);
        }
    }
}

pub async fn concurrent_creates_have_one_winner(rig: Rig) {
    let store = rig.open().await;
    for round in 0..20 {
        let create = |client: usize| {
            let store = store.clone();
            let key = format!("/names/{round}");
            tokio::spawn(async move {
                let txn = Txn {
                    compare: vec![Compare::absent(key.clone())],
                    then: vec![Op::put(key.clone(), client.to_string())],
                    or_else_get: vec![key.into()],
                };
                store.txn(txn).await.expect("answers")
            })
        };
        let clients: Vec<_> = (0..16).map(create).collect();
        let mut won = Vec::new();
        let mut seen = Vec::new();
        for client in clients {
            match client.await.expect("answers") {
                TxnResult::Committed { revision } => won.push(revision),
                TxnResult::Conflict { current, .. } => {
                    seen.push(current[0].as_ref().expect("the winner's").mod_revision);
                }
            }
        }
        assert_eq!(won.len(), 1);
        assert!(seen.iter().all(|revision| *revision == won[0]));
    }
}
