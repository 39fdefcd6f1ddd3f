//! The query parameters of requests, parsed and checked in one place.

use std::borrow::Cow;

use api::ApiError;
use api::decode::FieldValidation;
use api::managed_fields;
use store::Revision;

use crate::request_info::truthy;

/// A parsed query string.
#[derive(Debug, Default)]
pub struct Query<'a> {
    pairs: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

/// What `resourceVersionMatch` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VersionMatch {
    /// A state at least as new.
    NotOlderThan,
    /// Exactly that state.
    Exact,
}

/// The resourceVersion of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Version {
    /// Not given.
    #[default]
    Unset,
    /// `0`: whatever is at hand.
    Any,
    /// A revision.
    At(Revision),
}

/// The parameters of get, list and watch.
#[derive(Debug, Default)]
pub struct ReadOptions {
    /// `labelSelector`.
    pub label_selector: String,
    /// `fieldSelector`.
    pub field_selector: String,
    /// `resourceVersion`.
    pub version: Version,
    /// `resourceVersionMatch`.
    pub version_match: Option<VersionMatch>,
    /// `limit`; 0 for none.
    pub limit: usize,
    /// `continue`.
    pub continue_token: String,
    /// `timeoutSeconds`.
    pub timeout_seconds: Option<u64>,
    /// `allowWatchBookmarks`.
    pub bookmarks: bool,
    /// `sendInitialEvents`.
    pub initial_events: Option<bool>,
}

/// The parameters of writes.
#[derive(Debug)]
pub struct WriteOptions {
    /// `dryRun=All`.
    pub dry_run: bool,
    /// `fieldManager`, else derived from the user agent.
    pub field_manager: String,
    /// Whether the request named its field manager.
    pub manager_given: bool,
    /// `fieldValidation`.
    pub field_validation: FieldValidation,
    /// `force`, for apply.
    pub force: bool,
}

// === impl Query ===

impl<'a> Query<'a> {
    /// Parses a query string.
    pub fn parse(query: Option<&'a str>) -> Self {
        let Some(query) = query else { return Self::default() };
        Self { pairs: form_urlencoded::parse(query.as_bytes()).collect() }
    }

    /// The first value of a parameter.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.pairs.iter().find(|(own, _)| own == key).map(|(_, value)| value.as_ref())
    }

    /// All values of a parameter.
    pub fn all(&self, key: &str) -> impl Iterator<Item = &str> {
        self.pairs.iter().filter(move |(own, _)| own == key).map(|(_, value)| value.as_ref())
    }

    /// A yes or no; `None` when absent.
    pub fn flag(&self, key: &str) -> Option<bool> {
        self.get(key).map(truthy)
    }

    fn text(&self, key: &str) -> String {
        self.get(key).unwrap_or_default().to_owned()
    }

    fn number<T: std::str::FromStr>(&self, key: &str) -> Result<Option<T>, ApiError> {
        let Some(text) = self.get(key).filter(|text| !text.is_empty()) else { return Ok(None) };
        let invalid =
            || ApiError::bad_request(format!("invalid value for {key}: {text:?} is not a number in range"));
        text.parse().map(Some).map_err(|_| invalid())
    }
}

// === impl Version ===

impl Version {
    /// Parses a resourceVersion.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        match text {
            "" => Ok(Version::Unset),
            "0" => Ok(Version::Any),
            text => match text.parse() {
                Ok(revision) => Ok(Version::At(revision)),
                Err(_) => Err(ApiError::bad_request(format!(
                    "resourceVersion: Invalid value: {text:?}: it must be a number that a list, a get or a watch returned"
                ))),
            },
        }
    }
}

// === impl ReadOptions ===

impl ReadOptions {
    /// Reads the parameters of get, list and watch.
    pub fn parse(query: &Query<'_>, watch: bool) -> Result<Self, ApiError> {
        let options = Self {
            label_selector: query.text("labelSelector"),
            field_selector: query.text("fieldSelector"),
            version: Version::parse(query.get("resourceVersion").unwrap_or_default())?,
            version_match: version_match(query.get("resourceVersionMatch").unwrap_or_default())?,
            limit: query.number("limit")?.unwrap_or(0),
            continue_token: query.text("continue"),
            timeout_seconds: query.number("timeoutSeconds")?,
            bookmarks: query.flag("allowWatchBookmarks").unwrap_or(false),
            initial_events: query.flag("sendInitialEvents"),
        };
        if watch {
            options.check_watch()?
        } else {
            options.check_list()?
        }
        Ok(options)
    }

    fn check_list(&self) -> Result<(), ApiError> {
        let forbidden =
            |field: &str, why: &str| Err(ApiError::bad_request(format!("{field}: Forbidden: {why}")));
        if self.initial_events.is_some() {
            return forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list");
        }
        let Some(version_match) = self.version_match else { return Ok(()) };
        if self.version == Version::Unset {
            return forbidden(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden unless resourceVersion is provided",
            );
        }
        if !self.continue_token.is_empty() {
            return forbidden(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden when continue is provided",
            );
        }
        if version_match == VersionMatch::Exact && self.version == Version::Any {
            let why = "resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"";
            return forbidden("resourceVersionMatch", why);
        }
        Ok(())
    }

