//! Lists: which state a client asks for, pages, and their continue tokens.

use std::sync::Arc;

use api::ApiError;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde::{Deserialize, Serialize};
use store::{KeyRange, RangeOptions, Revision, StoreError};

use crate::cache::list::Listing;
use crate::cache::{Entry, Feed, Scope};
use crate::error::{from_fresh, from_reached, from_store};
use crate::options::{ReadOptions, Version, VersionMatch};
use crate::resources::Resource;

/// Keys read from the store at once when a filter decides how many of them count.
const STORE_PAGE: usize = 1_000;

/// A page of a list.
#[derive(Debug)]
pub struct Page {
    /// The objects.
    pub entries: Vec<Arc<Entry>>,
    /// The state that they, and all further pages, are of.
    pub revision: Revision,
    /// Where the next page starts; empty on the last.
    pub continue_token: String,
    /// How many objects come after this page, where that is known.
    pub remaining: Option<u64>,
}

/// What a continue token holds.
#[derive(Debug, Serialize, Deserialize)]
struct Token {
    /// The state that the list is of; 0 goes on with whatever is there.
    #[serde(rename = "rv")]
    revision: Revision,
    /// The last path of the page before.
    after: String,
    /// How many objects were left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    left: Option<u64>,
}

/// Which state to list.
#[derive(Debug, Clone, Copy)]
enum State {
    Current,
    NotOlderThan(Revision),
    Exactly(Revision),
}

/// Lists what is in scope.
pub async fn list(
    feed: &Feed,
    resource: &Resource,
    scope: &Scope,
    options: &ReadOptions,
) -> Result<Page, ApiError> {
    let token = Token::parse(&options.continue_token)?;
    let after = token.as_ref().map(|token| token.after.as_str());
    let state = state_asked_for(options, token.as_ref());
    let listing = read(feed, resource, scope, after, options.limit, state).await?;
    let mut page = Page {
        entries: listing.entries,
        revision: listing.revision,
        continue_token: String::new(),
        remaining: None,
    };
    if let Some(last) = listing.next_after {
        let left = token.as_ref().and_then(|token| token.left);
        page.remaining = remaining(resource, scope, &last, left, page.entries.len());
        page.continue_token = Token { revision: page.revision, after: last, left: page.remaining }.encode();
    }
    Ok(page)
}

fn state_asked_for(options: &ReadOptions, token: Option<&Token>) -> State {
    match (token, options.version, options.version_match) {
        (Some(Token { revision: 0, .. }), ..) => State::Current,
        (Some(token), ..) => State::Exactly(token.revision),
        (None, Version::Unset, _) => State::Current,
        (None, Version::Any, _) => State::NotOlderThan(0),
        (None, Version::At(revision), Some(VersionMatch::Exact)) => State::Exactly(revision),
        (None, Version::At(revision), Some(VersionMatch::NotOlderThan)) => State::NotOlderThan(revision),
        // Without a match, a limit has always meant the exact state.
        (None, Version::At(revision), None) if options.limit > 0 => State::Exactly(revision),
        (None, Version::At(revision), None) => State::NotOlderThan(revision),
    }
}

async fn read(
    feed: &Feed,
    resource: &Resource,
    scope: &Scope,
    after: Option<&str>,
    limit: usize,
    state: State,
) -> Result<Listing, ApiError> {
    let cache = resource.objects()?;
    match state {
        State::Current if feed.fresh().await.map_err(from_fresh)? => {}
        State::Current => return from_the_store(feed, resource, scope, after, limit, None).await,
        State::NotOlderThan(revision) => feed.reached(revision).await.map_err(from_reached)?,
        State::Exactly(revision) => {
            let mut listing = cache.list(scope, after, limit);
            if listing.revision < revision || cache.changed_since(revision) {
                return from_the_store(feed, resource, scope, after, limit, Some(revision)).await;
            }
            listing.revision = revision;
            return Ok(listing);
        }
    }
    Ok(cache.list(scope, after, limit))
}

