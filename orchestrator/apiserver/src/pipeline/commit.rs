//! The last stage: one transaction with the object and whatever must change together with it.

use bytes::Bytes;
use store::{Compare, KeyRange, KeyValue, Op, RangeOptions, Revision, Txn, TxnResult};

use api::ApiError;

use super::{Current, Write};
use crate::error::{from_fresh, from_store};

/// What a transaction changes beside the object, e.g. claims of addresses.
#[derive(Debug, Default)]
pub struct Extra {
    /// Conditions.
    pub compare: Vec<Compare>,
    /// Changes.
    pub then: Vec<Op>,
}

/// How a commit ended.
#[derive(Debug)]
pub enum Outcome {
    /// It is done.
    Done(Revision),
    /// The object is not what was expected; this is what it is.
    Changed(Option<KeyValue>),
    /// The object is as expected, but something in [`Extra`] is not: choose again.
    Contended,
}

// === impl Write ===

impl Write<'_> {
    /// Creates (`expected` 0) or replaces an object.
    pub async fn put(
        &self,
        key: Bytes,
        expected: Revision,
        value: Bytes,
        extra: Extra,
    ) -> Result<Outcome, ApiError> {
        let op = Op::put(key.clone(), value);
        self.transact(key, expected, op, extra).await
    }

    /// Deletes an object.
    pub async fn remove(&self, key: Bytes, expected: Revision, extra: Extra) -> Result<Outcome, ApiError> {
        let op = Op::delete(key.clone());
        self.transact(key, expected, op, extra).await
    }

    async fn transact(
        &self,
        key: Bytes,
        expected: Revision,
        op: Op,
        extra: Extra,
    ) -> Result<Outcome, ApiError> {
        let mut txn = Txn { compare: extra.compare, then: extra.then, or_else_get: vec![key.clone()] };
        txn.compare.push(Compare::unchanged(key, expected));
        txn.then.push(op);
        match self.api.feed.store().txn(txn).await.map_err(from_store)? {
            TxnResult::Committed { revision } => Ok(Outcome::Done(revision)),
            TxnResult::Conflict { current, .. } => {
                let current = current.into_iter().next().flatten();
                let found = current.as_ref().map_or(0, |kv| kv.mod_revision);
                Ok(if found == expected { Outcome::Contended } else { Outcome::Changed(current) })
            }
        }
    }

    /// What was to be claimed is taken: waits until the allocators know about it.
    pub async fn contended(&self) -> Result<(), ApiError> {
        self.api.metrics.write_retries.inc();
        self.api.feed.fresh().await.map_err(from_fresh)?;
        Ok(())
    }

    /// The object as the cache has it: perhaps old, which the commit finds out.
    pub fn cached(&self) -> Result<Option<Current>, ApiError> {
        let path = self.resource.path(&self.info.namespace, &self.info.name);
        self.resource.objects()?.get(&path).map(|entry| Current::new(&entry)).transpose()
    }

    /// The object as the store has it now.
    pub async fn stored(&self) -> Result<Option<Current>, ApiError> {
        let range = KeyRange::key(self.key(&self.info.namespace, &self.info.name));
        let read = self.api.feed.store().range(range, RangeOptions::default()).await.map_err(from_store)?;
        self.current(read.items.into_iter().next())
    }

    /// Decodes what the store returned.
    pub fn current(&self, kv: Option<KeyValue>) -> Result<Option<Current>, ApiError> {
        let cache = self.resource.objects()?;
        let Some(kv) = kv else { return Ok(None) };
        let entry = cache.entry(kv).ok_or_else(|| ApiError::internal("the stored object cannot be read"))?;
        Current::new(&entry).map(Some)
    }
}