    fn check_watch(&self) -> Result<(), ApiError> {
        let forbidden =
            |why: &str| Err(ApiError::bad_request(format!("resourceVersionMatch: Forbidden: {why}")));
        match (self.initial_events, self.version_match) {
            (None, Some(_)) => {
                forbidden("resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided")
            }
            (Some(_), version_match) if version_match != Some(VersionMatch::NotOlderThan) => {
                forbidden("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan")
            }
            (Some(true), _) if !self.bookmarks => Err(ApiError::bad_request(
                "sendInitialEvents: Forbidden: sendInitialEvents requires allowWatchBookmarks to be set",
            )),
            _ => Ok(()),
        }
    }
}

fn version_match(text: &str) -> Result<Option<VersionMatch>, ApiError> {
    match text {
        "" => Ok(None),
        "NotOlderThan" => Ok(Some(VersionMatch::NotOlderThan)),
        "Exact" => Ok(Some(VersionMatch::Exact)),
        other => Err(ApiError::bad_request(format!(
            "resourceVersionMatch: Unsupported value: {other:?}: supported values: \"Exact\", \"NotOlderThan\""
        ))),
    }
}

// === impl WriteOptions ===

impl WriteOptions {
    /// Reads the parameters of a write. `default_validation` is what holds when the client says nothing.
    pub fn parse(query: &Query<'_>, user_agent: &str) -> Result<Self, ApiError> {
        Ok(Self {
            dry_run: dry_run(query.all("dryRun"))?,
            field_manager: field_manager(query.get("fieldManager").unwrap_or_default(), user_agent)?,
            manager_given: query.get("fieldManager").is_some_and(|name| !name.is_empty()),
            field_validation: field_validation(query.get("fieldValidation").unwrap_or_default())?,
            force: query.flag("force").unwrap_or(false),
        })
    }
}

fn field_validation(text: &str) -> Result<FieldValidation, ApiError> {
    FieldValidation::parse(text).ok_or_else(|| {
        ApiError::bad_request(format!(
            "fieldValidation: Unsupported value: {text:?}: supported values: \"Ignore\", \"Strict\", \"Warn\""
        ))
    })
}

/// Whether `dryRun` asks for a rehearsal.
pub fn dry_run<'a>(values: impl Iterator<Item = &'a str>) -> Result<bool, ApiError> {
    let mut dry_run = false;
    for value in values.filter(|value| !value.is_empty()) {
        if value != "All" {
            return Err(ApiError::bad_request(format!(
                "dryRun: Unsupported value: {value:?}: supported values: \"All\""
            )));
        }
        dry_run = true;
    }
    Ok(dry_run)
}

/// The manager's name: the one given, else the user agent's program name.
fn field_manager(given: &str, user_agent: &str) -> Result<String, ApiError> {
    let errors = managed_fields::validate_manager(given);
    if !errors.is_empty() {
        return Err(ApiError::bad_request(errors.to_string()));
    }
    let name = if given.is_empty() { managed_fields::manager_from_user_agent(user_agent) } else { given };
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn read(query: &str, watch: bool) -> Result<ReadOptions, String> {
        ReadOptions::parse(&Query::parse(Some(query)), watch).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn reads_list_parameters() {
        let options =
            read("limit=5&resourceVersion=7&resourceVersionMatch=Exact&labelSelector=a%3Db", false).unwrap();
        assert_eq!((options.limit, options.version), (5, Version::At(7)));
        assert_eq!(options.label_selector, "a=b");
        assert!(read("resourceVersionMatch=Exact", false).unwrap_err().contains("unless resourceVersion"));
        assert!(read("limit=x", false).unwrap_err().contains("limit"));
        assert!(read("resourceVersion=x", false).unwrap_err().contains("resourceVersion"));
    }

    #[test]
    fn a_streaming_list_needs_bookmarks_and_a_match() {
        let query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=1";
        assert_eq!(read(query, true).unwrap().initial_events, Some(true));
        assert!(read("sendInitialEvents=true", true).unwrap_err().contains("NotOlderThan"));
        assert!(
            read("resourceVersionMatch=NotOlderThan", true).unwrap_err().contains("unless sendInitialEvents")
        );
    }

    #[test]
    fn a_manager_is_named_after_the_program() {
        let options = WriteOptions::parse(&Query::parse(None), "kubectl/v1.33.0 (linux/amd64)").unwrap();
        assert_eq!((options.field_manager.as_str(), options.dry_run), ("kubectl", false));
        let options =
            WriteOptions::parse(&Query::parse(Some("dryRun=All&fieldManager=m&force=true")), "x").unwrap();
        assert_eq!((options.field_manager.as_str(), options.dry_run, options.force), ("m", true, true));
        assert!(WriteOptions::parse(&Query::parse(Some("dryRun=Some")), "x").is_err());
    }
}