/// Reads a state from the store: one that the cache has left behind, or the current one where the cache cannot know.
async fn from_the_store(
    feed: &Feed,
    resource: &Resource,
    scope: &Scope,
    after: Option<&str>,
    limit: usize,
    revision: Option<Revision>,
) -> Result<Listing, ApiError> {
    let cache = resource.objects()?;
    let mut range = KeyRange::prefix(format!("{}{}", resource.prefix(), scope.prefix()));
    if let Some(after) = after {
        range = range.after(format!("{}{after}", resource.prefix()).as_bytes());
    }
    let page = if limit == 0 || !scope.is_unfiltered() { STORE_PAGE } else { limit };
    let mut options = RangeOptions { revision, limit: page, ..RangeOptions::default() };
    let mut listing = Listing::default();
    loop {
        let read = feed.store().range(range.clone(), options.clone()).await;
        let read = read.map_err(|error| from_store_list(error, after))?;
        options.revision = Some(read.revision);
        listing.revision = read.revision;
        let Some(last) = read.items.last().map(|kv| kv.key.clone()) else { return Ok(listing) };
        let mut items = read.items.into_iter();
        for kv in items.by_ref() {
            let Some(entry) = cache.entry(kv).filter(|entry| scope.contains(entry)) else { continue };
            listing.entries.push(entry);
            if limit > 0 && listing.entries.len() == limit {
                break;
            }
        }
        let full = limit > 0 && listing.entries.len() == limit;
        if full && (read.more || items.len() > 0) {
            listing.next_after = listing.entries.last().map(|entry| entry.path().to_owned());
        }
        if full || !read.more {
            return Ok(listing);
        }
        range = range.after(&last);
    }
}

/// A state that is gone: tells how to go on without starting over.
fn from_store_list(error: StoreError, after: Option<&str>) -> ApiError {
    let StoreError::Compacted { requested, oldest } = error else { return from_store(error) };
    let Some(after) = after else {
        return ApiError::expired(format!("too old resource version: {requested} ({oldest})"));
    };
    let token = Token { revision: 0, after: after.to_owned(), left: None }.encode();
    let error = ApiError::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list \
         without the continue parameter, or use the continue token in this response to retrieve the remainder of \
         the results as they are now: what changed since the first page may be missing or new.",
    );
    error.with_continue(token)
}

fn remaining(
    resource: &Resource,
    scope: &Scope,
    last: &str,
    left_before: Option<u64>,
    returned: usize,
) -> Option<u64> {
    if !scope.is_unfiltered() {
        return None;
    }
    let count = || resource.cache.as_ref().map(|cache| cache.count_after(scope, last) as u64);
    left_before.map(|left| left.saturating_sub(returned as u64)).or_else(count).filter(|left| *left > 0)
}

// === impl Token ===

impl Token {
    fn parse(text: &str) -> Result<Option<Self>, ApiError> {
        if text.is_empty() {
            return Ok(None);
        }
        let token = BASE64URL.decode(text).ok().and_then(|json| serde_json::from_slice(&json).ok());
        token.map(Some).ok_or_else(|| {
            ApiError::bad_request(
                "continue key is not valid: it must be the metadata.continue of an earlier page",
            )
        })
    }

    fn encode(&self) -> String {
        BASE64URL.encode(serde_json::to_vec(self).expect("invariant: a token is plain data"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_round_trip_and_bad_ones_are_refused() {
        let token = Token { revision: 5, after: "a/b".into(), left: Some(3) }.encode();
        let parsed = Token::parse(&token).unwrap().unwrap();
        assert_eq!((parsed.revision, parsed.after.as_str(), parsed.left), (5, "a/b", Some(3)));
        assert!(Token::parse("").unwrap().is_none());
        assert!(Token::parse("nonsense!").is_err());
    }

    #[test]
    fn a_lost_state_tells_how_to_go_on() {
        let error = from_store_list(StoreError::Compacted { requested: 1, oldest: 9 }, Some("a/b"));
        let token = error.status().metadata["continue"].as_str().unwrap();
        assert_eq!(Token::parse(token).unwrap().unwrap().revision, 0);
    }
}
